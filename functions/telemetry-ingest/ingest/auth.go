package ingest

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// senders is who may send, by the hash of a token.
type senders []sender

type sender struct {
	name string
	hash []byte // SHA-256 of the token
}

var (
	senderName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)
	tokenHash  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// What a shell makes of a variable that is not set.
	noTokenHash = hex.EncodeToString(sha256.New().Sum(nil))
)

// parseSenders reads INGEST_TOKENS. Its errors number an entry and quote
// nothing of it: it may hold a token where the hash should be.
func parseSenders(text string) (senders, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	var out senders
	entries := strings.Split(text, ",")
	for i, entry := range entries {
		name, hash, ok := strings.Cut(strings.TrimSpace(entry), ":")
		wrong := ""
		switch {
		case !ok:
			wrong = "has no colon"
		case !senderName.MatchString(name):
			wrong = "has a name that is not 1 to 64 letters, digits, dots, dashes, underscores and at signs"
		case !tokenHash.MatchString(hash):
			wrong = "has no hash of 64 hexadecimal digits in lower case"
		case hash == noTokenHash:
			wrong = "has the hash of an empty text, which is no token"
		}
		if wrong != "" {
			return nil, fmt.Errorf("INGEST_TOKENS: entry %d of %d %s: it is NAME:HASH, where HASH is what `printf %%s TOKEN | sha256sum` prints", i+1, len(entries), wrong)
		}
		raw, err := hex.DecodeString(hash)
		if err != nil {
			return nil, fmt.Errorf("INGEST_TOKENS: entry %d of %d: %w", i+1, len(entries), err)
		}
		for j, other := range out {
			if string(other.hash) == string(raw) && other.name != name {
				return nil, fmt.Errorf("INGEST_TOKENS: entries %d and %d of %d have the same token: give every sender its own", j+1, i+1, len(entries))
			}
		}
		out = append(out, sender{name, raw})
	}
	return out, nil
}

// Senders names who may send by what INGEST_TOKENS says, or says why it says
// nothing. Its errors quote nothing of it.
func Senders(tokens string) ([]string, error) {
	all, err := parseSenders(tokens)
	var names []string
	for _, s := range all {
		if !slices.Contains(names, s.name) {
			names = append(names, s.name)
		}
	}
	return names, err
}

// check gives the name of who sends.
func (s senders) check(r *http.Request) (string, *problem) {
	token, p := bearer(r)
	if p != nil {
		return "", p
	}
	sum := sha256.Sum256([]byte(token))
	name := ""
	// All are compared: the time tells nothing of which matched.
	for _, known := range s {
		if subtle.ConstantTimeCompare(known.hash, sum[:]) == 1 {
			name = known.name
		}
	}
	if name == "" {
		return "", unauthorized(`Bearer error="invalid_token"`, "the token is not known: its hash is not in INGEST_TOKENS")
	}
	return name, nil
}

// bearer gives the token of a request, RFC 6750 section 2.1.
func bearer(r *http.Request) (string, *problem) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", unauthorized("Bearer", "no token: send the header Authorization: Bearer TOKEN")
	}
	return token, nil
}

func unauthorized(challenge, text string) *problem {
	return &problem{http.StatusUnauthorized, text, [2]string{"WWW-Authenticate", challenge}}
}

// checkOpen lets through what this machine sends, where nobody has a token.
//
// On Knative every request comes from 127.0.0.1, where the queue-proxy of the
// pod runs. It is a httputil.ReverseProxy with a Director
// (knative.dev/serving/pkg/http.NewHeaderPruningReverseProxy): that sets
// X-Forwarded-For to whom it got the request from, after it took out what the
// sender named as hop by hop, so that no sender can keep it out. In front of it
// ForwardedShimHandler makes Forwarded of that header if it is there before,
// and the activator sets K-Proxy-Request. X-Real-Ip is what nginx is mostly
// told to set.
//
// A page of another site may have a name that leads to this machine (DNS
// rebinding): to the browser both are one site. The name is in Host.
func checkOpen(r *http.Request) *problem {
	const hint = ": set INGEST_TOKENS to NAME:HASH, where HASH is what `printf %s TOKEN | sha256sum` prints, and send the header Authorization: Bearer TOKEN"
	for _, header := range [...]string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "K-Proxy-Request"} {
		if _, ok := r.Header[header]; ok {
			return unauthorized("Bearer", "without tokens nothing is taken through a proxy (header "+header+")"+hint)
		}
	}
	if r.RemoteAddr != "" { // empty: a caller in this process
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil || !isLocal(host) {
			return unauthorized("Bearer", "without tokens only this machine may send"+hint)
		}
		if name := (&url.URL{Host: r.Host}).Hostname(); name != "localhost" && !isLocal(name) {
			return unauthorized("Bearer", "without tokens only requests to localhost are taken"+hint)
		}
	}
	// A browser on this machine shows pages of others.
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return &problem{status: http.StatusForbidden, text: err.Error() + hint}
	}
	return nil
}

// isLocal says whether a host is 127.0.0.1 or ::1. Other loopback addresses are
// not this machine's alone: the proxies of service meshes use some.
func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return ip.Equal(net.IPv4(127, 0, 0, 1)) || ip.Equal(net.IPv6loopback)
}
