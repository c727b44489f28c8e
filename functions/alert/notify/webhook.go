package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// refused is an error that sending again does not cure: who was asked says no.
type refused struct{ error }

// later is one that passes, not before some time.
type later struct {
	error
	after time.Duration
}

// hooks posts to webhooks.
type hooks struct {
	client *http.Client
	portal string
}

func newHooks(cfg Config) *hooks {
	dialer := &net.Dialer{}
	if !cfg.Private {
		dialer.Control = public
	}
	return &hooks{portal: cfg.Portal, client: &http.Client{
		// Of its own, without a proxy: the address that is looked at is the one that is
		// reached. Each message has a connection: there are few.
		Transport:     &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Networks that are no part of the internet and that netip knows no name of.
var inside = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // shared by carriers, and pods of some clusters: RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), // IPv4 in IPv6: RFC 6052
	netip.MustParsePrefix("2002::/16"),
}

// public refuses to connect to what is no address of the internet. It sees the address
// that a name has led to.
func public(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().Unmap()
	no := !ip.IsGlobalUnicast() || ip.IsPrivate()
	for _, net := range inside {
		no = no || net.Contains(ip)
	}
	if no {
		return refused{fmt.Errorf("%s is in a private network: ALERT_ALLOW_PRIVATE=true lets webhooks be there", ip)}
	}
	return nil
}

// maxWait is the longest that a receiver's Retry-After is waited for.
const maxWait = time.Hour

// post sends a message to a route's webhook.
func (h *hooks) post(ctx context.Context, r *Route, id string, m *message, now time.Time) error {
	body, err := h.body(r, m)
	if err != nil {
		return refused{err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Webhook.URL, bytes.NewReader(body))
	if err != nil {
		return refused{errors.New("its url is none")}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "telemesh-alert")
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	if r.Webhook.signer != nil {
		signature, err := r.Webhook.signer.Sign(id, now, body)
		if err != nil {
			return refused{err}
		}
		req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
		req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	// What it says may be what an operator needs, and nothing more: a line.
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	err = errors.New(strings.TrimSpace(resp.Status + " " + oneLine(strings.ToValidUTF8(string(text), ""))))
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code >= 300 && code < 400:
		return refused{fmt.Errorf("%w: redirects are not followed: name the address that it leads to", err)}
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return later{err, retryAfter(resp.Header.Get("Retry-After"), now)}
	}
	return refused{err}
}

// withoutURL leaves out the address, which may be a secret.
func withoutURL(err error) error {
	var no refused
	if errors.As(err, &no) {
		return no
	}
	var at *url.Error
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// retryAfter reads the header: seconds or a date (RFC 9110, section 10.2.3).
func retryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.Atoi(value); err == nil {
		d = time.Duration(min(seconds, int(maxWait.Seconds()))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxWait)
}

// body is what the webhook gets: the same each time that the message is sent.
func (h *hooks) body(r *Route, m *message) ([]byte, error) {
	if r.Webhook.Format == "slack" {
		// https://docs.slack.dev/messaging/formatting-message-text: these three, and no more.
		escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
		return json.Marshal(map[string]string{"text": escape.Replace(m.text(r.zone, h.portal))})
	}
	return json.Marshal(struct {
		*message
		Text string `json:"text"`
		Link string `json:"link,omitempty"`
	}{m, m.text(r.zone, h.portal), m.Data.link(r.zone, h.portal)})
}
