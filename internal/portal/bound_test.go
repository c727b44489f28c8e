package portal

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/access"
)

// A user has so many streams and downloads at a time: one more is refused, another
// user's is not, and one that ended makes room.
func TestWhatLastsIsBounded(t *testing.T) {
	s, _ := watched(t)
	ann, eve := s.person("ann", access.Tenant, own), s.person("eve", access.Tenant, own)
	a, e := s.logIn(ann), s.logIn(eve)
	refused := func(path, why string) {
		t.Helper()
		p := a.get(path).want(t, http.StatusTooManyRequests, "")
		if p.Header.Get("Retry-After") == "" || !strings.Contains(p.body, why) {
			t.Errorf("%s: Retry-After %q, %s", path, p.Header.Get("Retry-After"), p.body)
		}
	}

	const stream = "/api/air/stream?tenant=" + own
	var open []io.Closer
	for range mostStreams {
		resp, err := a.client.Get(a.url + stream)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", resp, err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		open = append(open, resp.Body)
	}
	refused(stream, "close one")
	e.watch(stream)
	a.get("/api/air/readings.csv?tenant="+own).want(t, http.StatusOK, "") // of another kind
	if err := open[0].Close(); err != nil {
		t.Fatal(err)
	}
	// The server learns of it when it writes.
	for patience := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		leave, err := s.portal.streams.enter(access.Viewer{ID: ann.ID})
		if err == nil {
			leave()
			break
		}
		if time.Since(patience) > time.Minute {
			t.Fatal("a stream that was closed counts for good")
		}
	}
	a.watch(stream)

	for range mostExports {
		leave, err := s.portal.exports.enter(access.Viewer{ID: ann.ID})
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
	}
	for _, file := range []string{"/api/air/readings.csv?tenant=" + own, "/api/air/readings.parquet?tenant=" + own} {
		refused(file, "wait until one is complete")
		e.get(file).want(t, http.StatusOK, "")
	}
}
