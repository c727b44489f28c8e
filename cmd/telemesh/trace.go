package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/rejected"
	"github.com/telemesh/telemesh/internal/trace"
	"github.com/telemesh/telemesh/internal/warehouse"
)

func traceCommand() *cobra.Command {
	var (
		at       warehouseAt
		mappings string
		asJSON   bool
	)
	cmd := &cobra.Command{
		Use:   "trace READING_ID",
		Short: "Tell the whole story of a reading: its message, revisions, placements and events",
		Long: `Tells of one row of iot_telemetry.readings and iot_analytics.readings what it says
and why: the message it came in, byte for byte, and what its reader makes of it
now; every row that was ever stored of it, and which one counts; what was ever
said of whose the device was at that instant, when and by which event; and the
events it went through.

A reading_id is 32 hexadecimal digits; the first eight are enough where no other
reading begins with them.`,
		Example: `  telemesh query "SELECT reading_id FROM iot_telemetry.readings WHERE device_id = 'd1' ORDER BY observed_at DESC LIMIT 1"
  telemesh trace 3f2a9c01`,
		Args: arguments(cobra.ExactArgs(1), "one reading_id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			formats, err := flatten.ReadFormats(mappings)
			if err != nil {
				return err
			}
			return at.with(cmd.Context(), func(w warehouse.Warehouse) error {
				id, err := oneReading(cmd.Context(), w, args[0])
				if err != nil {
					return err
				}
				story, err := trace.Tell(cmd.Context(), w, formats.Parser(), id)
				if err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(story)
				}
				return writeStory(cmd.OutOrStdout(), story)
			})
		},
	}
	at.flags(cmd)
	mappingsFlag(cmd, &mappings)
	cmd.Flags().BoolVar(&asJSON, "json", false, "an object with all of it, the message whole")
	return cmd
}

// oneReading gives the id of the one reading that an id or its begin names.
func oneReading(ctx context.Context, w warehouse.Warehouse, id string) (string, error) {
	id = strings.ToLower(id)
	if !trace.IsID(id) {
		return "", hint(fmt.Errorf("%q is no reading_id", id), "it is 32 hexadecimal digits, of which the first %d may be enough; %s", trace.MinPrefix, howToFind)
	}
	ids, err := trace.Find(ctx, w, id)
	switch {
	case err != nil:
		return "", err
	case len(ids) == 0:
		return "", hint(fmt.Errorf("no reading %s", id), "%s", howToFind)
	case len(ids) > 1:
		return "", hint(fmt.Errorf("more than one reading begins with %s", id), "such as %s and %s: give more digits", ids[0], ids[1])
	}
	return ids[0], nil
}

const howToFind = "`telemesh query \"SELECT reading_id, device_id, metric, observed_at FROM iot_telemetry.readings " +
	"WHERE device_id = '…' ORDER BY observed_at DESC LIMIT 10\"` finds it"

// shownOfChoice is how many events are shown of those of which one has the
// reading.
const shownOfChoice = 2

// A payload is cut after so many bytes of text, or lines: --json has it whole.
const (
	shownPayload = 4 << 10
	shownLines   = 20
)

// writeStory writes a story as a person reads it.
func writeStory(out io.Writer, s *trace.Story) error {
	p := printer{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0), out}
	p.cells("reading", s.ReadingID)
	p.cells("device", plain(s.DeviceID))
	p.cells("metric", plain(s.Metric))
	p.cells("observed", s.ObservedAt.String())
	for i := range s.Ports {
		p.cells(s.Ports[i].Table, portSays(&s.Ports[i]))
	}
	for i := range s.Messages {
		p.title("message %d of %d", i+1, len(s.Messages))
		p.message(&s.Messages[i])
	}
	for i := range s.Ports {
		if len(s.Ports[i].Revisions) > 0 {
			p.title("stored for %s", s.Ports[i].Table)
			p.revisions(s, s.Ports[i].Revisions)
		}
	}
	p.title("whose device %s was at %s", plain(s.DeviceID), s.ObservedAt)
	p.placements(s)
	p.title("events")
	p.events(s.Events)
	return p.Flush()
}

// printer writes tables, one after the other.
type printer struct {
	*tabwriter.Writer
	out io.Writer // what is no table goes there, after Flush
}

func (p printer) cells(cells ...string) { fmt.Fprintln(p, strings.Join(cells, "\t")) }

func (p printer) title(format string, args ...any) {
	p.Flush() // columns are those of one table
	fmt.Fprintf(p.out, "\n"+format+"\n", args...)
}

