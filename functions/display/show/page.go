package show

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/telemesh/telemesh/internal/function"
)

//go:embed page/index.html page/show.css page/show.js
var files embed.FS

// policy allows what the display itself serves, and nothing inline: what events say is
// foreign.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; " +
	"form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

func (d *Display) pages() http.Handler {
	mux := http.NewServeMux()
	for path, file := range map[string]string{"/{$}": "page/index.html", "/show.css": "page/show.css", "/show.js": "page/show.js"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, file) })
	}
	mux.HandleFunc("GET /events", d.events)
	mux.Handle("POST /", function.Events(d.Handle, d.log, "", nil)) // whatever path a Trigger has for it
	mux.HandleFunc("/", http.NotFound)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

const (
	beat = 15 * time.Second // finds out whether somebody is there
	// Shorter than Knative lets a request last (300 s): the browser comes again, and
	// says what it has seen.
	lasts = 4 * time.Minute
	// So long a page waits before it comes again: a process that ends waits until no
	// request has come for a second (function.Main).
	comeAgain = 3 * time.Second
	patience  = 30 * time.Second // who takes nothing for so long is gone
)

// events tells of the events that are kept and then of those that come, as
// server-sent events, which a browser goes on with where it was by Last-Event-ID. Who
// comes anew names the last id in the query, as after.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
//
//	data: {"n": 17, "at": …}             an event; n counts those since the process began
//	event: missed  data: 3               so many are not kept any more
func (d *Display) events(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("Last-Event-ID")
	if id == "" {
		id = r.URL.Query().Get("after")
	}
	last, ok := d.feed.number(id)
	if !ok {
		last = d.feed.start()
	}
	p := d.feed.after(last)
	if p.ended {
		w.Header().Set("Retry-After", strconv.Itoa(int(comeAgain/time.Second)))
		http.Error(w, "the display ends", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy passes it on at once
	to := http.NewResponseController(w)
	write := func(text []byte) error {
		_ = to.SetWriteDeadline(time.Now().Add(d.patience)) // where there is none, the server has its own
		if _, err := w.Write(text); err != nil {
			return err
		}
		return to.Flush()
	}
	if write(fmt.Appendf(nil, "retry: %d\n\n", comeAgain.Milliseconds())) != nil {
		return // nobody is there; so below
	}
	ticks := time.NewTicker(beat)
	defer ticks.Stop()
	over := time.NewTimer(lasts)
	defer over.Stop()
	for {
		if p.missed > 0 && write(fmt.Appendf(nil, "event: missed\ndata: %d\n\n", p.missed)) != nil {
			return
		}
		if len(p.events) > 0 {
			if write(bytes.Join(p.events, nil)) != nil {
				return
			}
		} else if p.ended {
			return
		} else {
			select {
			case <-p.news:
			case <-ticks.C:
				if write([]byte(":\n\n")) != nil {
					return
				}
			case <-over.C:
				return
			case <-r.Context().Done():
				return
			}
		}
		p = d.feed.after(p.last)
	}
}

// shown is an event as the page has it.
type shown struct {
	N          int64       `json:"n"`
	At         time.Time   `json:"at"`         // when it came here
	Attributes [][2]string `json:"attributes"` // those of the specification first, then the extensions
	Kind       string      `json:"kind"`       // of the data: none, text or hex
	Data       string      `json:"data"`       // the first dataShown of
	Size       int         `json:"size"`       // bytes
}

// dataShown is how many bytes of the data of an event are shown.
const dataShown = 64 << 10

// message is an event as a server-sent event.
func message(id string, n int64, at time.Time, e event.Event) []byte {
	s := shown{N: n, At: at.UTC().Truncate(time.Millisecond), Attributes: attributes(e), Size: len(e.Data())}
	s.Kind, s.Data = data(e.Data())
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings, and a time of this century
	}
	return fmt.Appendf(nil, "id: %s\ndata: %s\n\n", id, text)
}

func attributes(e event.Event) [][2]string {
	all := [][2]string{{"type", e.Type()}, {"source", e.Source()}, {"id", e.ID()}}
	if at := e.Time(); !at.IsZero() {
		all = append(all, [2]string{"time", types.FormatTime(at)})
	}
	all = append(all, [2]string{"subject", e.Subject()}, [2]string{"datacontenttype", e.DataContentType()}, [2]string{"dataschema", e.DataSchema()})
	extensions := e.Extensions()
	for _, name := range slices.Sorted(maps.Keys(extensions)) {
		value, err := types.Format(extensions[name])
		if err != nil {
			value = fmt.Sprint(extensions[name])
		}
		all = append(all, [2]string{name, value})
	}
	return slices.DeleteFunc(all, func(a [2]string) bool { return a[1] == "" })
}

// data is how data are shown, and the first of them so.
func data(all []byte) (kind, text string) {
	first := all[:min(len(all), dataShown)]
	switch {
	case len(all) == 0:
		return "none", ""
	case !utf8.Valid(all) || bytes.ContainsFunc(all, binary):
		return "hex", fmt.Sprintf("% x", first)
	}
	return "text", strings.ToValidUTF8(string(first), "") // but for a character that was cut
}

// binary says whether a character stands in no text.
func binary(r rune) bool { return unicode.IsControl(r) && !unicode.IsSpace(r) }
