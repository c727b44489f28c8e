package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

const (
	// keysAge is how long a key is trusted that its issuer may have withdrawn.
	keysAge = time.Hour
	// keysAfter is how often the keys are asked for at most: anyone can send a
	// token with a key that is not known.
	keysAfter   = 10 * time.Second
	keysTimeout = 10 * time.Second
	maxKeys     = 1 << 20 // bytes
)

// pushers is whom Pub/Sub may push as.
// https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions
type pushers struct {
	audience, issuer string
	emails           []string
	url              string
	fetcher          *keyFetcher

	mu   sync.Mutex
	keys *oidc.RemoteKeySet
	made time.Time
}

func newPushers(cfg Config, client *http.Client) (*pushers, error) {
	p := &pushers{audience: cfg.PubsubAudience, issuer: cfg.PubsubIssuer, url: cfg.PubsubJWKSURL, fetcher: &keyFetcher{client: client}}
	for _, email := range cfg.PubsubEmails {
		if email = strings.TrimSpace(email); email != "" {
			p.emails = append(p.emails, email)
		}
	}
	if len(p.emails) == 0 {
		return nil, errors.New("PUBSUB_AUDIENCE is set and PUBSUB_EMAILS is not: set it to the service accounts that push, separated by commas; anyone can have a token for an audience")
	}
	return p, nil
}

// check gives the account that pushes. The error is for the log.
func (p *pushers) check(r *http.Request) (email string, _ *problem, _ error) {
	raw, missing := bearer(r)
	if missing != nil {
		return "", missing, errors.New("no token")
	}
	keys := &keySet{remote: p.keySet()}
	// What the token says of its audience is looked at once it is verified.
	verifier := oidc.NewVerifier(p.issuer, keys, &oidc.Config{SkipClientIDCheck: true, SupportedSigningAlgs: []string{oidc.RS256}})
	token, err := verifier.Verify(r.Context(), raw)
	if err != nil {
		if unreachable := new(unreachableError); errors.As(keys.err, &unreachable) || r.Context().Err() != nil {
			return "", &problem{http.StatusServiceUnavailable, "the token cannot be verified now: its issuer's keys cannot be fetched", [2]string{"Retry-After", "1"}}, keys.err
		}
		return "", unauthorized(`Bearer error="invalid_token"`, "the token cannot be verified"), err
	}
	var claims struct {
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
	}
	forbidden := func(format string, args ...any) (string, *problem, error) {
		err := fmt.Errorf(format, args...)
		return "", &problem{status: http.StatusForbidden, text: "the token is good, but " + err.Error()}, err
	}
	switch err := token.Claims(&claims); {
	case err != nil:
		return "", unauthorized(`Bearer error="invalid_token"`, "the token cannot be verified"), err
	case !slices.Contains(token.Audience, p.audience):
		return forbidden("not for the audience of PUBSUB_AUDIENCE")
	case !claims.Verified:
		return forbidden("its email is not verified")
	case !slices.Contains(p.emails, claims.Email):
		return forbidden("not of an account of PUBSUB_EMAILS")
	}
	return claims.Email, nil, nil
}

// keySet gives the keys. It forgets them in time: the set itself asks again only
// for a key that it does not have.
func (p *pushers) keySet() *oidc.RemoteKeySet {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keys == nil || time.Since(p.made) > keysAge {
		ctx := oidc.ClientContext(context.Background(), &http.Client{Transport: p.fetcher, Timeout: keysTimeout})
		p.keys, p.made = oidc.NewRemoteKeySet(ctx, p.url), time.Now()
	}
	return p.keys
}

// keySet keeps the error of one verification: the verifier's own does not wrap
// it.
type keySet struct {
	remote *oidc.RemoteKeySet
	err    error
}

func (k *keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.remote.VerifySignature(ctx, jwt)
	k.err = err
	return payload, err
}

// unreachableError is that of keys that cannot be had.
type unreachableError struct{ err error }

func (e *unreachableError) Error() string { return "fetch keys: " + e.err.Error() }
func (e *unreachableError) Unwrap() error { return e.err }

// keyFetcher fetches a key set, as the transport of who verifies. It gives what
// it fetched before where that was a moment ago.
type keyFetcher struct {
	client *http.Client

	mu   sync.Mutex
	body []byte
	at   time.Time
}

func (f *keyFetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.body == nil || time.Since(f.at) > keysAfter {
		body, err := f.fetch(r)
		if err != nil {
			return nil, &unreachableError{err}
		}
		f.body, f.at = body, time.Now()
	}
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(f.body)), Request: r}, nil
}

func (f *keyFetcher) fetch(r *http.Request) ([]byte, error) {
	out := r.Clone(r.Context()) // a transport leaves the request as it is
	resp, err := f.client.Do(out)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeys))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", r.URL, resp.Status)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("%s: %w", r.URL, err)
	}
	return body, nil
}