// portSays is what a port says of the reading now.
func portSays(p *trace.Port) string {
	switch p.State {
	case trace.Absent:
		return "has no row: a reading comes here when a tenant held its device"
	case trace.Parked:
		if p.Row == nil {
			return "shows nothing: nobody ever held the device then"
		}
		return fmt.Sprintf("%s, parked: %s (revision %d)", value(p.Row), noTenant(p.Row), p.Row.Int("revision"))
	case trace.Withdrawn:
		if p.Row == nil {
			return "shows nothing: the reading was withdrawn from who had it"
		}
		return fmt.Sprintf("%s, withdrawn: %s (revision %d)", value(p.Row), noTenant(p.Row), p.Row.Int("revision"))
	}
	text := fmt.Sprintf("%s of tenant %s (revision %d, assignment_version %d", value(p.Row), plain(p.Row.Text("tenant_id")), p.Row.Int("revision"), p.Row.Int("assignment_version"))
	if quality := p.Row.Text("quality"); quality != "" {
		text += ", quality " + quality
	}
	return text + ")"
}

func noTenant(r trace.Row) string {
	if version := r.Int("assignment_version"); version > 0 {
		return fmt.Sprintf("nobody held the device any more by assignment_version %d", version)
	}
	return "nothing was ever said of whose the device was"
}

// value is the value of a reading with its unit.
func value(r trace.Row) string {
	v := plain(short(text(r.Value())))
	if unit := r.Text("unit"); unit != "" {
		v += " " + plain(unit)
	}
	return v
}

func (p printer) message(m *trace.Message) {
	p.cells("source", plain(m.Source))
	p.cells("id", plain(m.ID))
	p.cells("received", m.ReceivedAt.String())
	if m.In == nil {
		p.cells("bytes", "event_log.events has no event with this message (any more)")
		return
	}
	p.cells("event", plain(m.In.Source+" "+m.In.ID)+accepted(m.In))
	for _, line := range [][2]string{{"device", m.DeviceID}, {"format", m.Format}, {"content type", m.ContentType}} {
		if line[1] != "" {
			p.cells(line[0], plain(line[1])+", as the transport said")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Attributes)) {
		p.cells("attribute "+plain(name), plain(m.Attributes[name]))
	}
	reader := "no reader"
	if len(m.Decoded.Formats) > 0 {
		reader = "read as " + plain(strings.Join(m.Decoded.Formats, ", with a message in it read as "))
	}
	p.cells("reader", reader+": "+plain(m.Decoded.Summary()))
	for _, found := range m.Decoded.Found {
		p.cells("reading", value(found)+qualityOf(found))
	}
	payload := m.Payload()
	size := fmt.Sprintf("%d bytes", len(payload))
	if n := shownOf(payload); n < len(payload) {
		size += fmt.Sprintf(", of which the first %d are shown; --json has all", n)
		payload = payload[:n]
	}
	p.cells("payload", size)
	p.Flush()
	fmt.Fprintf(p.out, "\n%s", rejected.Marked(payload, -1))
}

// shownOf is how many bytes of a payload are shown.
func shownOf(payload []byte) int {
	if !rejected.IsText(payload) {
		return min(len(payload), shownLines*16) // hex.Dump has 16 in a line
	}
	n := 0
	for range shownLines {
		line := bytes.IndexByte(payload[n:], '\n') + 1
		if line == 0 {
			n = len(payload)
			break
		}
		n += line
	}
	if n <= shownPayload {
		return n
	}
	for n = shownPayload; !utf8.RuneStart(payload[n]); n-- { // a letter may be cut in two
	}
	return n
}

func accepted(e *trace.Event) string {
	var at []string
	for _, a := range e.Accepted {
		at = append(at, fmt.Sprintf("accepted by %s at %s", a.Broker, a.ReceivedAt))
	}
	return ", " + strings.Join(at, ", ")
}

func qualityOf(r trace.Row) string {
	if quality := r.Text("quality"); quality != "" {
		return ", quality " + quality
	}
	return ""
}

