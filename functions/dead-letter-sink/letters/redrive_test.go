package letters

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

func TestOutlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		life, end := outlive(ctx, time.Minute)
		defer end()
		time.Sleep(time.Hour)
		cancel()
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if life.Err() != nil {
			t.Error("it has ended within the minute")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if life.Err() == nil {
			t.Error("it has not ended after the minute")
		}
		other, end := outlive(t.Context(), time.Minute)
		end()
		if !errors.Is(other.Err(), context.Canceled) {
			t.Error("it has not ended by its end")
		}
	})
}

// A letter that is broken off after the grace has no outcome: the next attempt brings
// it again.
func TestBrokenOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() == nil { // the first attempt
			cancel()
			<-r.Context().Done()
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	db := duckdbtest.Open(t)
	r, err := newRedriver(db, server.Client(), "http://broker.example.com", newMemory())
	if err != nil {
		t.Fatal(err)
	}
	r.grace = 0
	dead := event.New()
	dead.SetID("e")
	dead.SetSource("/devices")
	dead.SetType("com.example.joined")
	l := deadletter.New(dead, "/iot/a", time.Now())
	if err := deadletter.Put(t.Context(), db, &l); err != nil {
		t.Fatal(err)
	}
	request := mesh.NewEvent(mesh.RedriveRequested, "/test", mesh.Encode(mesh.Redrive{Letters: []mesh.RedriveLetter{{ID: l.ID, Subscriber: server.URL}}}), "x")
	if err := r.redrive(ctx, request); err == nil || mesh.IsPermanent(err) {
		t.Errorf("redrive that was broken off = %v, want a passing error", err)
	}
	for _, want := range []int{0, 1} {
		got, err := deadletter.Outcomes(t.Context(), db, 0, request.Source(), request.ID())
		if err != nil || len(got) != want {
			t.Errorf("outcomes = %v, %v, want %d", got, err, want)
		}
		if err := r.redrive(t.Context(), request); err != nil {
			t.Errorf("redrive again = %v", err)
		}
	}
}

// A letter that is to be given up is delivered to nobody, and closed with the reason.
func TestDiscardByRequest(t *testing.T) {
	delivered := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		delivered++
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	db := duckdbtest.Open(t)
	r, err := newRedriver(db, server.Client(), "http://broker.example.com", newMemory())
	if err != nil {
		t.Fatal(err)
	}
	var letters []mesh.RedriveLetter
	for i, why := range []string{"nobody wants it", ""} {
		l := deadletter.New(mesh.NewEvent("com.example.a", "/test", nil, string(rune('a'+i))), "/iot/first", time.Now())
		if err := deadletter.Put(t.Context(), db, &l); err != nil {
			t.Fatal(err)
		}
		letters = append(letters, mesh.RedriveLetter{ID: l.ID, Subscriber: server.URL, Discard: why})
	}
	request := mesh.NewEvent(mesh.RedriveRequested, "/who", mesh.Encode(mesh.Redrive{Letters: letters}), "1")
	for range 2 { // as a request may come
		if err := r.redrive(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	outcomes, err := deadletter.Outcomes(t.Context(), db, 0, "/who", request.ID())
	if err != nil {
		t.Fatal(err)
	}
	given, brought := outcomes[letters[0].ID], outcomes[letters[1].ID]
	if given.Outcome != deadletter.Discarded || given.Cause != letters[0].Discard || brought.Outcome != deadletter.Redriven || delivered != 1 {
		t.Errorf("the letter to give up came to %+v, the other one to %+v, %d delivered; want discarded, redriven, 1", given, brought, delivered)
	}
}
