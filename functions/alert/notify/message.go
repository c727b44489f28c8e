package notify

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/telemesh/telemesh/internal/mesh"
)

// message is what a webhook of format json gets, and what the others' text is made of.
type message struct {
	Type string       `json:"type"`      // opened or closed
	At   mesh.Instant `json:"timestamp"` // event time
	Data facts        `json:"data"`
}

// facts are what is known of a room when its level changes. What is not known is absent.
type facts struct {
	Alert    string            `json:"alert_id"` // the same from its opening until it is cleared
	Rule     string            `json:"rule"`
	Tenant   string            `json:"tenant_id,omitempty"`
	Customer string            `json:"customer_name,omitempty"`
	Building string            `json:"building,omitempty"`
	Floor    string            `json:"floor,omitempty"`
	Room     string            `json:"room,omitempty"`
	Device   string            `json:"device_id,omitempty"` // whose reading changed the level
	Key      map[string]string `json:"key"`                 // of the rule: what is alerted of

	Metric       string        `json:"metric,omitempty"`
	Value        float64       `json:"value"`
	Unit         string        `json:"unit,omitempty"` // UCUM code
	Label        string        `json:"label"`
	SeverityText string        `json:"severity_text"`
	Severity     int           `json:"severity_number"`
	Worst        string        `json:"worst_label"` // the highest level that the alert has had
	Since        mesh.Instant  `json:"since"`       // when it was opened
	LastAction   string        `json:"last_action,omitempty"`
	LastActionAt *mesh.Instant `json:"last_action_at,omitempty"`
}

func newFacts(rule, tenant string, c *mesh.Classified) (facts, error) {
	// Of a joined reading. A record of another kind may have some of it, or another thing of
	// that name: what is no text here is left out.
	var record struct {
		DeviceID     string        `json:"device_id"`
		Metric       string        `json:"metric"`
		Building     string        `json:"building"`
		Floor        string        `json:"floor"`
		Room         string        `json:"room"`
		CustomerName string        `json:"customer_name"`
		LastAction   string        `json:"last_action"`
		LastActionAt *mesh.Instant `json:"last_action_at"`
	}
	if len(c.Record) > 0 {
		if err := json.Unmarshal(c.Record, &record); err != nil && !errors.As(err, new(*json.UnmarshalTypeError)) {
			return facts{}, fmt.Errorf("record: %w", err)
		}
	}
	f := facts{
		Rule: rule, Tenant: cmp.Or(c.Key["tenant_id"], tenant), Customer: record.CustomerName,
		Building: cmp.Or(c.Key["building"], record.Building), Floor: cmp.Or(c.Key["floor"], record.Floor), Room: cmp.Or(c.Key["room"], record.Room),
		Device: cmp.Or(c.Key["device_id"], record.DeviceID), Key: c.Key,
		Metric: record.Metric, Value: c.Value, Unit: c.Unit, Label: c.Label, SeverityText: c.SeverityText, Severity: c.SeverityNumber,
	}
	if record.LastAction != "" && record.LastActionAt != nil {
		f.LastAction, f.LastActionAt = record.LastAction, record.LastActionAt
	}
	return f, nil
}

// place names the room, or where there is none, whatever the key has.
func (f *facts) place() string {
	var parts []string
	for _, part := range []struct{ word, value string }{{"", f.Building}, {"floor ", f.Floor}, {"room ", f.Room}} {
		if part.value != "" {
			parts = append(parts, part.word+part.value)
		}
	}
	if f.Room == "" && f.Device != "" {
		parts = append(parts, "device "+f.Device)
	}
	if len(parts) == 0 {
		for _, name := range slices.Sorted(maps.Keys(f.Key)) { // sent again, it is the same text
			parts = append(parts, name+" "+f.Key[name])
		}
	}
	return oneLine(strings.Join(parts, ", "))
}

// what is measured: co2 has a sign, of most metrics the name is a word.
func (f *facts) what() string {
	if f.Metric == "co2" {
		return "CO₂"
	}
	return oneLine(strings.ReplaceAll(cmp.Or(f.Metric, f.Rule), "_", " "))
}

// quantity has about three digits, as the portal's.
func (f *facts) quantity() string {
	scale := 1.0
	switch a := math.Abs(f.Value); {
	case a < 10:
		scale = 100
	case a < 100:
		scale = 10
	}
	return strings.TrimSpace(strconv.FormatFloat(math.Round(f.Value*scale)/scale, 'f', -1, 64) + " " + oneLine(f.Unit))
}

// oneLine keeps what somebody has called a room from making lines, or headers, of its own.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) || unicode.Is(unicode.Bidi_Control, r) {
			return ' '
		}
		return r
	}, s)
}

// subject is the first line.
func (m *message) subject() string {
	f := &m.Data
	state := oneLine(f.Label)
	if m.Type == closed {
		state += " again"
	}
	return fmt.Sprintf("%s %s: %s", f.what(), state, f.place())
}

// body is what follows it, a line each.
func (m *message) body(zone *time.Location, portal string) []string {
	f := &m.Data
	when := func(i mesh.Instant) string { return i.Time().In(zone).Format("Mon 2 Jan 2006, 15:04 MST") }
	var lines []string
	if m.Type == closed {
		lines = append(lines,
			fmt.Sprintf("%s since %s.", f.quantity(), when(m.At)),
			fmt.Sprintf("The alert was open since %s; at its worst it was %s.", when(f.Since), oneLine(f.Worst)))
	} else {
		lines = append(lines, fmt.Sprintf("%s since %s.", f.quantity(), when(m.At)))
		if f.Since != m.At {
			lines = append(lines, fmt.Sprintf("The alert is open since %s.", when(f.Since)))
		}
	}
	if f.LastAction != "" {
		lines = append(lines, fmt.Sprintf("Last action: %s, %s.", oneLine(f.LastAction), when(*f.LastActionAt)))
	} else {
		lines = append(lines, "No action is known.")
	}
	if who := oneLine(cmp.Or(f.Customer, f.Tenant)); who != "" {
		lines = append(lines, "Tenant: "+who+".")
	}
	if link := f.link(zone, portal); link != "" {
		lines = append(lines, link)
	}
	return lines
}

// before is how much earlier than an alert the page that a link opens begins.
const before = 3 * time.Hour

// link is the portal's page of the room, or of the device that is in none.
func (f *facts) link(zone *time.Location, portal string) string {
	if portal == "" || f.Tenant == "" || f.Room+f.Device == "" {
		return ""
	}
	q := url.Values{"tenant": {f.Tenant}, "from": {f.Since.Time().Add(-before).Format(time.RFC3339)}}
	if f.Metric != "" {
		q.Set("metric", f.Metric)
	}
	if zone != time.UTC {
		q.Set("tz", zone.String())
	}
	if f.Room != "" {
		q.Set("room", escaped.Replace(f.Building)+"/"+escaped.Replace(f.Floor)+"/"+escaped.Replace(f.Room))
	} else {
		q.Set("device", f.Device)
	}
	return strings.TrimSuffix(portal, "/") + "/air?" + q.Encode()
}

// escaped is what a room's key in an address escapes (air.Room.Key, whose package is that
// of who opens the warehouse).
var escaped = strings.NewReplacer("%", "%25", "/", "%2F")

func checkPortal(portal string) error {
	if u, err := url.Parse(portal); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("PORTAL_URL %q: want http://HOST or https://HOST", portal)
	}
	return nil
}

// text is the message in lines.
func (m *message) text(zone *time.Location, portal string) string {
	return m.subject() + "\n\n" + strings.Join(m.body(zone, portal), "\n") + "\n"
}