func (p printer) revisions(s *trace.Story, revisions []trace.Revision) {
	joined := slices.ContainsFunc(revisions, func(r trace.Revision) bool { _, ok := r.Row["join_version"]; return ok })
	// The port counts the rows that took the place of another as revisions; here
	// is what the source said, which is 0 unless it corrects itself.
	revised := slices.ContainsFunc(revisions, func(r trace.Revision) bool { return r.Row.Int("revision") != 0 })
	head := []string{"RECORDED", "TENANT", "VALUE", "ASSIGNMENT", "QUALITY"}
	if revised {
		head = append(head, "REVISION AS APPENDED")
	}
	if joined {
		head = append(head, "JOIN", "PLACE", "CUSTOMER", "LAST ACTION")
	}
	p.cells(append(head, "MESSAGE", "COUNTS")...)
	message := func(r trace.Row) string {
		return fmt.Sprint(1 + slices.IndexFunc(s.Messages, func(m trace.Message) bool { return m.Brought(r) }))
	}
	for _, r := range revisions {
		row := r.Row
		counts := "no: " + r.Why
		if r.Counts {
			counts = "yes: " + r.Why
		}
		cells := []string{
			row.Instant("recorded_at").String(), orDash(plain(row.Text("tenant_id"))), value(row), text(row["assignment_version"]), orDash(row.Text("quality")),
		}
		if revised {
			cells = append(cells, text(row["revision"]))
		}
		if joined {
			place := strings.TrimLeft(strings.Join([]string{row.Text("building"), row.Text("floor"), row.Text("room")}, "/"), "/")
			action := row.Text("last_action")
			if action != "" {
				action = short(action) + " " + row.Instant("last_action_at").String()
			}
			if deleted, _ := row["deleted"].(bool); deleted {
				place = "withdrawn"
			}
			cells = append(cells, orDash(text(row["join_version"])), orDash(plain(place)), orDash(plain(row.Text("customer_name"))), orDash(plain(action)))
		}
		p.cells(append(cells, message(row), plain(counts))...)
	}
}

func (p printer) placements(s *trace.Story) {
	if len(s.Placements) == 0 {
		p.cells("nothing was ever said")
		return
	}
	p.cells("RECORDED", "PLACEMENTS", "ROW VERSION", "TENANT", "FROM", "TO", "THEN HELD BY", "BY")
	for i := range s.Placements {
		row := &s.Placements[i]
		to := "open"
		if row.ValidTo != nil {
			to = row.ValidTo.String()
		}
		tenant := plain(row.TenantID)
		if row.Deleted {
			tenant += " (deleted)"
		}
		held := orDash(plain(row.Holder))
		if row.Decides {
			held += fmt.Sprintf(", assignment_version %d", row.Log)
		}
		if row.Stamps {
			held += ": the row's"
		}
		by := "not in the event log (any more)"
		if row.By != nil {
			by = plain(row.By.Source) + " " + eventName(row.By.ID) + accepted(row.By)
		}
		p.cells(row.RecordedAt.String(), text(row.Log), text(row.Version), tenant, row.ValidFrom.String(), to, held, by)
	}
}

func (p printer) events(events []trace.Event) {
	if len(events) == 0 {
		p.cells("event_log.events has none of this reading (any more)")
		return
	}
	p.cells("ACCEPTED", "BROKERS", "TYPE", "MADE BY", "TENANT", "METADATA", "ID", "OF", "WHICH")
	choices := map[int]int{} // how many are in each
	for i := range events {
		choices[events[i].Choice]++
	}
	left := maps.Clone(choices)
	for i := range events {
		e := &events[i]
		what := e.Part
		if n := choices[e.Choice]; e.Choice != 0 {
			// The last ones were accepted just before the row was stored.
			if left[e.Choice]--; left[e.Choice] >= shownOfChoice {
				continue
			}
			what = fmt.Sprintf("one of %d such: %s", n, what)
			if n > shownOfChoice {
				what += "; --json has all"
			}
		}
		var brokers []string
		for _, a := range e.Accepted {
			brokers = append(brokers, a.Broker)
		}
		p.cells(e.Accepted[0].ReceivedAt.String(), strings.Join(brokers, ", "), strings.TrimSuffix(strings.TrimPrefix(e.Type, "dev.telemesh."), ".v1"),
			plain(strings.TrimPrefix(e.Source, mesh.Source(""))), orDash(plain(e.Extensions[mesh.ExtTenant])), orDash(plain(e.Extensions[mesh.ExtVersion])),
			eventName(e.ID), orDash(eventName(e.Extensions[mesh.ExtCauseID])), what)
	}
}

// eventName is the id of an event as a table shows it: those of the mesh are
// hashes, of which the begin is enough to tell them apart.
func eventName(id string) string {
	if hexID.MatchString(id) && len(id) > shownID {
		return id[:shownID]
	}
	return plain(short(id))
}
