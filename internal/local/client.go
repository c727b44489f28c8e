package local

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"

	"github.com/telemesh/telemesh/internal/address"
	"github.com/telemesh/telemesh/internal/manifest"
)

// Client reaches Services and the brokers' ingress by their addresses in a
// cluster, inside the process, and everything else by the network. An answer
// from inside is complete before it is returned: what streams for ever cannot
// be read by it.
func (m *Mesh) Client() *http.Client { return m.client }

// transport is what Client sends by.
type transport struct {
	mesh    *Mesh
	network http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	target := manifest.TargetOf(r.URL)
	var handler http.Handler
	switch none := (manifest.Ref{}); {
	case address.IsIngress(r.URL.Host):
		handler = http.HandlerFunc(t.ingress)
	case target.Service != none:
		handler = t.mesh.Service(target.Service.Namespace, target.Service.Name)
	default:
		return t.network.RoundTrip(r)
	}
	if r.Body != nil {
		defer r.Body.Close()
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	in := r.Clone(r.Context())
	in.RequestURI = r.URL.RequestURI()
	in.Host = r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := &recorder{header: http.Header{}}
	handler.ServeHTTP(w, in)
	// As over a network, an answer that nobody waits for any more is lost.
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.response(r), nil
}

func (t *transport) ingress(w http.ResponseWriter, r *http.Request) {
	t.mesh.ingress(w, r, func() error {
		if isInside(r.Context()) {
			return nil
		}
		return t.mesh.backlog.enter(r.Context())
	})
}

// recorder is the response of a handler.
type recorder struct {
	header, sent http.Header
	status       int
	body         bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 { // informational ones are not for the caller
		w.status, w.sent = status, w.header.Clone()
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

func (w *recorder) response(r *http.Request) *http.Response {
	w.WriteHeader(http.StatusOK)
	return &http.Response{
		Status:     strconv.Itoa(w.status) + " " + http.StatusText(w.status),
		StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, ContentLength: int64(w.body.Len()),
		Body: io.NopCloser(&w.body), Request: r,
	}
}

// insideKey marks the context of a function while it handles an event. What it
// brings to a broker is not held back; see backlog.
type insideKey struct{}

func inside(ctx context.Context) context.Context { return context.WithValue(ctx, insideKey{}, true) }

func isInside(ctx context.Context) bool { return ctx.Value(insideKey{}) != nil }
