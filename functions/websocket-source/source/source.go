// Package source brings the frames of a WebSocket feed to the broker.
//
// It connects to WEBSOCKET_URL, with the header fields of WEBSOCKET_HEADER (one
// "Name: value" a line), sends each line of WEBSOCKET_SUBSCRIBE as a message, and
// makes each frame that comes a CloudEvent, its data the frame as it came. Of
// frames that are JSON, JSON Pointers (RFC 6901) say the rest:
//
//	WEBSOCKET_TYPE, WEBSOCKET_SOURCE  the attribute itself, or #/a/b: what stands there
//	WEBSOCKET_ID                      /a/b; else, or of what is none there, a hash of the bytes
//	WEBSOCKET_TIME                    /a/b: RFC 3339, or a number of WEBSOCKET_TIME_UNIT (s, ms, us, ns)
//	                                  since 1970; else, or of what is none there, the time of receipt
//	WEBSOCKET_ONLY                    /a/b=text: frames with this text or number there, or /a/b: with anything
//
// Other frames are passed over, and so are those without the type or source that
// a pointer leads to. Without WEBSOCKET_SOURCE the source is the URL, but for its
// credentials and query. An id that no header can carry becomes its hash. The same
// frame that comes twice is the same event.
//
// Events of a type come as one event that carries them (mesh.Carry), filled up to
// BATCH_MAX_MESSAGES and BATCH_MAX_BYTES for at most BATCH_LINGER; with
// BATCH_MAX_MESSAGES=1 singly. Each is handed over until the broker has accepted
// it, whatever the broker answers. At most WEBSOCKET_BUFFER frames and
// WEBSOCKET_BUFFER_BYTES are in flight: then the source reads no more, and TCP
// holds the feed back. One that ends the connection for it is connected to again.
//
// A feed may have a cursor: WEBSOCKET_CURSOR is a pointer to it. The cursor of the
// last frame up to which the broker has accepted all is kept, in memory and in
// WEBSOCKET_CURSOR_FILE if there is one. A connection asks for what comes after it:
// {cursor} in WEBSOCKET_URL is the cursor, empty as long as none is known, and where
// one is, the lines of WEBSOCKET_RESUME are sent in place of WEBSOCKET_SUBSCRIBE, with
// {cursor} as in a JSON string. What was accepted behind the cursor comes again, and
// is the same event where its id is. Without a cursor, what the feed sends while
// nobody is connected is missed.
//
// A connection that ends, however it does, is made anew, after a random part of a
// time that doubles up to WEBSOCKET_BACKOFF; at once up to that where the feed says
// that somebody has to see to it (401, 403, 404; 1002, 1003, 1007, 1008, 1010), and
// not before what a Retry-After says. It ends when no frame has come for
// WEBSOCKET_SILENCE, when a ping, sent every WEBSOCKET_PING, is not answered within
// WEBSOCKET_PING_TIMEOUT, and with 1009 when a frame has more than
// WEBSOCKET_MAX_FRAME bytes, which is lost, or with a cursor comes again until that
// is raised; 0 as one of these times is never.
//
// An orderly end hands over what was read, again and again for 20 s. A kill loses
// what is in flight, but for what a cursor in a file brings again. /metrics tells
// of all this in the format of Prometheus.
//
// Frames are not compressed on their way: the source does not ask for it.
package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/net/http/httpguts"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/handover"
	"github.com/telemesh/telemesh/internal/mesh"
)

const name = "websocket-source"

// Config is the function's environment.
type Config struct {
	URL         string        `envconfig:"WEBSOCKET_URL" required:"true"` // ws or wss
	Header      string        `envconfig:"WEBSOCKET_HEADER"`
	Subscribe   string        `envconfig:"WEBSOCKET_SUBSCRIBE"`
	Resume      string        `envconfig:"WEBSOCKET_RESUME"`
	Cursor      string        `envconfig:"WEBSOCKET_CURSOR"`
	CursorFile  string        `envconfig:"WEBSOCKET_CURSOR_FILE"`
	Ping        time.Duration `envconfig:"WEBSOCKET_PING" default:"30s"`
	PingTimeout time.Duration `envconfig:"WEBSOCKET_PING_TIMEOUT" default:"10s"`
	Silence     time.Duration `envconfig:"WEBSOCKET_SILENCE" default:"5m"`
	Backoff     time.Duration `envconfig:"WEBSOCKET_BACKOFF" default:"1m"`
	MaxFrame    int64         `envconfig:"WEBSOCKET_MAX_FRAME" default:"524288"`
	Buffer      int           `envconfig:"WEBSOCKET_BUFFER" default:"5000"`
	BufferBytes int64         `envconfig:"WEBSOCKET_BUFFER_BYTES" default:"16777216"`
	Sink        string        `envconfig:"K_SINK" required:"true"` // the broker's ingress
	FrameConfig
	batch.Config
}

