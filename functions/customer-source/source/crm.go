package source

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/sheet"
)

// Bounds of what is read of a CRM: some 100,000 customers. The answers are held
// in memory, to be asked for by their ETag.
const (
	maxAnswers = 4 * sheet.MaxBytes
	maxPages   = 1000
)

// A tick comes each minute: it ends before the next one.
const (
	tickTimeout = 50 * time.Second
	readTimeout = 40 * time.Second // all pages, with the pauses
	askTimeout  = 15 * time.Second // one request
	attempts    = 5                // of one request
	firstPause  = time.Second      // doubled each time
)

// crm is where the customers come from.
type crm struct {
	client  *http.Client
	url     *url.URL // without user and password; nil: a file
	name    string   // address without what may be secret, or path
	header  http.Header
	secrets []string // not to be told to anybody
	mapping *Mapping // nil: it is CSV
	log     *slog.Logger

	answers map[string]*answer // of the last time all was read, by address
	last    []record           // what settled gave last
	until   time.Time          // the CRM asked not to be asked before
}

// answer is a body with what came before it.
type answer struct {
	header http.Header
	body   []byte
	ends   bool // by more than the connection's end
}

// condition makes a request one for what is not like a any more, if that can be
// asked.
func (a *answer) condition(request http.Header) bool {
	if a == nil {
		return false
	}
	if tag := a.header.Get("ETag"); tag != "" {
		request.Set("If-None-Match", tag)
		return true
	}
	// A date is exact to the second: what was changed in the second in which it
	// was read could change again unseen (RFC 9110, section 8.8.2.2).
	changed, err := http.ParseTime(a.header.Get("Last-Modified"))
	if err != nil {
		return false
	}
	read, err := http.ParseTime(a.header.Get("Date"))
	if err != nil || read.Sub(changed) < time.Second {
		return false
	}
	request.Set("If-Modified-Since", a.header.Get("Last-Modified"))
	return true
}

func newCRM(cfg *Config, ports function.Ports) (*crm, error) {
	c := &crm{name: strings.TrimSpace(cfg.URL), header: http.Header{}, log: ports.Log}
	u, err := url.Parse(c.name)
	switch {
	case err != nil && strings.Contains(c.name, "://"):
		return nil, errors.New("CRM_URL is no URL") // the error quotes it, with what is secret
	case err != nil || u.Scheme != "http" && u.Scheme != "https":
		if !strings.HasSuffix(strings.ToLower(c.name), ".csv") {
			return nil, errors.New("CRM_URL is neither http://… or https://… nor the path of a .csv file")
		}
		return c, nil
	case u.Host == "":
		return nil, errors.New("CRM_URL has no host")
	}
	// Some take the key for the user.
	if user := u.User; user != nil {
		password, _ := user.Password()
		encoded := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
		c.secrets = append(c.secrets, user.String(), encoded, user.Username(), password)
		c.header.Set("Authorization", "Basic "+encoded)
		u.User = nil
	}
	// A Secret made of a file ends in a line break.
	if token := strings.TrimSpace(cfg.Token); token != "" {
		c.secrets = append(c.secrets, token)
		c.header.Set("Authorization", "Bearer "+token)
	}
	if key := strings.TrimSpace(cfg.APIKey); key != "" {
		if !httpguts.ValidHeaderFieldName(cfg.APIKeyHeader) {
			return nil, fmt.Errorf("CRM_API_KEY_HEADER %q is no name of a header", cfg.APIKeyHeader)
		}
		c.secrets = append(c.secrets, key)
		c.header.Set(cfg.APIKeyHeader, key)
	}
	for name, values := range c.header {
		if !httpguts.ValidHeaderFieldValue(values[0]) {
			return nil, fmt.Errorf("what CRM_URL, CRM_TOKEN or CRM_API_KEY say cannot be sent as header %s", name)
		}
	}
	for _, values := range u.Query() {
		// A key is longer than 5 bytes, a page's size is not.
		c.secrets = append(c.secrets, slices.DeleteFunc(values, func(s string) bool { return len(s) < 6 })...)
	}
	for _, s := range c.secrets {
		c.secrets = append(c.secrets, url.QueryEscape(s))
	}
	c.secrets = slices.DeleteFunc(c.secrets, func(s string) bool { return s == "" })
	// One that is part of another would leave the rest of it.
	slices.SortFunc(c.secrets, func(a, b string) int { return len(b) - len(a) })
	u.Fragment = ""
	c.url, c.name = u, u.Scheme+"://"+u.Host+u.Path
	if strings.HasSuffix(strings.ToLower(u.Path), ".csv") {
		c.header.Set("Accept", "text/csv")
	} else {
		c.header.Set("Accept", "application/json")
		if c.mapping, err = ReadMapping(cfg.Mapping); err != nil {
			return nil, fmt.Errorf("CRM_MAPPING: %w", err)
		}
	}
	client := *ports.Client
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		switch {
		case !samePlace(r.URL, via[0].URL):
			return sheet.Faultf("it redirects to %s://%s: what is meant for %s is not sent there", r.URL.Scheme, r.URL.Host, via[0].URL.Host)
		case len(via) == 5:
			return sheet.Faultf("it redirects again and again")
		}
		return nil
	}
	c.client = &client
	return c, nil
}

// grid gives the customers as rows.
func (c *crm) grid(ctx context.Context) (sheet.Grid, error) {
	if c.mapping != nil {
		records, err := c.settled(ctx)
		return grid(c.name, records), err
	}
	text, err := c.csv(ctx)
	if err != nil {
		return sheet.Grid{}, err
	}
	return sheet.ReadCSV(c.name, bytes.NewReader(text))
}

