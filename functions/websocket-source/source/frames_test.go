package source

import (
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
)

var transactions = FrameConfig{Type: "dev.telemesh.transactions.received.v1", ID: "/x/hash", Time: "/x/time", TimeUnit: "s", Only: "/op=utx"}

func TestFrames(t *testing.T) {
	const received = "2026-03-01T09:00:00Z"
	now, err := time.Parse(time.RFC3339, received)
	if err != nil {
		t.Fatal(err)
	}
	plain := FrameConfig{Type: "t", TimeUnit: "s", ID: "/id", Time: "/at"}
	with := func(change func(*FrameConfig)) FrameConfig {
		c := plain
		change(&c)
		return c
	}
	hash := func(text string) string { return mesh.Hash(text) }
	const utx = `{"op":"utx","x":{"hash":"0faf","time":1331300839}}`
	for _, test := range []struct {
		name  string
		cfg   FrameConfig
		frame string
		want  string // type source id time content type; empty: passed over
	}{
		{"transaction", transactions, utx, "dev.telemesh.transactions.received.v1 wss://feed/inv 0faf 2012-03-09T13:47:19Z application/json"},
		{"other operation", transactions, `{"op":"block","x":{"hash":"0faf"}}`, ""},
		{"answer", transactions, `{"op":"pong"}`, ""},
		{"no JSON where only some are wanted", transactions, `pong`, ""},
		{"bare", plain, `{}`, "t wss://feed/inv " + hash(`{}`) + " " + received + " application/json"},
		{"number as id", plain, `{"id":17}`, "t wss://feed/inv 17 " + received + " application/json"},
		{"object as id", plain, `{"id":{}}`, "t wss://feed/inv " + hash(`{"id":{}}`) + " " + received + " application/json"},
		{"empty id", plain, `{"id":""}`, "t wss://feed/inv " + hash(`{"id":""}`) + " " + received + " application/json"},
		{"id no header carries", plain, `{"id":"a\nb"}`, "t wss://feed/inv " + hash("a\nb") + " " + received + " application/json"},
		{"long id", plain, `{"id":"` + strings.Repeat("i", 2000) + `"}`, "t wss://feed/inv " + hash(strings.Repeat("i", 2000)) + " " + received + " application/json"},
		{"time as text", plain, `{"id":1,"at":"2026-01-01T01:00:00.5+01:00"}`, "t wss://feed/inv 1 2026-01-01T00:00:00.5Z application/json"},
		{"no time", plain, `{"id":1,"at":"noon"}`, "t wss://feed/inv 1 " + received + " application/json"},
		{"time beyond years of four digits", plain, `{"id":1,"at":1767225600000}`, "t wss://feed/inv 1 " + received + " application/json"},
		{"time before the first year", plain, `{"id":1,"at":-99999999999}`, "t wss://feed/inv 1 " + received + " application/json"},
		{"milliseconds", with(func(c *FrameConfig) { c.TimeUnit = "ms" }), `{"id":1,"at":1767225600001}`, "t wss://feed/inv 1 2026-01-01T00:00:00.001Z application/json"},
		{"text", plain, `hello`, "t wss://feed/inv " + hash("hello") + " " + received + " text/plain"},
		{"bytes", plain, "\xff\x00", "t wss://feed/inv " + hash("\xff\x00") + " " + received + " application/octet-stream"},
		{"a name twice", plain, `{"id":1,"id":2}`, "t wss://feed/inv " + hash(`{"id":1,"id":2}`) + " " + received + " text/plain"},
		{"empty", plain, ``, "t wss://feed/inv " + hash("") + " " + received + " text/plain"},
		{"said source", with(func(c *FrameConfig) { c.Source = "//exchange" }), `{"id":1}`, "t //exchange 1 " + received + " application/json"},
		{"source of the frame", with(func(c *FrameConfig) { c.Source = "#/from" }), `{"id":1,"from":"/a/b"}`, "t /a/b 1 " + received + " application/json"},
		{"no source", with(func(c *FrameConfig) { c.Source = "#/from" }), `{"id":1}`, ""},
		{"source that is none", with(func(c *FrameConfig) { c.Source = "#/from" }), `{"id":1,"from":"a b"}`, ""},
		{"type of the frame", with(func(c *FrameConfig) { c.Type = "#/a~1b/0" }), `{"id":1,"a/b":["x.y"]}`, "x.y wss://feed/inv 1 " + received + " application/json"},
		{"no type", with(func(c *FrameConfig) { c.Type = "#/type" }), `{"id":1,"type":null}`, ""},
		{"anything there", with(func(c *FrameConfig) { c.Only = "/a" }), `{"id":1,"a":{}}`, "t wss://feed/inv 1 " + received + " application/json"},
		{"nothing there", with(func(c *FrameConfig) { c.Only = "/a" }), `{"id":1}`, ""},
		{"number there", with(func(c *FrameConfig) { c.Only = "/a=1" }), `{"id":1,"a":1}`, "t wss://feed/inv 1 " + received + " application/json"},
		{"object where a text is wanted", with(func(c *FrameConfig) { c.Only = "/a={}" }), `{"id":1,"a":{}}`, ""},
	} {
		f, err := newFrames(test.cfg, "", "wss://feed/inv")
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if read := f.read([]byte(test.frame), now); read.event != nil {
			e := read.event
			if err := e.Validate(); err != nil || string(e.Data()) != test.frame {
				t.Errorf("%s: data %q, %v", test.name, e.Data(), err)
			}
			got = strings.Join([]string{e.Type(), e.Source(), e.ID(), e.Time().Format(time.RFC3339Nano), e.DataContentType()}, " ")
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: event (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestCursorOfFrames(t *testing.T) {
	f, err := newFrames(FrameConfig{Type: "t", TimeUnit: "s", Only: "/kind=commit"}, "/seq", "wss://feed")
	if err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]string{`{"seq":7,"kind":"commit"}`: "7", `{"seq":8}`: "8", `{"kind":"commit"}`: "", `{"seq":null}`: "", `{"seq":"a\"b"}`: `a"b`} {
		if got := f.read([]byte(data), time.Now()); got.cursor != want || got.hasCursor != (want != "") {
			t.Errorf("cursor of %s = %q, %v, want %q", data, got.cursor, got.hasCursor, want)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte(`{"op":"utx","x":{"hash":"0faf","time":1331300839},"seq":1}`))
	f.Add([]byte("\xff"))
	cfg := transactions
	cfg.Only, cfg.Source = "", "#/x/source"
	all, err := newFrames(cfg, "/seq", "wss://feed")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := all.read(data, time.Unix(1, 0))
		if got.event == nil {
			return
		}
		carrier, err := mesh.Carry(got.event.Type(), "/s", []event.Event{*got.event, *got.event})
		if err != nil {
			t.Fatalf("of %q: %v", data, err)
		}
		out, err := mesh.Carried(carrier)
		if err != nil || string(out[0].Data()) != string(data) {
			t.Errorf("of %q: %v, %v", data, out, err)
		}
	})
}
