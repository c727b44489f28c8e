package local

import (
	"bytes"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
)

func TestFrame(t *testing.T) {
	at := time.Date(2024, 3, 5, 11, 0, 0, 120e6, time.FixedZone("", 3600))
	for name, change := range map[string]func(*event.Event){
		"small":      func(e *event.Event) {},
		"no data":    func(e *event.Event) { e.DataEncoded = nil },
		"large":      func(e *event.Event) { e.DataEncoded = bytes.Repeat([]byte("reading "), 10_000) },
		"old":        func(e *event.Event) { *e = event.New("0.3"); e.SetID("1"); e.SetType("t"); e.SetSource("/s") },
		"attributes": func(e *event.Event) { e.SetTime(at); e.SetSubject("a\x00b"); e.SetDataSchema("https://example.com/s") },
		"extensions": func(e *event.Event) {
			e.SetExtension("number", 7)
			e.SetExtension("truth", true)
			e.SetExtension("at", at)
			e.SetExtension(extTTL, 9)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEvent("1", "t", "{}")
			change(&e)
			b, err := frame(&e, 42, at)
			if err != nil {
				t.Fatal(err)
			}
			got, ttl, err := readFrame(b)
			if err != nil || ttl != 42 {
				t.Fatalf("readFrame: TTL %d, %v", ttl, err)
			}
			want := e.Clone() // what is on the wire: texts, and no TTL
			want.SetExtension(extTTL, nil)
			want.SetExtension(extArrival, "2024-03-05T10:00:00.12Z")
			if name == "attributes" {
				want.SetTime(at.UTC())
			}
			if name == "extensions" {
				want.SetExtension("number", "7")
				want.SetExtension("truth", "true")
				want.SetExtension("at", "2024-03-05T10:00:00.12Z")
			}
			if got.String() != want.String() || !bytes.Equal(got.Data(), want.Data()) {
				t.Errorf("readFrame(frame(e)) (-want +got):\n%s", cmp.Diff(want.String(), got.String()))
			}
		})
	}
}

// A damaged store gives an error, not a panic nor an event that was never
// accepted with less data than it had.
func FuzzReadFrame(f *testing.F) {
	for _, data := range []string{"", "{}", string(bytes.Repeat([]byte("reading "), 1000))} {
		e := newEvent("1", "t", data)
		b, err := frame(&e, 255, time.Unix(0, 0))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return // what S2 claims to unpack to is bounded by the frame's own size
		}
		e, ttl, err := readFrame(b)
		if err != nil || e.Validate() != nil {
			return
		}
		again, err := frame(&e, ttl, time.Unix(0, 0))
		if err != nil {
			return // an extension that no frame is written with
		}
		same, _, err := readFrame(again)
		if err != nil || !bytes.Equal(same.Data(), e.Data()) || same.ID() != e.ID() {
			t.Errorf("readFrame(frame(%v)) = %v, %v", e, same, err)
		}
	})
}

// Compressed data may be a thousand times as long: what counts is the memory.
func TestWeightIsOfTheDataUnpacked(t *testing.T) {
	for _, size := range []int{0, 100, 1 << 20} {
		e := newEvent("1", "t", "")
		e.DataEncoded = make([]byte, size)
		b, err := frame(&e, 255, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := weight(b), int64(len(b)+size); got != want {
			t.Errorf("weight of %d bytes in a frame of %d = %d, want %d", size, len(b), got, want)
		}
	}
	if got := weight([]byte("damaged")); got != 7 {
		t.Errorf("weight of what is no frame = %d, want its length", got)
	}
}