// csv gives the file.
func (c *crm) csv(ctx context.Context) ([]byte, error) {
	if c.url != nil {
		a, err := c.get(ctx, c.url)
		if err != nil {
			return nil, err
		}
		// One that may have been cut off counts if it is the same again. JSON that is
		// cut off is no JSON.
		if !a.ends && a != c.answers[c.url.String()] {
			c.answers = nil
			again, err := c.get(ctx, c.url)
			if err != nil {
				return nil, err
			}
			if !bytes.Equal(a.body, again.body) {
				return nil, fmt.Errorf("read %s: its answers do not say where they end, and two in a row differ", c.name)
			}
		}
		c.answers = map[string]*answer{c.url.String(): a}
		return a.body, nil
	}
	return sheet.ReadFile(ctx, c.name)
}

// settled gives what all pages say. Pages are asked for one after the other: a
// customer that is deleted meanwhile on an earlier one draws others past the
// reader. Those would look deleted, so that what is not as it was the last time
// has to be the same when it is read again.
func (c *crm) settled(ctx context.Context) ([]record, error) {
	all, pages, err := c.records(ctx)
	if err == nil && pages > 1 && !slices.Equal(all, c.last) {
		var again []record
		if again, _, err = c.records(ctx); err == nil && !slices.Equal(all, again) {
			err = fmt.Errorf("read %s: its customers changed while the %d pages were read", c.name, pages)
		}
	}
	if err != nil {
		return nil, err
	}
	c.last = all
	return all, nil
}

// records gives what all pages say, and how many there are. One that cannot be
// read fails all: what stood on it would look deleted.
func (c *crm) records(ctx context.Context) (all []record, pages int, err error) {
	answers, size := map[string]*answer{}, 0
	var last []record
	for at := c.mapping.first(c.url); at != nil; {
		address := at.String()
		if pages++; pages > maxPages {
			return nil, 0, sheet.Faultf("there are more than %d pages: let each hold more customers (paging of mapping %s)", maxPages, c.mapping.name)
		}
		if answers[address] != nil {
			return nil, 0, sheet.Faultf("page %d is one that came before: the links to the next page lead in a circle", pages)
		}
		a, err := c.get(ctx, at)
		if err != nil {
			return nil, 0, fmt.Errorf("page %d: %w", pages, err)
		}
		answers[address] = a
		if size += len(a.body); size > maxAnswers {
			return nil, 0, sheet.Faultf("page %d: the pages have more than %d bytes", pages, maxAnswers)
		}
		p, err := c.mapping.read(at, a.header, a.body)
		if err != nil {
			return nil, 0, sheet.Faultf("page %d: %v", pages, err)
		}
		if len(p.records) > 0 && slices.Equal(p.records, last) {
			return nil, 0, sheet.Faultf("page %d is the one before it again: the CRM does not take the parameters of mapping %s", pages, c.mapping.name)
		}
		all, last, at = append(all, p.records...), p.records, p.next
	}
	c.answers = answers
	return all, pages, nil
}

// get asks for u, several times while the CRM says that it cannot answer now.
// What it asks to wait for counts for later ticks, too.
func (c *crm) get(ctx context.Context, u *url.URL) (*answer, error) {
	if wait := time.Until(c.until); wait > 0 {
		return nil, fmt.Errorf("read %s: it asked not to be asked before %s", c.name, c.until.UTC().Format(time.RFC3339))
	}
	for n, pause := 1, firstPause; ; n, pause = n+1, 2*pause {
		a, wait, err := c.ask(ctx, u)
		if err == nil || errors.As(err, new(sheet.Fault)) {
			return a, err
		}
		c.until = time.Now().Add(wait)
		wait = max(wait, pause)
		if deadline, ok := ctx.Deadline(); n == attempts || ok && time.Until(deadline) < wait {
			return nil, fmt.Errorf("read %s: %w (asked %d times, the next time in %s)", c.name, err, n, wait)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read %s: %w", c.name, err)
		case <-time.After(wait):
		}
	}
}

// ask asks for u once; wait is what the CRM asks to wait for.
func (c *crm) ask(ctx context.Context, u *url.URL) (a *answer, wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 0, sheet.Faultf("the address cannot be asked for")
	}
	req.Header = c.header.Clone()
	last := c.answers[u.String()]
	asked := last.condition(req.Header)
	resp, err := c.client.Do(req)
	if err != nil {
		if f := (sheet.Fault{}); errors.As(err, &f) {
			return nil, 0, f
		}
		return nil, 0, errors.New(c.redact(sheet.WithoutURL(err).Error()))
	}
	defer resp.Body.Close()
	switch status := resp.StatusCode; {
	case status == http.StatusNotModified && asked:
		return last, 0, nil
	case status == http.StatusOK:
	default:
		// What it says may differ each time, by the id of a request.
		said := function.StatusError(resp)
		c.log.Warn("CRM not read", "address", c.name, "error", c.redact(said.Error()))
		answered := strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
		switch {
		case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500:
			return nil, sheet.RetryAfter(resp.Header), errors.New("it answers " + answered)
		case status == http.StatusUnauthorized, status == http.StatusForbidden:
			return nil, 0, sheet.Faultf("it answers %s: see to CRM_TOKEN or CRM_API_KEY, and to what they may read", answered)
		}
		return nil, 0, sheet.Faultf("it answers %s: see to CRM_URL", answered)
	}
	body, err := sheet.ReadAll(resp.Body)
	if errors.As(err, new(sheet.Fault)) {
		return nil, 0, err
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read its answer: %s", c.redact(err.Error()))
	}
	return &answer{resp.Header, body, sheet.Ends(resp)}, 0, nil
}

// redact takes what is secret out of a text that others wrote.
func (c *crm) redact(text string) string {
	for _, s := range c.secrets {
		text = strings.ReplaceAll(text, s, "…")
	}
	return text
}
