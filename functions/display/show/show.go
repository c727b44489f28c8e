// Package show shows every event that comes, and replies nothing: the smallest
// subscriber there is.
//
// Each event is printed to stdout as the SDK of CloudEvents formats it, and shown
// by a page at / as it comes. A carrier is shown as the events that it carries;
// one that cannot be read is shown as it is. What would move the cursor of a
// terminal, or is no UTF-8, is printed as \x1b; the page shows data that are text as they
// came and all others as hex, of both the first 64 KiB.
//
// The latest DISPLAY_EVENTS events, of at most DISPLAY_BYTES together, are kept
// in memory for who opens the page later. They end with the process, which scales
// to zero where nobody sends or looks. What is delivered again is shown again.
//
// It asks nobody who he is: whoever reaches it sees all of it. Therefore it is no part of
// config/; where it runs, it is cluster-local.
package show

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// Config is the function's environment.
type Config struct {
	Events int `envconfig:"DISPLAY_EVENTS" default:"500"`    // that are kept, the latest
	Bytes  int `envconfig:"DISPLAY_BYTES" default:"8388608"` // of them, as they are sent to pages
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	d, err := New(cfg, os.Stdout, ports.Log)
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: d.Handle, HTTP: d.pages(), Run: d.Run}, nil
}

// Display shows events.
type Display struct {
	feed     *feed
	log      *slog.Logger
	patience time.Duration // with a page that takes nothing

	printing sync.Mutex
	out      io.Writer
}

// New makes a display that prints to out.
func New(cfg Config, out io.Writer, log *slog.Logger) (*Display, error) {
	if cfg.Events < 1 || cfg.Bytes < 1 {
		return nil, fmt.Errorf("DISPLAY_EVENTS is %d and DISPLAY_BYTES %d: want at least 1 of both", cfg.Events, cfg.Bytes)
	}
	return &Display{feed: newFeed(cfg.Events, cfg.Bytes), out: out, log: log, patience: patience}, nil
}

// Handle shows in.
func (d *Display) Handle(_ context.Context, in event.Event) ([]event.Event, error) {
	events, err := mesh.Carried(in)
	if err != nil {
		d.log.Warn("carrier not read, it is shown as it is", "event.id", in.ID(), "event.type", in.Type(), "error", err)
		events = []event.Event{in}
	}
	for _, e := range events {
		if err := d.print(e); err != nil { // the page has it
			d.log.Warn("event not printed", "event.id", e.ID(), "event.type", e.Type(), "error", err)
		}
		d.feed.add(func(n int64) []byte { return message(d.feed.id(n), n, time.Now(), e) })
	}
	return nil, nil
}

// Run ends the pages' connections with ctx: they would keep the process from ending.
func (d *Display) Run(ctx context.Context) error {
	<-ctx.Done()
	d.feed.end()
	return nil
}

func (d *Display) print(e event.Event) error {
	text := printable(e.String())
	d.printing.Lock()
	defer d.printing.Unlock()
	_, err := io.WriteString(d.out, text)
	return err
}

// printable is text that does to a terminal nothing but stand there.
func printable(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, moves) {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case moves(r) && r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case moves(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// moves says whether a character does more than stand in a text: a control, or one
// that turns the direction of those after it.
func moves(r rune) bool {
	return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r)
}
