package mesh_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
)

const carriedType = "com.example.seen.v1"

func carriedEvent(id, contentType string, data []byte) event.Event {
	e := event.New()
	e.SetType(carriedType)
	e.SetSource("//feed/\"a\"")
	e.SetID(id)
	if contentType != "" {
		e.SetDataContentType(contentType)
	}
	e.DataEncoded = data
	return e
}

// What was carried comes out byte for byte, whatever it is.
func TestCarriedSurvivesTheWire(t *testing.T) {
	full := carriedEvent("full\n", "application/json", []byte(`{ "a" : 1.0 , "a":"é" }`))
	full.SetTime(time.Date(2026, 3, 29, 1, 30, 0, 123456789, time.UTC))
	full.SetSubject("s \"x\"")
	full.SetDataSchema("https://example.com/schema")
	full.SetExtension("flag", true)
	full.SetExtension("number", int32(-7))
	full.SetExtension("text", "17")
	want := []event.Event{
		full,
		carriedEvent("none", "application/json", nil),
		carriedEvent("text", "text/plain", []byte("he said \"no\"\n")),
		carriedEvent("typeless", "", []byte(`{"a":1}`)),
		carriedEvent("suffix", "application/problem+json", []byte(`["x"]`)),
		carriedEvent("string", "application/json", []byte(`"x"`)),
		carriedEvent("null", "application/json", []byte(`null`)),
		carriedEvent("not JSON", "application/json", []byte("{\"a\":")),
		carriedEvent("not UTF-8", "application/json", []byte("\"\xff\"")),
		carriedEvent("blank before", "application/json", []byte(" {}\n")),
		carriedEvent("deep", "application/json", []byte(strings.Repeat("[", 9000)+strings.Repeat("]", 9000))),
		carriedEvent("binary", "application/octet-stream", []byte{0, 0xff, 0x1b}),
	}
	carrier, err := mesh.Carry(carriedType, "/s", want)
	if err != nil {
		t.Fatal(err)
	}
	if err := carrier.Validate(); err != nil || carrier.Type() != carriedType || carrier.Source() != "/s" {
		t.Errorf("carrier %s of %s: %v", carrier.Type(), carrier.Source(), err)
	}
	got, err := mesh.Carried(carrier)
	if err != nil {
		t.Fatal(err)
	}
	text := func(events []event.Event) (out []string) {
		for _, e := range events {
			out = append(out, fmt.Sprintf("%v %q %q %q %q %q %v %v %q", e.Context.GetSpecVersion(), e.ID(), e.Source(), e.Type(), e.Subject(),
				e.DataContentType()+e.DataSchema(), e.Time(), e.Extensions(), e.Data()))
		}
		return out
	}
	if diff := cmp.Diff(text(want), text(got)); diff != "" {
		t.Errorf("carried (-want +got):\n%s", diff)
	}

	again, _ := mesh.Carry(carriedType, "/s", want)
	other, _ := mesh.Carry(carriedType, "/s", want[1:])
	if again.ID() != carrier.ID() || other.ID() == carrier.ID() {
		t.Errorf("ids of the same events %s and %s, of others %s", carrier.ID(), again.ID(), other.ID())
	}
}

// Who reads carried events reads those that are sent singly as well.
func TestOneIsCarriedByItself(t *testing.T) {
	one := carriedEvent("1", "application/json", []byte(`{}`))
	carrier, err := mesh.Carry(carriedType, "/s", []event.Event{one})
	if err != nil || carrier.ID() != "1" || carrier.Source() != one.Source() {
		t.Errorf("Carry of one = %v, %v, want it", carrier, err)
	}
	if got, err := mesh.Carried(carrier); err != nil || len(got) != 1 || got[0].ID() != "1" {
		t.Errorf("Carried of one = %v, %v, want it", got, err)
	}
}

func TestCarryRefuses(t *testing.T) {
	good, other := carriedEvent("1", "", nil), carriedEvent("1", "", nil)
	other.SetType("other")
	for want, events := range map[string][]event.Event{
		"there is none":                nil,
		"carry event 1: it is other":   {good, other},
		"carry event 1: id: MUST be a": {good, carriedEvent("", "", nil)},
	} {
		if _, err := mesh.Carry(carriedType, "/s", events); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Carry = %v, want an error that says %q", err, want)
		}
	}
	for data, want := range map[string]string{
		`{}`: "read carrier", `[]`: "no event", `[7]`: "event 0", `[`: "read carrier",
		`[{"specversion":"1.0","id":"1","source":"/s","type":"other"}]`:            "event 0: it is other",
		`[{"specversion":"1.0","source":"/s","type":"` + carriedType + `"}]`:       "event 0: id",
		`[{"specversion":"1.0","id":"1","source":"/s","type":"x","data":1}` + `x]`: "read carrier",
	} {
		e := carriedEvent("1", mesh.ContentCarrier, []byte(data))
		if _, err := mesh.Carried(e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Carried(%s) = %v, want an error that says %q", data, err, want)
		}
	}
}

func BenchmarkCarry(b *testing.B) {
	events := make([]event.Event, 500)
	for i := range events {
		events[i] = carriedEvent(fmt.Sprint(i), "application/json", []byte(`{"op":"utx","x":{"script":"`+strings.Repeat("5120a159", 120)+`"}}`))
	}
	b.ReportAllocs()
	for b.Loop() {
		carrier, err := mesh.Carry(carriedType, "/s", events)
		if err != nil {
			b.Fatal(err)
		}
		if got, err := mesh.Carried(carrier); err != nil || len(got) != len(events) {
			b.Fatal(len(got), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
}
