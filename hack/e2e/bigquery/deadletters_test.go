package bigquery_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// A dead letter comes out of BigQuery as it went in, also one that is longer than
// a row may be and one that came twice; what became of it decides whether it is open.
func TestDeadLetters(t *testing.T) {
	e := emulator.Start(t)
	all := applied(t, e)
	w := open(t, e, all)
	again := open(t, e, all) // which does not remember what the other one stored
	member(t, e)
	data := map[string][]byte{
		"none": nil, "small": []byte(`{"a" : 1.0}`),
		"long text":   []byte("x" + strings.Repeat("日本", 800_000)),
		"long binary": bytes.Repeat([]byte{0xff, 0, 1, 2, 3}, 800_000),
	}
	ids := map[string]string{}
	for name, data := range data {
		in := event.New()
		in.SetID(name)
		in.SetSource("/devices")
		in.SetType("com.example.dead")
		in.SetSubject("ü\n'")
		in.SetTime(time.Date(2024, 3, 1, 12, 0, 0, 123456789, time.UTC))
		in.SetExtension("knativearrivaltime", time.Now().UTC().Format(time.RFC3339Nano))
		in.SetExtension("knativeerrordest", "http://join.analytics.svc.cluster.local")
		in.DataEncoded = data
		l := deadletter.New(in, "/analytics/join", time.Now())
		ids[name] = l.ID
		for _, store := range []warehouse.Warehouse{w, w, again} {
			if err := deadletter.Put(t.Context(), store, &l); err != nil {
				t.Fatal(err)
			}
		}
		got, err := deadletter.Get(t.Context(), w, l.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Event.Data(), data) {
			t.Errorf("%s: %d bytes of data come back that differ from the %d of the event", name, len(got.Event.Data()), len(data))
		}
		got.Event.DataEncoded, l.Event.DataEncoded, got.Event.DataBase64, got.RecordedAt = nil, nil, false, 0
		if diff := cmp.Diff(l, got); diff != "" {
			t.Errorf("%s: letter (-want +got):\n%s", name, diff)
		}
	}
	for name, outcome := range map[string]string{"small": deadletter.Failed, "none": deadletter.Discarded, "long text": deadletter.Redriven, "long binary": deadletter.Closed} {
		o := deadletter.Outcome{LetterID: ids[name], Outcome: outcome, RequestSource: "/test", RequestID: "1", DoneAt: mesh.At(time.Now())}
		for _, store := range []warehouse.Warehouse{w, w, again} {
			if err := deadletter.Record(t.Context(), store, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	left := map[string]bool{}
	for l, err := range deadletter.Open(t.Context(), w) {
		if err != nil {
			t.Fatal(err)
		}
		left[l.Event.ID()] = true
	}
	if diff := cmp.Diff(map[string]bool{"small": true, "long binary": true}, left); diff != "" {
		t.Errorf("open (-want +got):\n%s", diff)
	}
	if n, err := deadletter.Count(t.Context(), w); n != 2 || err != nil {
		t.Errorf("Count = %d, %v, want 2", n, err)
	}
	ends, err := deadletter.Ends(t.Context(), w, slices.Collect(maps.Values(ids)))
	if err != nil || len(ends) != 2 || ends[ids["none"]].Outcome != deadletter.Discarded || ends[ids["long text"]].Outcome != deadletter.Redriven {
		t.Errorf("Ends = %v, %v, want those of the two that are closed", ends, err)
	}
	if history, err := deadletter.History(t.Context(), w, ids["none"]); len(history) != 1 || err != nil {
		t.Errorf("History = %v, %v, want one outcome, which was stored thrice", history, err)
	}
}

// runDeadLetters asks all that is asked of dead letters.
func runDeadLetters(t *testing.T, w warehouse.Warehouse) {
	in := mesh.NewEvent("com.example.dead", "/devices", []byte(`{}`), "dead")
	l := deadletter.New(in, "/analytics/join", time.Now())
	if err := deadletter.Put(t.Context(), w, &l); err != nil {
		t.Fatal(err)
	}
	for _, letters := range []func(func(deadletter.Letter, error) bool){
		deadletter.Open(t.Context(), w), deadletter.OpenOf(t.Context(), w, []string{l.ID}), deadletter.Latest(t.Context(), w, 20),
	} {
		n := 0
		for _, err := range letters {
			if n++; err != nil {
				t.Fatal(err)
			}
		}
		if n != 1 {
			t.Errorf("%d letters are open, want 1", n)
		}
	}
	_, err := deadletter.Count(t.Context(), w)
	if err == nil {
		_, err = deadletter.Find(t.Context(), w, l.ID[:8])
	}
	if err == nil {
		_, err = deadletter.Ends(t.Context(), w, []string{l.ID})
	}
	if err == nil {
		_, err = deadletter.Get(t.Context(), w, l.ID)
	}
	if err == nil {
		_, err = deadletter.Outcomes(t.Context(), w, 0, "/test", "1")
	}
	if err == nil {
		_, err = deadletter.History(t.Context(), w, l.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
}
