package ingest_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/functions/telemetry-ingest/ingest"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// unread fails the test when somebody reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body is read of a request that nobody may send")
	return 0, io.EOF
}

// send posts a message with headers from an address.
func send(s http.Handler, target, from string, body io.Reader, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, target, body)
	r.RemoteAddr, r.Host = from, "localhost:8082"
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header[http.CanonicalHeaderKey(headers[i])] = []string{headers[i+1]}
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestOpenToThisMachineAlone(t *testing.T) {
	const body = `{"a":1}`
	for _, test := range []struct {
		from    string
		headers []string
		want    int
	}{
		{"127.0.0.1:1234", nil, http.StatusAccepted},
		{"127.8.9.10:1234", nil, http.StatusUnauthorized}, // a service mesh's, perhaps
		{"[::1]:1234", nil, http.StatusAccepted},
		{"[::ffff:127.0.0.1]:1234", nil, http.StatusAccepted},
		{"", nil, http.StatusAccepted}, // in process
		{"192.0.2.1:1234", nil, http.StatusUnauthorized},
		{"[2001:db8::1]:1234", nil, http.StatusUnauthorized},
		{"0.0.0.0:1234", nil, http.StatusUnauthorized},
		{"127.0.0.1", nil, http.StatusUnauthorized},
		{"@", nil, http.StatusUnauthorized},
		{"localhost:1234", nil, http.StatusUnauthorized},
		{"127.0.0.1:1234", []string{"X-Forwarded-For", "127.0.0.1"}, http.StatusUnauthorized},
		{"127.0.0.1:1234", []string{"X-Forwarded-For", ""}, http.StatusUnauthorized},
		{"127.0.0.1:1234", []string{"Forwarded", "for=127.0.0.1"}, http.StatusUnauthorized},
		{"127.0.0.1:1234", []string{"X-Real-IP", "127.0.0.1"}, http.StatusUnauthorized},
		{"127.0.0.1:1234", []string{"K-Proxy-Request", "activator"}, http.StatusUnauthorized},
		{"", []string{"X-Forwarded-For", "127.0.0.1"}, http.StatusUnauthorized},
		{"127.0.0.1:1234", []string{"Authorization", "Bearer x"}, http.StatusAccepted},
		{"127.0.0.1:1234", []string{"Host", "evil.example", "Origin", "http://evil.example", "Sec-Fetch-Site", "same-origin"}, http.StatusUnauthorized},
		{"127.0.0.1:1234", []string{"Host", "127.0.0.1:8082"}, http.StatusAccepted},
		{"127.0.0.1:1234", []string{"Host", "[::1]"}, http.StatusAccepted},
		{"127.0.0.1:1234", []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{"127.0.0.1:1234", []string{"Origin", "https://evil.example"}, http.StatusForbidden},
	} {
		b := &broker{}
		var in io.Reader = strings.NewReader(body)
		if test.want != http.StatusAccepted {
			in = unread{t}
		}
		w := send(server(t, b, quick), "/", test.from, in, test.headers...)
		if w.Code != test.want || len(b.events) != map[bool]int{true: 1}[test.want == http.StatusAccepted] {
			t.Errorf("from %q with %v: %d %s, %d events, want %d", test.from, test.headers, w.Code, w.Body, len(b.events), test.want)
		}
		if test.want == http.StatusUnauthorized && (w.Header().Get("WWW-Authenticate") != "Bearer" || !strings.Contains(w.Body.String(), "INGEST_TOKENS")) {
			t.Errorf("from %q with %v: challenge %q, %s, want Bearer and what to set", test.from, test.headers, w.Header().Get("WWW-Authenticate"), w.Body)
		}
	}
}

func TestNothingIsTakenOnKnativeWithoutTokens(t *testing.T) {
	cfg := quick
	cfg.Service = "telemetry-ingest"
	b := &broker{}
	if w := send(server(t, b, cfg), "/", "127.0.0.1:1234", unread{t}); w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), "INGEST_TOKENS") {
		t.Errorf("%d %s, want 401 and what to set", w.Code, w.Body)
	}
}

