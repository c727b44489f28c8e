package bigquery

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
)

// counting is a REST API whose questions are answered one by one, as a test
// lets them.
type counting struct {
	asked  chan struct{}
	answer chan int64
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.asked <- struct{}{}
	select {
	case n := <-c.answer:
		fmt.Fprintf(w, `{"jobComplete": true, "jobReference": {"projectId": "p", "jobId": "j"}, "totalRows": "1",
			"schema": {"fields": [{"name": "f0_", "type": "INTEGER"}]}, "rows": [{"f": [{"v": "%d"}]}]}`, n)
	case <-r.Context().Done():
	}
}

func openVersions(t *testing.T) (*versions, *counting) {
	t.Helper()
	c := &counting{asked: make(chan struct{}, 100), answer: make(chan int64)}
	web := httptest.NewServer(c)
	t.Cleanup(web.Close)
	w, err := Open(t.Context(), Config{Project: "p", Location: "EU", Endpoint: web.URL, Storage: "127.0.0.1:1"},
		[]contract.Product{{Tables: tables(t)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return w.tables["iot_telemetry.readings"].versions, c
}

type answered struct {
	version int64
	err     error
}

// begun is a context that says when somebody waits for its end.
type begun struct {
	context.Context
	waits func()
}

func (c begun) Done() <-chan struct{} {
	c.waits()
	return c.Context.Done()
}

// ask returns when the call waits for its answer.
func ask(ctx context.Context, v *versions) chan answered {
	c, waits := make(chan answered, 1), make(chan struct{})
	go func() {
		version, err := v.after(begun{ctx, sync.OnceFunc(func() { close(waits) })})
		c <- answered{version, err}
	}()
	<-waits
	return c
}

// A question that was under way may have been answered before rows were
// acknowledged: who asks meanwhile waits for the next one, and all who do share
// it.
func TestVersionIsAskedAfterwards(t *testing.T) {
	v, api := openVersions(t)
	first := ask(t.Context(), v)
	<-api.asked
	ctx, cancel := context.WithCancel(t.Context())
	gone := ask(ctx, v)
	var others []chan answered
	for range 20 {
		others = append(others, ask(t.Context(), v))
	}
	cancel()
	if got := <-gone; !errors.Is(got.err, context.Canceled) {
		t.Errorf("after() = %d, %v, want %v", got.version, got.err, context.Canceled)
	}
	api.answer <- 1
	if got := <-first; got != (answered{1, nil}) {
		t.Errorf("the first caller gets %v, want 1", got)
	}
	select {
	case <-api.asked:
		api.answer <- 2
	case got := <-others[0]:
		t.Fatalf("who asked while the first question was under way gets %v of it", got)
	}
	for _, other := range others {
		if got := <-other; got != (answered{2, nil}) {
			t.Errorf("who asked while the first question was under way gets %v, want 2", got)
		}
	}
	if n := len(api.asked); n != 0 {
		t.Errorf("%d questions beyond two", n)
	}
}

// A question that is not answered in time is asked again.
func TestVersionIsAskedAgain(t *testing.T) {
	v, api := openVersions(t)
	v.w.link.answerWithin = 100 * time.Millisecond
	answer := ask(t.Context(), v)
	<-api.asked
	<-api.asked
	for {
		select {
		case api.answer <- 3: // it may be the first one still that hears it
		case got := <-answer:
			if got != (answered{3, nil}) {
				t.Errorf("after() = %v, want 3", got)
			}
			return
		}
	}
}
