package function

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
)

// asked is a server that keeps which path it was asked with which token, and
// redirects what the map says.
type asked struct {
	*httptest.Server
	redirect map[string]string
	seen     []string
}

func newAsked(t *testing.T) *asked {
	a := &asked{redirect: map[string]string{}}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.seen = append(a.seen, r.URL.Path+" "+strings.Join(r.Header.Values("Authorization"), ","))
		if to := a.redirect[r.URL.Path]; to != "" {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return
		}
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(a.Close)
	return a
}

// mount puts a token where a Service mounts that of a Broker.
func mount(t *testing.T, folder, broker, token string) {
	t.Helper()
	file := filepath.Join(folder, broker)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(token), 0o644); err != nil {
		t.Fatal(err)
	}
}

func tokenClient(t *testing.T, sink, folder string) *http.Client {
	t.Helper()
	transport, err := withTokens(http.DefaultTransport, sink, folder)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: transport}
}

func post(t *testing.T, client *http.Client, url string) {
	t.Helper()
	if err := Post(t.Context(), client, url, mesh.NewEvent("given", "/test", []byte(`{}`), "1")); err != nil {
		t.Error(err)
	}
}

// Whoever gets a token that is not meant for it is the sender for its lifetime.
func TestTokenGoesToItsBrokerAlone(t *testing.T) {
	ingress, other := newAsked(t), newAsked(t)
	folder := t.TempDir()
	mount(t, folder, "iot/iot", "of-iot\n")
	mount(t, folder, "crm/crm", "of-crm")
	mount(t, filepath.Dir(folder), "outside", "secret")
	client := tokenClient(t, ingress.URL+"/iot/iot", folder)

	for _, path := range []string{"/iot/iot", "/crm/crm", "/analytics/analytics", "/iot", "/", "/iot/iot/", "/iot/iot/more", "//iot/iot", "/x/../iot/iot", "/../outside", "/x/../../outside", "/iot/..%2f..%2foutside"} {
		post(t, client, ingress.URL+path)
	}
	post(t, client, other.URL+"/iot/iot")
	// The same server by another name is not the ingress.
	post(t, client, strings.Replace(ingress.URL, "127.0.0.1", "localhost", 1)+"/iot/iot")

	want := []string{"/iot/iot Bearer of-iot", "/crm/crm Bearer of-crm", "/analytics/analytics ", "/iot ", "/ ", "/iot/iot/ ", "/iot/iot/more ", "//iot/iot ", "/x/../iot/iot ", "/../outside ", "/x/../../outside ", "/iot/../../outside ", "/iot/iot "}
	if diff := cmp.Diff(want, ingress.seen); diff != "" {
		t.Errorf("asked of the ingress (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"/iot/iot "}, other.seen); diff != "" {
		t.Errorf("asked of another host (-want +got):\n%s", diff)
	}
}

// A function that posts to Brokers of several namespaces has the ingress alone
// for its K_SINK; one without K_SINK has no token.
func TestTokenByTheIngressAlone(t *testing.T) {
	ingress := newAsked(t)
	folder := t.TempDir()
	mount(t, folder, "iot/iot", "of-iot")
	mount(t, folder, "crm/crm", "of-crm")
	for _, sink := range []string{ingress.URL, ingress.URL + "/", ""} {
		client := tokenClient(t, sink, folder)
		post(t, client, ingress.URL+"/iot/iot")
		post(t, client, ingress.URL+"/crm/crm")
	}
	want := []string{"/iot/iot Bearer of-iot", "/crm/crm Bearer of-crm", "/iot/iot Bearer of-iot", "/crm/crm Bearer of-crm", "/iot/iot ", "/crm/crm "}
	if diff := cmp.Diff(want, ingress.seen); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// A redirect is followed with the event, and without the token.
func TestTokenIsNotRedirected(t *testing.T) {
	ingress, other := newAsked(t), newAsked(t)
	folder := t.TempDir()
	mount(t, folder, "iot/iot", "of-iot")
	client := tokenClient(t, ingress.URL+"/iot/iot", folder)
	ingress.redirect["/iot/iot"] = other.URL + "/iot/iot"
	post(t, client, ingress.URL+"/iot/iot")
	ingress.redirect["/iot/iot"] = ingress.URL + "/crm/crm"
	post(t, client, ingress.URL+"/iot/iot")
	if diff := cmp.Diff([]string{"/iot/iot "}, other.seen); diff != "" {
		t.Errorf("asked of another host (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"/iot/iot Bearer of-iot", "/iot/iot Bearer of-iot", "/crm/crm "}, ingress.seen); diff != "" {
		t.Errorf("asked of the ingress (-want +got):\n%s", diff)
	}
}

// Kubernetes puts another token in the place of one that ends, and a Service
// that gets one, or has none any more, need not start again.
func TestTokenIsReadAnew(t *testing.T) {
	ingress := newAsked(t)
	folder := t.TempDir()
	client := tokenClient(t, ingress.URL+"/iot/iot", folder)
	post(t, client, ingress.URL+"/iot/iot")
	mount(t, folder, "iot/iot", "first")
	post(t, client, ingress.URL+"/iot/iot")
	mount(t, folder, "iot/iot", "second")
	post(t, client, ingress.URL+"/iot/iot")
	if err := os.RemoveAll(filepath.Join(folder, "iot")); err != nil {
		t.Fatal(err)
	}
	post(t, client, ingress.URL+"/iot/iot")
	if diff := cmp.Diff([]string{"/iot/iot ", "/iot/iot Bearer first", "/iot/iot Bearer second", "/iot/iot "}, ingress.seen); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// A token that is there and cannot be read is a fault to be seen: without it the
// Broker would say of the sender that it is a stranger.
func TestTokenThatCannotBeRead(t *testing.T) {
	ingress := newAsked(t)
	folder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "iot", "iot"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := Post(t.Context(), tokenClient(t, ingress.URL, folder), ingress.URL+"/iot/iot", mesh.NewEvent("given", "/test", []byte(`{}`), "1"))
	if err == nil || !strings.Contains(err.Error(), "token for Broker iot/iot") || mesh.IsPermanent(err) {
		t.Errorf("Post = %v, want a passing error that names the Broker", err)
	}
	if len(ingress.seen) != 0 {
		t.Errorf("asked %q without the token", ingress.seen)
	}
}

func TestTokenLeavesTheRequestAsItIs(t *testing.T) {
	ingress := newAsked(t)
	folder := t.TempDir()
	mount(t, folder, "iot/iot", "of-iot")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, ingress.URL+"/iot/iot", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tokenClient(t, ingress.URL, folder).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if len(req.Header) != 0 {
		t.Errorf("header of the request is now %v", req.Header)
	}
}

func TestSinkThatIsNoAddress(t *testing.T) {
	if _, err := withTokens(http.DefaultTransport, "http://[::1", ""); err == nil || !strings.Contains(err.Error(), "K_SINK") {
		t.Errorf("withTokens = %v, want an error that names K_SINK", err)
	}
}

// What a process posts by its Ports shows who it is.
func TestMainSendsTokens(t *testing.T) {
	t.Setenv("K_SINK", "http://broker-ingress.platform.svc.cluster.local/iot/iot")
	enough := errors.New("enough")
	err := run(t.Context(), silent, func(ports Ports) (*Function, error) {
		s, ok := ports.Client.Transport.(*tokenSender)
		if !ok || s.scheme != "http" || s.host != "broker-ingress.platform.svc.cluster.local" {
			t.Errorf("the client sends by %+v", ports.Client.Transport)
		}
		return nil, enough
	})
	if !errors.Is(err, enough) {
		t.Errorf("run = %v", err)
	}
}
