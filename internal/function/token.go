package function

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// tokenFolder is where a Service mounts the tokens of its ServiceAccount: the
// one for the Broker NAME of NAMESPACE at NAMESPACE/NAME, with the audience by
// which Knative knows that Broker.
const tokenFolder = "/oidc"

// tokenSender shows the Brokers at an ingress who sends. A request to one of
// them, /NAMESPACE/NAME, gets the token that is mounted for it; where none is,
// OIDC is off or the account may not send there. No other request gets one,
// nor does one that leads elsewhere from there: http.Client sends each through
// here, without the header that the one before was given.
type tokenSender struct {
	scheme, host string // of the ingress
	tokens       fs.FS
	next         http.RoundTripper
}

// withTokens is next, or where sink is the address of a Broker, or of an
// ingress, a tokenSender before it.
func withTokens(next http.RoundTripper, sink, folder string) (http.RoundTripper, error) {
	if sink == "" {
		return next, nil
	}
	u, err := url.Parse(sink)
	if err != nil {
		return nil, fmt.Errorf("K_SINK: %w", err)
	}
	return &tokenSender{u.Scheme, u.Host, os.DirFS(folder), next}, nil
}

func (s *tokenSender) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != s.scheme || r.URL.Host != s.host {
		return s.next.RoundTrip(r)
	}
	broker := strings.TrimPrefix(r.URL.Path, "/")
	if strings.Count(broker, "/") != 1 || !fs.ValidPath(broker) {
		return s.next.RoundTrip(r)
	}
	// Kubernetes puts another one there before the last one ends: one that is
	// held would end one day.
	token, err := fs.ReadFile(s.tokens, broker)
	if errors.Is(err, fs.ErrNotExist) {
		return s.next.RoundTrip(r)
	}
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, fmt.Errorf("token for Broker %s: %w", broker, err)
	}
	with := r.Clone(r.Context()) // a RoundTripper must not change its request
	with.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	return s.next.RoundTrip(with)
}
