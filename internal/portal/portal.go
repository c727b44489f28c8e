// Package portal shows what the mesh does as a web page: what the brokers
// accepted, how far the triggers are, what the tables hold, how the air is,
// and what could not be delivered.
//
// The page is rendered on the server, needs no script, and loads nothing: a
// Content Security Policy allows its one style sheet and nothing else.
package portal

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Source tells how things stand. It is asked once per page.
type Source interface {
	Status(ctx context.Context) (Status, error)
}

// Status is how things stand at an instant.
type Status struct {
	At          time.Time // when it was taken; ages are counted from it
	Since       time.Time // when the mesh was started; zero: not shown
	Ingest      string    // URL to POST messages to
	Data        string    // where the data is kept; empty: not shown
	Brokers     []Broker
	Triggers    []Trigger
	Tables      []Table
	Rooms       []Room
	Failures    []Failure    // the latest, newest first
	DeadLetters []DeadLetter // the latest, newest first
	// AllDeadLetters is how many there are.
	AllDeadLetters int
}

// Broker is what a broker took in.
type Broker struct {
	Name     string // iot/iot
	Ingress  string // URL to POST events to
	Accepted int64  // events
	Refused  int64  // requests, for good
}

// Trigger is how far the deliveries of a trigger are, in events.
type Trigger struct {
	Name, Broker, Subscriber string
	Pending                  int64
	InFlight                 int64 // of the pending ones, with the subscriber now
	Delivered, Retried       int64
	DeadLettered             int64
}

// Table is an output port.
type Table struct {
	Name   string // iot_telemetry.readings
	Rows   int64
	Newest time.Time // the latest observed_at; zero: none, or the table has no such column
}

// Room is the latest CO2 that was measured in a room.
type Room struct {
	Tenant, Building, Floor, Room string
	CO2                           float64 // ppm
	OutsideCO2                    float64 // ppm; 0: not known
	ObservedAt                    time.Time
}

// Failure is one attempt to deliver an event that failed. Another may follow.
type Failure struct {
	At      time.Time
	Trigger string
	EventID string
	Type    string // of the event
	Status  int    // of HTTP, or what it would have been
	Text    string
}

// DeadLetter is an event that could not be delivered.
type DeadLetter struct {
	ID      string // what `telemesh deadletters show` takes
	Trigger string
	Type    string // of the event
	Cause   string
	At      time.Time
}

var (
	//go:embed status.css
	style string
	//go:embed status.html
	markup string

	page = template.Must(template.New("status").Funcs(template.FuncMap{
		"count":   count,
		"total":   func(n int) string { return count(int64(n)) },
		"age":     age,
		"utc":     utc,
		"ppm":     func(v float64) string { return count(int64(v + 0.5)) },
		"air":     judge,
		"subject": subject,
		"style":   func() template.CSS { return template.CSS(style) },
	}).Parse(markup))

	// The browser applies the style element whose text has this hash, and
	// loads and runs nothing else.
	policy = "default-src 'none'; style-src 'sha256-" + hash(style) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Handler serves the status page at /. It answers 503, with the page saying
// why, while source cannot tell how things stand.
func Handler(source Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		status, err := source.Status(r.Context())
		code := http.StatusOK
		view := struct {
			Status
			Cause string
		}{Status: status}
		if err != nil {
			code, view.Cause = http.StatusServiceUnavailable, err.Error()
		}
		var b bytes.Buffer
		if err := page.Execute(&b, view); err != nil {
			http.Error(w, fmt.Sprintf("render the status: %v", err), http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		w.WriteHeader(code)
		w.Write(b.Bytes()) // a client that is gone needs no answer
	})
	return mux
}

// count prints n with a thin space between thousands.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "−", s[1:]
	}
	var b strings.Builder
	b.WriteString(sign)
	for i, digit := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteRune('\u202f')
		}
		b.WriteRune(digit)
	}
	return b.String()
}

// age prints how long before now t is, in one unit.
func age(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return ""
	case d <= -time.Minute:
		return "ahead by " + span(-d) // a device whose clock is wrong
	case d < time.Second:
		return "now"
	}
	return span(d) + " ago"
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

func utc(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// verdict is how good the air is, for people and for the style sheet.
type verdict struct{ Class, Word string }

// judge compares with EN 16798-1, which gives CO2 above outside for occupied
// rooms: category I ends at 550 ppm, II at 800, III at 1350.
func judge(r Room) verdict {
	outside := r.OutsideCO2
	if outside == 0 {
		outside = 420 // about the global mean
	}
	switch above := r.CO2 - outside; {
	case above <= 550:
		return verdict{"good", "good"}
	case above <= 800:
		return verdict{"fair", "fair"}
	case above <= 1350:
		return verdict{"poor", "air the room"}
	}
	return verdict{"bad", "open the windows"}
}

// subject is the part of an event type that tells it from the others.
func subject(eventType string) string {
	return strings.TrimSuffix(strings.TrimPrefix(eventType, "dev.telemesh."), ".v1")
}