// The queue-proxy of a pod connects from 127.0.0.1. Whatever a sender does to
// look as if it were not there, a request through it is not this machine's.
func TestQueueProxyIsNotThisMachine(t *testing.T) {
	b := &broker{}
	pod := httptest.NewServer(server(t, b, quick))
	defer pod.Close()
	target, err := url.Parse(pod.URL)
	if err != nil {
		t.Fatal(err)
	}
	// As knative.dev/serving/pkg/http.NewHeaderPruningReverseProxy makes it.
	proxy := httptest.NewServer(&httputil.ReverseProxy{Director: func(r *http.Request) {
		r.URL.Scheme, r.URL.Host = "http", target.Host
	}})
	defer proxy.Close()
	for _, headers := range []http.Header{
		{}, {"Connection": {"X-Forwarded-For"}, "X-Forwarded-For": {"127.0.0.1"}}, {"X-Forwarded-For": {""}},
		{"Connection": {"close, x-forwarded-for, forwarded, k-proxy-request"}},
	} {
		r, err := http.NewRequest(http.MethodPost, proxy.URL, strings.NewReader(`{"a":1}`))
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range headers {
			r.Header[name] = values
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || len(b.events) != 0 {
			t.Errorf("with %v: %s and %d events, want 401 and none", headers, resp.Status, len(b.events))
		}
	}
	resp, err := http.Post(pod.URL, "application/json", strings.NewReader(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Errorf("directly: %s, want 202: the test shows nothing else", resp.Status)
	}
}

func withTokens(tokens string) ingest.Config {
	cfg := quick
	cfg.Tokens = tokens
	return cfg
}

func TestTokens(t *testing.T) {
	cfg := withTokens(fmt.Sprintf(" shelly:%s, tts:%s,shelly:%s\n", hashOf("s3cret"), hashOf("other"), hashOf("new-s3cret")))
	for _, test := range []struct {
		from, authorization string
		status              int
		challenge, sender   string
	}{
		{"192.0.2.1:1234", "Bearer s3cret", http.StatusAccepted, "", "shelly"},
		{"192.0.2.1:1234", "bearer  new-s3cret ", http.StatusAccepted, "", "shelly"},
		{"127.0.0.1:1234", "Bearer other", http.StatusAccepted, "", "tts"},
		{"", "", http.StatusAccepted, "", ""}, // in process
		{"192.0.2.1:1234", "", http.StatusUnauthorized, "Bearer", ""},
		{"127.0.0.1:1234", "", http.StatusUnauthorized, "Bearer", ""},
		{"127.0.0.1:1234", "Bearer", http.StatusUnauthorized, "Bearer", ""},
		{"127.0.0.1:1234", "Bearer ", http.StatusUnauthorized, "Bearer", ""},
		{"127.0.0.1:1234", "Basic czNjcmV0", http.StatusUnauthorized, "Bearer", ""},
		{"127.0.0.1:1234", "s3cret", http.StatusUnauthorized, "Bearer", ""},
		{"127.0.0.1:1234", "Bearer S3cret", http.StatusUnauthorized, `Bearer error="invalid_token"`, ""},
		{"127.0.0.1:1234", "Bearer s3cret,other", http.StatusUnauthorized, `Bearer error="invalid_token"`, ""},
		// Who can read the hashes cannot send.
		{"127.0.0.1:1234", "Bearer " + hashOf("s3cret"), http.StatusUnauthorized, `Bearer error="invalid_token"`, ""},
	} {
		b := &broker{}
		var headers []string
		if test.authorization != "" {
			headers = []string{"Authorization", test.authorization}
		}
		var body io.Reader = strings.NewReader(`{"a":1}`)
		if test.status != http.StatusAccepted {
			body = unread{t}
		}
		w := send(server(t, b, cfg), "/", test.from, body, headers...)
		if w.Code != test.status || w.Header().Get("WWW-Authenticate") != test.challenge {
			t.Errorf("%q: %d %s, challenge %q, want %d %q", test.authorization, w.Code, w.Body, w.Header().Get("WWW-Authenticate"), test.status, test.challenge)
			continue
		}
		if strings.Contains(w.Body.String(), "s3cret") {
			t.Errorf("%q: the answer tells the token: %s", test.authorization, w.Body)
		}
		if test.status == http.StatusAccepted {
			if m := b.messages(t); len(m) != 1 || m[0].Attributes["sender"] != test.sender {
				t.Errorf("%q: messages %v, want one of the sender %q", test.authorization, m, test.sender)
			}
		}
	}
}

// The sender is whose token it was, whatever anyone writes, also of what is
// refused; without a token there is none.
func TestNobodyElseNamesTheSender(t *testing.T) {
	event := []string{"Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "/s", "Ce-Type", "t", "Ce-Sender", "evil"}
	push := `{"message":{"attributes":{"sender":"evil"},"data":"e30=","messageId":"1"},"subscription":"s"}`
	for _, test := range []struct {
		name, target, contentType, body string
		headers                         []string
	}{
		{"query", "/?sender=evil", "application/json", `{}`, nil},
		{"binary CloudEvent", "/", "application/json", `{}`, event},
		{"structured CloudEvent", "/", "application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/s","type":"t","sender":"evil"}`, nil},
		{"batched CloudEvent", "/", "application/cloudevents-batch+json", `[{"specversion":"1.0","id":"1","source":"/s","type":"t","sender":"evil"}]`, nil},
		{"Pub/Sub", "/v1/pubsub", "application/json", push, nil},
		{"unwrapped Pub/Sub", "/v1/pubsub", "application/json", `{}`, []string{"X-Goog-Pubsub-Message-Id", "1", "Sender", "evil"}},
		{"refused CloudEvent", "/?sender=evil", "application/cloudevents+json", `oops`, nil},
		{"refused push", "/v1/pubsub?sender=evil", "application/json", `{"message":{"attributes":{"sender":"evil","content-type":"application/cloudevents+json"},"data":"e30="}}`, nil},
	} {
		for tokens, want := range map[string]string{"": "", "tts:" + hashOf("x"): "tts"} {
			b := &broker{}
			headers := append([]string{"Content-Type", test.contentType, "Authorization", "Bearer x"}, test.headers...)
			w := send(server(t, b, withTokens(tokens)), test.target, "127.0.0.1:1", strings.NewReader(test.body), headers...)
			all := b.messages(t)
			for _, r := range b.rejections(t) {
				all = append(all, r.Message)
			}
			if len(all) != 1 || all[0].Attributes["sender"] != want {
				t.Errorf("%s: %d %s, messages %v, want one of the sender %q", test.name, w.Code, w.Body, all, want)
			}
			for _, m := range all {
				for name, value := range m.Attributes {
					if value == "evil" {
						t.Errorf("%s: the attribute %s is what a sender calls itself", test.name, name)
					}
				}
			}
		}
	}
}

// messages gives what the accepted events hold.
func (b *broker) messages(t *testing.T) []mesh.Message {
	t.Helper()
	var all []mesh.Message
	for _, e := range b.events {
		if e.Type() == mesh.TelemetryReceived {
			some, err := mesh.DecodeMessages(e.Data())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, some...)
		}
	}
	return all
}

func TestMalformedTokensAreRefusedAtStart(t *testing.T) {
	good := "a:" + hashOf("x")
	for _, test := range []struct{ tokens, says string }{
		{"s3cret", "entry 1 of 1 has no colon"},
		{good + ",s3cret", "entry 2 of 2 has no colon"},
		{good + ",", "entry 2 of 2"},
		{good + ",b:s3cret", "entry 2 of 2 has no hash"},
		{"a:" + strings.ToUpper(hashOf("x")), "entry 1 of 1 has no hash"},
		{hashOf("x") + ":s3cret", "entry 1 of 1 has no hash"},
		{"a:" + hashOf("x")[:63], "entry 1 of 1 has no hash"},
		{good + ",b:" + hashOf(""), "entry 2 of 2 has the hash of an empty text"},
		{"s3 cret:" + hashOf("x"), "entry 1 of 1 has a name"},
		{":" + hashOf("x"), "entry 1 of 1 has a name"},
		{good + ",b:" + hashOf("x"), "entries 1 and 2 of 2 have the same token"},
	} {
		t.Setenv("K_SINK", "http://broker.example")
		t.Setenv("INGEST_TOKENS", test.tokens)
		_, err := ingest.Start(function.Ports{Client: http.DefaultClient})
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("INGEST_TOKENS=%q: error %v, want %q", test.tokens, err, test.says)
			continue
		}
		if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), hashOf("x")) {
			t.Errorf("the error tells the token: %v", err)
		}
		if !strings.Contains(test.says, "same") && !strings.Contains(err.Error(), "sha256sum") {
			t.Errorf("the error does not tell how to make an entry: %v", err)
		}
	}
}

// The command that the errors and the documentation name makes what is
// accepted.
func TestHashIsThatOfSha256sum(t *testing.T) {
	// printf %s 'correct horse' | sha256sum
	const printed = "4104d36f8da2c254349f85836793ebe029e0c957063a34c91c2e9203187b5631"
	if hashOf("correct horse") != printed {
		t.Fatalf("hash %s, want %s", hashOf("correct horse"), printed)
	}
	b := &broker{}
	w := send(server(t, b, withTokens("a:"+printed)), "/", "192.0.2.1:1", strings.NewReader(`{}`), "Authorization", "Bearer correct horse")
	if w.Code != http.StatusAccepted {
		t.Errorf("%d %s, want 202", w.Code, w.Body)
	}
}

func TestConfigFromEnvironment(t *testing.T) {
	for _, name := range []string{"INGEST_TOKENS", "PUBSUB_AUDIENCE", "PUBSUB_EMAILS"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("K_SINK", "http://broker.example")
	fn, err := ingest.Start(function.Ports{Client: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	if err := fn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for name, value := range map[string]string{"BATCH_MAX_MESSAGES": "0", "BATCH_MAX_BYTES": "0", "BATCH_LINGER": "-1s", "MAX_BODY_BYTES": "0"} {
		t.Setenv(name, value)
		if _, err := ingest.Start(function.Ports{Client: http.DefaultClient}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: error %v, want one that names it", name, value, err)
		}
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PUBSUB_AUDIENCE", "a")
	if _, err := ingest.Start(function.Ports{Client: http.DefaultClient}); err == nil || !strings.Contains(err.Error(), "PUBSUB_EMAILS") {
		t.Errorf("PUBSUB_AUDIENCE alone: error %v, want one that names PUBSUB_EMAILS", err)
	}
}
