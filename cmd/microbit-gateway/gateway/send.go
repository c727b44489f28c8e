package gateway

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// sender posts readings to an ingest endpoint.
type sender struct {
	url       string
	tokenFile string
	client    *http.Client
}

// postTimeout bounds one attempt, for a slow line.
const postTimeout = time.Minute

func newSender(address, tokenFile string, log *slog.Logger) (*sender, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ingest: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("ingest %q: want http://HOST:PORT/ or https://HOST/", address)
	case u.User != nil:
		return nil, errors.New("ingest: a token belongs in a file, not in the address")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && tokenFile != "" && u.Hostname() != "localhost" && !ip.IsLoopback() {
		log.Warn("the token is sent by plain http: who is on the way reads it", "ingest", address)
	}
	s := &sender{url: address, tokenFile: tokenFile, client: &http.Client{
		Timeout: postTimeout,
		// Where a network asks for a log-in, everything is sent elsewhere; and a
		// token is for one address.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	_, err = s.token()
	return s, err
}

// token reads the token anew, so that one which is changed is taken at once.
func (s *sender) token() (string, error) {
	if s.tokenFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(s.tokenFile)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("token: %s does not hold one token", s.tokenFile)
	}
	return token, nil
}

// contentError is that of a batch whose content is refused; nothing of it is
// taken.
type contentError struct{ text string }

func (e contentError) Error() string { return e.text }

// later is an error after which the same is to be sent again, and not before.
type later struct {
	error
	after time.Duration
}

func (l later) Unwrap() error { return l.error }

// maxRetryAfter bounds what a server may ask for.
const maxRetryAfter = time.Hour

// post sends a batch. Without an error all of it is taken or kept: refused has
// why, by the place in the batch, of those that are kept as rejected. A
// contentError is for what the batch holds; any other is for the network, the
// server or how it is asked.
func (s *sender) post(ctx context.Context, batch []outgoing) (refused map[int]string, err error) {
	token, err := s.token()
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	if _, err := zip.Write(body(batch)); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, &packed)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", event.ApplicationCloudEventsBatchJSON)
	req.Header.Set("Content-Encoding", "gzip")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", s.url, err)
	}
	return judge(resp, said, len(batch), s.url)
}

// judge says what an answer to n events means.
func judge(resp *http.Response, said []byte, n int, url string) (refused map[int]string, err error) {
	var answer struct {
		Accepted *int `json:"accepted"`
		Refused  int  `json:"refused"`
		Causes   []struct {
			Event int    `json:"event"`
			Cause string `json:"cause"`
		} `json:"causes"`
	}
	judged := json.Unmarshal(said, &answer) == nil && answer.Accepted != nil
	status := resp.StatusCode
	says := fmt.Errorf("%s answers %s: %s", url, resp.Status, brief(said))
	switch {
	case judged && *answer.Accepted+answer.Refused == n && (status/100 == 2 || status == http.StatusBadRequest):
		refused = map[int]string{}
		for _, c := range answer.Causes {
			refused[c.Event] = c.Cause
		}
		if len(refused) < answer.Refused { // of many it names the first: fewer are asked for
			return nil, contentError{says.Error()}
		}
		return refused, nil
	case status/100 == 2: // such as the page where one logs in to a network
		return nil, fmt.Errorf("%w: it does not say that it took %d readings; is it an ingest endpoint?", says, n)
	case status/100 == 3:
		return nil, fmt.Errorf("%w: it leads to %s, and is not followed", says, resp.Header.Get("Location"))
	case status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusUnprocessableEntity:
		return nil, contentError{says.Error()}
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return nil, fmt.Errorf("%w: look at --token-file", says)
	}
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil { // a date, or nothing
		seconds = 0
	}
	return nil, later{says, min(time.Duration(max(seconds, 0))*time.Second, maxRetryAfter)}
}

// brief is the beginning of an answer, on one line.
func brief(said []byte) string {
	text := strings.Join(strings.Fields(string(said[:min(len(said), 300)])), " ")
	return strings.ToValidUTF8(text, "")
}
