package function

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKeptHeader(t *testing.T) {
	h := http.Header{}
	for _, name := range []string{"authorization", "cookie", "x-api-key", "proxy-authorization", "x-forwarded-for", "cert"} {
		h.Set(name, "secret")
	}
	want := http.Header{}
	for _, name := range []string{"ce-id", "CE-source", "ce-fooextension", "content-type", "user-agent"} {
		h.Set(name, "kept")
		want.Set(name, "kept")
	}
	before := h.Clone()
	if diff := cmp.Diff(want, KeptHeader(h)); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, h); diff != "" {
		t.Errorf("the request's header has changed (-want +got):\n%s", diff)
	}
}
