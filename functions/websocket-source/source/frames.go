package source

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/pointer"
)

// FrameConfig is what becomes of a frame.
type FrameConfig struct {
	Type     string `envconfig:"WEBSOCKET_TYPE" required:"true"`
	Source   string `envconfig:"WEBSOCKET_SOURCE"`
	ID       string `envconfig:"WEBSOCKET_ID"`
	Time     string `envconfig:"WEBSOCKET_TIME"`
	TimeUnit string `envconfig:"WEBSOCKET_TIME_UNIT" default:"s"`
	Only     string `envconfig:"WEBSOCKET_ONLY"`
}

// The values that are looked for in a frame.
const (
	eventType = iota
	eventSource
	eventID
	eventTime
	only
	cursorAt
	looked
)

// frames makes events of frames.
type frames struct {
	cfg      FrameConfig
	only     string // what has to stand there; empty: anything
	has      [looked]bool
	places   pointer.Places
	constant struct{ eventType, source string } // where no pointer says them
}

// newFrames makes frames of a feed at a place.
func newFrames(cfg FrameConfig, cursor, place string) (*frames, error) {
	f := &frames{cfg: cfg}
	if cfg.Source == "" {
		cfg.Source = place
	}
	at, only, _ := strings.Cut(cfg.Only, "=")
	f.only = only
	for i, p := range []struct{ env, pointer string }{{"TYPE", cfg.Type}, {"SOURCE", cfg.Source}, {"ID", cfg.ID}, {"TIME", cfg.Time}, {"ONLY", at}, {"CURSOR", cursor}} {
		path := p.pointer
		if i == eventType || i == eventSource {
			var ok bool
			if path, ok = strings.CutPrefix(p.pointer, "#"); !ok {
				continue
			}
		}
		if path == "" {
			continue
		}
		if !pointer.Valid(path) {
			return nil, fmt.Errorf("WEBSOCKET_%s %q: want a JSON Pointer, as /x/hash", p.env, p.pointer)
		}
		f.has[i] = true
		f.places.Add(path, i)
	}
	if f.constant.eventType = cfg.Type; !f.has[eventType] && !isAttribute(cfg.Type) {
		return nil, fmt.Errorf("WEBSOCKET_TYPE %q: want a type of CloudEvents, as com.example.order.placed.v1, or #/pointer", cfg.Type)
	}
	if f.constant.source = cfg.Source; !f.has[eventSource] && !isSource(cfg.Source) {
		return nil, fmt.Errorf("WEBSOCKET_SOURCE %q: want a URI, as //feed.example.com/orders, or #/pointer", cfg.Source)
	}
	if !slices.Contains(pointer.Units, cfg.TimeUnit) {
		return nil, fmt.Errorf("WEBSOCKET_TIME_UNIT %q: want one of %s", cfg.TimeUnit, strings.Join(pointer.Units, ", "))
	}
	return f, nil
}

// frame is what a frame says. No event: it is passed over.
type frame struct {
	event     *event.Event
	cursor    string
	hasCursor bool
}

// read makes a frame's event.
func (f *frames) read(data []byte, now time.Time) frame {
	var values [looked]jsontext.Value
	contentType := event.TextPlain
	if jsontext.Value(data).IsValid() {
		contentType = event.ApplicationJSON
		if err := f.places.Find(data, values[:], nil); err != nil {
			return frame{} // of what is valid there is none
		}
	} else if !utf8.Valid(data) {
		contentType = "application/octet-stream"
	}
	var out frame
	out.cursor, out.hasCursor = scalar(values[cursorAt])
	if f.has[only] {
		if text, ok := scalar(values[only]); values[only] == nil || f.only != "" && (!ok || text != f.only) {
			return out
		}
	}
	typed, source := f.constant.eventType, f.constant.source
	if f.has[eventType] {
		if typed, _ = scalar(values[eventType]); !isAttribute(typed) {
			return out
		}
	}
	if f.has[eventSource] {
		if source, _ = scalar(values[eventSource]); !isSource(source) {
			return out
		}
	}
	id, ok := scalar(values[eventID])
	switch {
	case !ok || id == "":
		id = mesh.Hash(string(data))
	case !isAttribute(id):
		id = mesh.Hash(id)
	}
	e := event.New()
	e.SetType(typed)
	e.SetSource(source)
	e.SetID(id)
	e.SetTime(f.timeOf(values[eventTime], now))
	e.SetDataContentType(contentType)
	e.DataEncoded = data
	out.event = &e
	return out
}

// timeOf is the time that a frame tells, or that of its receipt.
func (f *frames) timeOf(value jsontext.Value, now time.Time) time.Time {
	at, ok := mesh.Instant(0), false
	switch value.Kind() {
	case '"':
		parsed, err := mesh.ParseInstant(pointer.Text(value))
		at, ok = parsed, err == nil
	case '0':
		at, ok = pointer.Instant(string(value), f.cfg.TimeUnit)
	}
	// RFC 3339 has years of four digits.
	if told := at.Time(); ok && told.Year() > 0 && told.Year() < 10000 {
		return told
	}
	return now
}

// scalar is the text of a string or a number.
func scalar(value jsontext.Value) (text string, ok bool) {
	if kind := value.Kind(); len(value) == 0 || kind != '"' && kind != '0' {
		return "", false
	}
	return pointer.Text(value), true
}

// isAttribute says whether text can be an attribute.
func isAttribute(text string) bool { return len(text) <= mesh.MaxIdentity && mesh.Verbatim(text) }

func isSource(text string) bool {
	_, err := url.Parse(text)
	return err == nil && isAttribute(text)
}
