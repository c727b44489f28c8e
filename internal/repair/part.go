package repair

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// ExtFrom is on an event that goes on with a repair: the readings before it, in
// the order of Rows, are done. An instant in µs, a space and the device,
// percent-encoded: an attribute has no control characters, a device may.
const ExtFrom = "repairfrom"

// Part is as much of the repair that an event asks for as fits into a time. The
// rest is an event of its own, and so a delivery that may take as long again:
// however many readings there are, no delivery has to do all of them.
type Part struct {
	in    event.Event
	from  cursor // nothing before it is left
	until time.Time
	rest  *cursor // where the next part begins
}

// cursor is an instant of a device.
type cursor struct {
	device string
	at     mesh.Instant
}

// NewPart begins a part of the repair that in asks for.
func NewPart(in event.Event, within time.Duration) (*Part, error) {
	p := &Part{in: in, from: cursor{"", Always}, until: time.Now().Add(within)}
	if value, ok := in.Extensions()[ExtFrom]; ok {
		var err error
		if p.from, err = parse(value); err != nil {
			return nil, fmt.Errorf("%s %s: extension %s: %w", in.Type(), in.ID(), ExtFrom, err)
		}
	}
	return p, nil
}

func parse(value any) (c cursor, err error) {
	text, err := types.Format(value)
	if err != nil {
		return c, err
	}
	at, device, ok := strings.Cut(text, " ")
	if !ok {
		return c, fmt.Errorf("%q is no instant and device", text)
	}
	n, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return c, err
	}
	c.at = mesh.Instant(n)
	c.device, err = url.PathUnescape(device)
	return c, err
}

func (c cursor) String() string { return fmt.Sprintf("%d %s", c.at, url.PathEscape(c.device)) }

// Rows gives the rows of the readings in the ranges, as the function Rows does,
// until the time is spent: what the earlier parts gave is left out, and at least
// all readings of one instant of a device are given. The ranges must not
// overlap, and are sorted.
func (p *Part) Rows(ctx context.Context, w warehouse.Warehouse, table string, ranges []Range) iter.Seq2[[]mesh.JoinedReading, error] {
	ranges = slices.DeleteFunc(ranges, func(r Range) bool {
		return r.Device < p.from.device || r.Device == p.from.device && r.To <= p.from.at
	})
	for i := range ranges {
		if r := &ranges[i]; r.Device == p.from.device {
			r.From = max(r.From, p.from.at)
		}
	}
	return func(yield func([]mesh.JoinedReading, error) bool) {
		var last cursor
		begun := false
		for where := range Conditions(ranges) {
			for rows, err := range Rows(ctx, w, table, where) {
				if err != nil {
					yield(nil, err)
					return
				}
				here := cursor{rows[0].DeviceID, rows[0].ObservedAt}
				if begun && here != last && !time.Now().Before(p.until) {
					p.rest = &here
					return
				}
				begun, last = true, here
				if !yield(rows, nil) {
					return
				}
			}
		}
	}
}

// Rest gives the event that asks for what is left after Rows: the one that asked
// for this part, from where this part ended. None if nothing is left.
func (p *Part) Rest(function string) []event.Event {
	if p.rest == nil {
		return nil
	}
	from := p.rest.String()
	out := mesh.Derive(p.in, function, p.in.Type(), from, p.in.Data())
	out.SetExtension(ExtFrom, from)
	if version, ok := p.in.Extensions()[mesh.ExtVersion]; ok {
		out.SetExtension(mesh.ExtVersion, version)
	}
	return []event.Event{out}
}
