package openlineage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/telemesh/telemesh/internal/function"
)

// Endpoint is where a server takes events, as OpenLineage's clients make it of the
// same settings: of a URL and a path, api/v1/lineage where none is given.
func Endpoint(base, path string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("%q is no http(s) URL of a server", base)
	}
	if path == "" {
		path = "api/v1/lineage"
	}
	return strings.TrimSuffix(base, "/") + "/" + strings.TrimPrefix(path, "/"), nil
}

const (
	attempts = 5                // after the first
	patience = 10 * time.Second // of an attempt
)

// Client posts events to a server, each again where it is too busy or does not
// answer. Whoever it meets twice are the same event.
type Client struct {
	endpoint, key string
	http          *retryablehttp.Client
}

// NewClient is for an Endpoint, with an API key; empty: it asks for none.
func NewClient(endpoint, key string) *Client {
	c := retryablehttp.NewClient()
	c.RetryMax, c.RetryWaitMin, c.RetryWaitMax, c.Logger = attempts, 200*time.Millisecond, 5*time.Second, nil
	c.HTTPClient.Timeout = patience
	c.ErrorHandler = retryablehttp.PassthroughErrorHandler
	return &Client{endpoint, key, c}
}

// Send posts an event.
func (c *Client) Send(ctx context.Context, e Event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("post %s of %s: %w", e.Type, e.Job.Name, function.StatusError(resp))
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
