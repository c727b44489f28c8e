package ingest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/telemesh/telemesh/functions/telemetry-ingest/ingest"
)

const (
	audience = "https://ingest.example/v1/pubsub"
	account  = "push@project.iam.gserviceaccount.com"
)

// issuer serves the keys it signs with.
type issuer struct {
	mu      sync.Mutex
	keys    map[string]*rsa.PrivateKey // by kid
	answer  func(http.ResponseWriter)  // instead of the keys
	fetched atomic.Int32
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	i.fetched.Add(1)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.answer != nil {
		i.answer(w)
		return
	}
	var set jose.JSONWebKeySet
	for kid, key := range i.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: "RS256", Use: "sig"})
	}
	if err := json.NewEncoder(w).Encode(set); err != nil {
		panic(err)
	}
}

// issue makes kid the issuer's only key.
func (i *issuer) issue(kid string, key *rsa.PrivateKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = map[string]*rsa.PrivateKey{kid: key}
}

func (i *issuer) fail(answer func(http.ResponseWriter)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

var newKey = func() func(*testing.T, int) *rsa.PrivateKey {
	var made [3]*rsa.PrivateKey // it takes long
	return func(t *testing.T, i int) *rsa.PrivateKey {
		t.Helper()
		if made[i] == nil {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			made[i] = key
		}
		return made[i]
	}
}()

// claims are those of a good token, changed.
func claims(change ...any) map[string]any {
	out := map[string]any{
		"iss": "https://accounts.google.com", "aud": audience, "sub": "1", "email": account, "email_verified": true,
		"iat": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	for i := 0; i < len(change); i += 2 {
		if out[change[i].(string)] = change[i+1]; change[i+1] == nil {
			delete(out, change[i].(string))
		}
	}
	return out
}

func sign(t *testing.T, algorithm jose.SignatureAlgorithm, key any, kid string, claims any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		options = options.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func pushConfig(url string) ingest.Config {
	cfg := quick
	cfg.MaxMessages, cfg.MaxBytes, cfg.MaxBodyBytes = 500, 1<<18, 1<<20
	cfg.PubsubAudience, cfg.PubsubEmails = audience, []string{"other@project.iam.gserviceaccount.com", " " + account}
	cfg.PubsubIssuer, cfg.PubsubJWKSURL = "https://accounts.google.com", url
	return cfg
}

const pushed = `{"message":{"attributes":{"deviceId":"d"},"data":"eyJhIjoxfQ==","messageId":"1"},"subscription":"projects/p/subscriptions/s"}`

// push sends a push with a token, from anywhere. The body is not read of one
// that is refused.
func push(t *testing.T, s http.Handler, token string, accepted bool) *httptest.ResponseRecorder {
	t.Helper()
	var body io.Reader = strings.NewReader(pushed)
	if !accepted {
		body = unread{t}
	}
	var headers []string
	if token != "" {
		headers = []string{"Authorization", "Bearer " + token}
	}
	return send(s, "/v1/pubsub", "127.0.0.1:1234", body, headers...)
}

func TestPushTokens(t *testing.T) {
	google := &issuer{}
	jwks := httptest.NewServer(google)
	defer jwks.Close()
	key := newKey(t, 0)
	google.issue("k1", key)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs256 := func(change ...any) string { return sign(t, jose.RS256, key, "k1", claims(change...)) }
	good := rs256()
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	unsigned := func(header string) string { return b64([]byte(header)) + "." + parts[1] + "." }
	modulus, err := json.Marshal(jose.JSONWebKey{Key: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, test := range []struct {
		name, token string
		want        int
	}{
		{"good", good, http.StatusAccepted},
		{"issuer without a scheme", rs256("iss", "accounts.google.com"), http.StatusAccepted},
		{"one of several audiences", rs256("aud", []string{"x", audience}), http.StatusAccepted},
		{"without a key's id", sign(t, jose.RS256, key, "", claims()), http.StatusAccepted},

		{"missing", "", http.StatusUnauthorized},
		{"no token", "hello", http.StatusUnauthorized},
		{"two parts", parts[0] + "." + parts[1], http.StatusUnauthorized},
		{"no claims", parts[0] + ".." + parts[2], http.StatusUnauthorized},
		{"claims that are no JSON", parts[0] + "." + b64([]byte("oops")) + "." + parts[2], http.StatusUnauthorized},
		{"claims of another", parts[0] + "." + strings.Split(rs256("sub", "2"), ".")[1] + "." + parts[2], http.StatusUnauthorized},
		{"no signature", parts[0] + "." + parts[1] + ".", http.StatusUnauthorized},
		{"alg none", unsigned(`{"alg":"none","kid":"k1","typ":"JWT"}`), http.StatusUnauthorized},
		{"alg none with a signature", unsigned(`{"alg":"none","kid":"k1"}`) + parts[2], http.StatusUnauthorized},
		{"alg None", unsigned(`{"alg":"None","kid":"k1"}`), http.StatusUnauthorized},
		{"no alg", unsigned(`{"kid":"k1"}`), http.StatusUnauthorized},
		{"HS256 with the public key", sign(t, jose.HS256, public, "k1", claims()), http.StatusUnauthorized},
		{"HS256 with the public key as it is served", sign(t, jose.HS256, modulus, "k1", claims()), http.StatusUnauthorized},
		{"RS512", sign(t, jose.RS512, key, "k1", claims()), http.StatusUnauthorized},
		{"PS256", sign(t, jose.PS256, key, "k1", claims()), http.StatusUnauthorized},
		{"ES256", sign(t, jose.ES256, elliptical, "k1", claims()), http.StatusUnauthorized},
		{"key of another under the id", sign(t, jose.RS256, newKey(t, 1), "k1", claims()), http.StatusUnauthorized},
		{"key of another", sign(t, jose.RS256, newKey(t, 1), "k2", claims()), http.StatusUnauthorized},
		{"key of another without an id", sign(t, jose.RS256, newKey(t, 1), "", claims()), http.StatusUnauthorized},
		{"issuer of another", rs256("iss", "https://evil.example"), http.StatusUnauthorized},
		{"issuer that begins the same", rs256("iss", "https://accounts.google.com.evil.example"), http.StatusUnauthorized},
		{"no issuer", rs256("iss", nil), http.StatusUnauthorized},
		{"expired", rs256("exp", now.Add(-time.Second).Unix()), http.StatusUnauthorized},
		{"no expiry", rs256("exp", nil), http.StatusUnauthorized},
		{"not yet valid", rs256("nbf", now.Add(time.Hour).Unix()), http.StatusUnauthorized},
		{"email that is no string", rs256("email", 7), http.StatusUnauthorized},
		{"verified that is no boolean", rs256("email_verified", "true"), http.StatusUnauthorized},

		{"other audience", rs256("aud", "https://ingest.example"), http.StatusForbidden},
		{"no audience", rs256("aud", nil), http.StatusForbidden},
		{"other account", rs256("email", "push@other.iam.gserviceaccount.com"), http.StatusForbidden},
		{"account in other case", rs256("email", strings.ToUpper(account)), http.StatusForbidden},
		{"no email", rs256("email", nil), http.StatusForbidden},
		{"empty email", rs256("email", ""), http.StatusForbidden},
		{"email not verified", rs256("email_verified", false), http.StatusForbidden},
		{"nothing said of the email", rs256("email_verified", nil), http.StatusForbidden},
		{"other account, expired", rs256("email", "x@y.z", "exp", now.Add(-time.Second).Unix()), http.StatusUnauthorized},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &broker{}
			cfg := pushConfig(jwks.URL)
			cfg.Tokens = "shelly:" + hashOf("s3cret")
			s, err := ingest.New(cfg, jwks.Client(), b.post, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			w := push(t, s, test.token, test.want == http.StatusAccepted)
			if w.Code != test.want {
				t.Fatalf("%d %s, want %d", w.Code, w.Body, test.want)
			}
			if (w.Header().Get("WWW-Authenticate") != "") != (test.want == http.StatusUnauthorized) {
				t.Errorf("challenge %q with %d", w.Header().Get("WWW-Authenticate"), w.Code)
			}
			if test.want != http.StatusAccepted {
				if len(b.events) != 0 {
					t.Errorf("%d events of a push that is refused", len(b.events))
				}
				if strings.Contains(w.Body.String(), "eyJ") {
					t.Errorf("the answer tells the token: %s", w.Body)
				}
				return
			}
			if m := b.messages(t); len(m) != 1 || string(m[0].Payload) != `{"a":1}` || m[0].Attributes["sender"] != account || m[0].Attributes["deviceId"] != "d" {
				t.Errorf("messages %v, want the one pushed, of the sender %s", m, account)
			}
		})
	}

	// A sender's token is none of Pub/Sub's, and the other way round.
	s, err := ingest.New(func() ingest.Config { c := pushConfig(jwks.URL); c.Tokens = "shelly:" + hashOf("s3cret"); return c }(), jwks.Client(), (&broker{}).post, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if w := push(t, s, "s3cret", false); w.Code != http.StatusUnauthorized {
		t.Errorf("a push with a sender's token: %d, want 401", w.Code)
	}
	if w := send(s, "/", "127.0.0.1:1", unread{t}, "Authorization", "Bearer "+good); w.Code != http.StatusUnauthorized {
		t.Errorf("a message with a token for pushes: %d, want 401", w.Code)
	}
}

// Without PUBSUB_AUDIENCE a push needs what everything else does.
func TestPushWithoutAudience(t *testing.T) {
	s := server(t, &broker{}, withTokens("a:"+hashOf("x")))
	if w := push(t, s, "", false); w.Code != http.StatusUnauthorized {
		t.Errorf("without a token: %d, want 401", w.Code)
	}
	if w := push(t, s, "x", true); w.Code != http.StatusAccepted {
		t.Errorf("with a sender's token: %d %s, want 202", w.Code, w.Body)
	}
	if w := push(t, server(t, &broker{}, quick), "", true); w.Code != http.StatusAccepted {
		t.Errorf("from this machine: %d %s, want 202", w.Code, w.Body)
	}
}

// Whether a token is good cannot be told while the keys are out of reach:
// Pub/Sub has to push again.
func TestKeysOutOfReach(t *testing.T) {
	google := &issuer{}
	google.issue("k1", newKey(t, 0))
	jwks := httptest.NewServer(google)
	b := &broker{}
	s, err := ingest.New(pushConfig(jwks.URL), jwks.Client(), b.post, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	good := sign(t, jose.RS256, newKey(t, 0), "k1", claims())
	for name, answer := range map[string]func(http.ResponseWriter){
		"failing":        func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"not found":      func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
		"no keys":        func(w http.ResponseWriter) { io.WriteString(w, "<html>") },
		"more than keys": func(w http.ResponseWriter) { io.WriteString(w, `{"keys":[`+strings.Repeat(" ", 2<<20)+`]}`) },
	} {
		google.fail(answer)
		if w := push(t, s, good, false); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d %s, want 503 with Retry-After", name, w.Code, w.Body)
		}
		// What can be told without keys is told.
		if w := push(t, s, sign(t, jose.RS256, newKey(t, 0), "k1", claims("exp", 1)), false); w.Code != http.StatusUnauthorized {
			t.Errorf("%s, expired: %d, want 401", name, w.Code)
		}
	}
	google.fail(nil)
	w := push(t, s, good, true)
	// The key set answers before it has forgotten that it failed, and to who asks
	// that soon again the same.
	for range 1000 {
		if w.Code != http.StatusServiceUnavailable {
			break
		}
		w = push(t, s, good, true)
	}
	if w.Code != http.StatusAccepted {
		t.Errorf("in reach again: %d %s, want 202", w.Code, w.Body)
	}
	jwks.Close()
	if w := push(t, s, good, true); w.Code != http.StatusAccepted {
		t.Errorf("a known key, its server gone: %d %s, want 202", w.Code, w.Body)
	}
	s, err = ingest.New(pushConfig(jwks.URL), jwks.Client(), b.post, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if w := push(t, s, good, false); w.Code != http.StatusServiceUnavailable {
		t.Errorf("server gone: %d, want 503", w.Code)
	}
}

// inBubble serves requests in the goroutine of the client, where time is that
// of a synctest bubble.
type inBubble struct{ handler http.Handler }

func (b inBubble) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		return nil, errors.New("a body where none is expected")
	}
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	return w.Result(), nil
}

// Keys rotate: one that is not known is asked for, but not for every token of
// who makes up keys. One that its issuer took back is forgotten in time.
func TestKeysRotate(t *testing.T) {
	old, new, forged := newKey(t, 0), newKey(t, 1), newKey(t, 2)
	synctest.Test(t, func(t *testing.T) {
		google := &issuer{}
		google.issue("old", old)
		b := &broker{}
		s, err := ingest.New(pushConfig("https://issuer.example/keys"), &http.Client{Transport: inBubble{google}}, b.post, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		try := func(step string, key *rsa.PrivateKey, kid string, want int, fetched int32) {
			t.Helper()
			if w := push(t, s, sign(t, jose.RS256, key, kid, claims()), want == http.StatusAccepted); w.Code != want {
				t.Errorf("%s: %d %s, want %d", step, w.Code, w.Body, want)
			}
			if got := google.fetched.Load(); got != fetched {
				t.Errorf("%s: the keys were fetched %d times by now, want %d", step, got, fetched)
			}
		}
		const keysAfter = 11 * time.Second
		try("first", old, "old", http.StatusAccepted, 1)
		try("second", old, "old", http.StatusAccepted, 1)
		for i := range 100 {
			try("made-up keys", forged, fmt.Sprint("k", i), http.StatusUnauthorized, 1)
		}
		time.Sleep(keysAfter)
		google.issue("new", new)
		try("new key", new, "new", http.StatusAccepted, 2)
		try("made-up key", forged, "new", http.StatusUnauthorized, 2)
		google.issue("old", old)
		time.Sleep(59 * time.Minute)
		try("a key that was taken back of late", new, "new", http.StatusAccepted, 2)
		time.Sleep(time.Minute)
		try("a key that was taken back long ago", new, "new", http.StatusUnauthorized, 3)
		try("the key that is good", old, "old", http.StatusAccepted, 3)
	})
}