// validate says which value is none.
func (c *Config) validate() error {
	for name, d := range map[string]time.Duration{"PING": c.Ping, "PING_TIMEOUT": c.PingTimeout, "SILENCE": c.Silence} {
		if d < 0 {
			return fmt.Errorf("WEBSOCKET_%s is %s: it cannot be negative", name, d)
		}
	}
	switch {
	case c.Backoff <= 0:
		return fmt.Errorf("WEBSOCKET_BACKOFF is %s: it has to be more than 0", c.Backoff)
	case c.MaxFrame < 1:
		return fmt.Errorf("WEBSOCKET_MAX_FRAME is %d: it has to be at least 1", c.MaxFrame)
	case c.Buffer < 1:
		return fmt.Errorf("WEBSOCKET_BUFFER is %d: it has to be at least 1", c.Buffer)
	case c.BufferBytes < 1:
		return fmt.Errorf("WEBSOCKET_BUFFER_BYTES is %d: it has to be at least 1", c.BufferBytes)
	case c.Cursor == "" && (c.CursorFile != "" || c.Resume != "" || strings.Contains(c.URL, "{cursor}")):
		return errors.New("WEBSOCKET_CURSOR is empty, and WEBSOCKET_URL, WEBSOCKET_RESUME or WEBSOCKET_CURSOR_FILE wants one: give a JSON Pointer to it, as /sequence")
	}
	return c.Config.Validate()
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	s, err := New(cfg, ports)
	if err != nil {
		return nil, err
	}
	return &function.Function{Run: s.Run, HTTP: s.metrics.handler()}, nil
}

// Source is a feed's client.
type Source struct {
	cfg     Config
	header  http.Header
	place   string // of the feed, without what may be secret
	frames  *frames
	cursor  *cursor
	flight  *handover.Handover[event.Event]
	metrics *metrics
	log     *slog.Logger
	pressed pressed
}

// New makes a source.
func New(cfg Config, ports function.Ports) (*Source, error) {
	u, err := url.Parse(strings.ReplaceAll(cfg.URL, "{cursor}", "0"))
	if err != nil {
		return nil, errors.New("WEBSOCKET_URL is no URL") // the error quotes it, with what is secret
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	if u.Scheme != "ws" && u.Scheme != "wss" || u.Hostname() == "" {
		return nil, fmt.Errorf("WEBSOCKET_URL %s: want ws:// or wss:// and a host", u)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, place: u.String(), header: http.Header{}, log: ports.Log.With("feed", u.String())}
	for line := range lines(cfg.Header) {
		name, value, ok := strings.Cut(line, ":")
		if name, value = strings.TrimSpace(name), strings.TrimSpace(value); !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, errors.New("WEBSOCKET_HEADER: a line is no \"Name: value\"")
		}
		s.header.Add(name, value)
	}
	if s.frames, err = newFrames(cfg.FrameConfig, cfg.Cursor, s.place); err != nil {
		return nil, err
	}
	if s.cursor, err = openCursor(cfg.Cursor, cfg.CursorFile, s.log); err != nil {
		return nil, err
	}
	s.metrics = newMetrics()
	post := handover.Post(ports.Client, cfg.Sink, ports.Log)
	s.flight = handover.New(cfg.Config, cfg.Buffer, cfg.BufferBytes, func(c batch.Config) *batch.Batcher[event.Event] {
		return batch.Of(c, func(e *event.Event) int { return len(e.Data()) },
			func(eventType string, events []event.Event) (event.Event, error) {
				return mesh.Carry(events[0].Type(), mesh.Source(name), events)
			},
			func(ctx context.Context, e event.Event) error {
				err := post(ctx, e)
				if err != nil {
					s.metrics.failed.Inc()
				}
				return err
			})
	})
	s.metrics.watch(s.flight)
	return s, nil
}

// lines gives the lines of text that are not empty.
func lines(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" && !yield(line) {
				return
			}
		}
	}
}

// drainTime is what the end may take, of the 30 s that a function has.
const drainTime = 20 * time.Second

// Run reads until ctx is done, and then hands over until the broker has accepted
// what was read, or drainTime has passed: that is an error.
func (s *Source) Run(ctx context.Context) error {
	draining, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, cancel) })()
	s.read(ctx, draining)
	return errors.Join(s.flight.Close(draining), s.cursor.close())
}
