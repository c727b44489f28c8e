// Package repair gives stored readings the tenant that the placements say now.
//
// It takes placements.recorded. The assignments of the event's devices that
// changed since its version are looked up at the output port of iot-metadata,
// and of the stored readings exactly those in their intervals are read. What is
// not stamped with its assignment yet is posted again, with the revision it was
// measured with: as telemetry.enriched, or as telemetry.unassigned with the
// extension withdrawn where the device is nobody's now. The reply is
// tenancy.repaired, which says how many rows went from whom to whom.
//
// It takes telemetry.outdated: readings that were stored when placements had
// been recorded that they do not know of. Those that would be stamped otherwise
// now are sent again. So either the repair of a change finds a reading stored,
// or the reading is told of the change.
//
// What is not done when a part of the Service's timeout is spent is left to
// another placements.recorded, which goes on from there: each part tells what it
// did. A part that is interrupted is done again by the redelivery of its event:
// what is stamped already is left. The same event, with the same rows stored,
// makes the same events. Data that cannot be decoded are a permanent error; an
// output port or a warehouse that is away is a passing one.
package repair

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/repair"
	"github.com/telemesh/telemesh/internal/tenancy"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
)

// Config is the function's environment.
type Config struct {
	connect.Config
	AssignmentsURL string `envconfig:"ASSIGNMENTS_URL" required:"true"` // output port of iot-metadata
	Sink           string `envconfig:"K_SINK" required:"true"`          // the Broker's ingress
	// Less than the Service's timeoutSeconds: what is left goes on in another delivery.
	Within time.Duration `envconfig:"REPAIR_WITHIN" default:"5m"`
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	w, err := cfg.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	// The index is asked for anew for each event: an interval changes nothing.
	assignments := tenancy.NewClient(ports.Client, cfg.AssignmentsURL, time.Minute, ports.Log)
	post := func(ctx context.Context, e event.Event) error { return function.Post(ctx, ports.Client, cfg.Sink, e) }
	return &function.Function{Handler: New(assignments, w, cfg.Within, post)}, nil
}

// Assignments is where the handler finds who held a device.
type Assignments interface {
	Fresh(context.Context) (*tenancy.Index, error) // asked for after the call began
}

const name = "tenancy-repair"

// New makes the handler. What it makes of a change is handed to post while it
// reads on, for about as long as within.
func New(assignments Assignments, w warehouse.Warehouse, within time.Duration, post func(context.Context, event.Event) error) function.Handler {
	h := handler{assignments, w, within, post}
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		switch in.Type() {
		case mesh.PlacementsRecorded:
			return h.recorded(ctx, in)
		case mesh.TelemetryOutdated:
			return h.outdated(ctx, in)
		}
		return nil, mesh.Permanentf("%s cannot repair by an event of type %q: its trigger has to filter on %s and %s",
			name, in.Type(), mesh.PlacementsRecorded, mesh.TelemetryOutdated)
	}
}

type handler struct {
	assignments Assignments
	warehouse   warehouse.Warehouse
	within      time.Duration
	post        func(context.Context, event.Event) error
}

func (h handler) outdated(ctx context.Context, in event.Event) ([]event.Event, error) {
	readings, err := mesh.DecodeEntries(in.Data())
	if err != nil {
		return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
	}
	index, err := h.assignments.Fresh(ctx)
	if err != nil {
		return nil, err
	}
	var other []mesh.Entry
	var stamps []tenancy.Stamp
	all, _ := index.Stamps(readings)
	for i, s := range all {
		if r := readings[i]; s.Tenant != r.TenantID || s.Version != r.AssignmentVersion {
			other, stamps = append(other, r), append(stamps, s)
		}
	}
	return tenancy.Events(in, name, "", other, stamps, index.Version()), nil
}

func (h handler) recorded(ctx context.Context, in event.Event) ([]event.Event, error) {
	data, err := mesh.Decode[mesh.Placements](in.Data())
	if err != nil {
		return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
	}
	since, err := mesh.Version(in)
	if err != nil {
		return nil, mesh.Permanentf("%s %s: %w", in.Type(), in.ID(), err)
	}
	part, err := repair.NewPart(in, h.within)
	if err != nil {
		return nil, mesh.Permanent(err)
	}
	index, err := h.assignments.Fresh(ctx)
	if err != nil {
		return nil, err
	}
	if index.Version() < since {
		return nil, fmt.Errorf("%s %s: the output port of iot-metadata shows version %d, this is %d", in.Type(), in.ID(), index.Version(), since)
	}
	events := repair.Events{In: in, Function: name, Version: index.Version(),
		Held: mesh.TelemetryEnriched, Nobody: mesh.TelemetryUnassigned, Post: h.post}
	// An attempt at this change that was killed may have told iot-telemetry of its
	// last event alone, where Brokers do not store events. It posted one after the
	// other, so what it had stored last of each tenant is sent again, once.
	before := map[string][]mesh.JoinedReading{}
	again := func() error {
		for _, tenant := range slices.Sorted(maps.Keys(before)) {
			for i := range before[tenant] {
				if err := events.Add(ctx, &before[tenant][i]); err != nil {
					return err
				}
			}
		}
		clear(before)
		return nil
	}
	moved := moves{}
	done := mesh.Repaired{Version: index.Version()}
	device := ""
	for rows, err := range part.Rows(ctx, h.warehouse, repair.Telemetry, changed(data.Placements, index, since)) {
		if err != nil {
			return nil, err
		}
		was := rows[len(rows)-1].TenantID // the rows are ordered by what counts
		add, added := restamped(rows, index)
		for _, r := range added {
			before[r.TenantID] = last(append(before[r.TenantID], r))
		}
		if len(add) > 0 {
			if err := again(); err != nil {
				return nil, err
			}
		}
		for _, r := range add {
			if r.DeviceID != device || done.Rows == 0 {
				device = r.DeviceID
				done.Devices++
			}
			done.Rows++
			moved[[2]string{was, r.TenantID}]++
			if err := events.Add(ctx, &r); err != nil {
				return nil, err
			}
		}
	}
	if err := again(); err != nil {
		return nil, err
	}
	if err := events.Close(ctx); err != nil {
		return nil, err
	}
	done.Moves = moved.list()
	return append(part.Rest(name), mesh.Derive(in, name, mesh.TenancyRepaired, "", mesh.Encode(done))), nil
}

// last gives the readings that an event has room for, of those that came last.
func last(readings []mesh.JoinedReading) []mesh.JoinedReading {
	if len(readings) < 2*repair.EventReadings {
		return readings
	}
	return append(readings[:0], readings[len(readings)-repair.EventReadings:]...)
}

// changed gives the intervals of the placements' devices whose assignment is of
// a version or a later one.
func changed(placements []mesh.Placement, index *tenancy.Index, since int64) (ranges []repair.Range) {
	seen := map[string]bool{}
	for i := range placements {
		device := placements[i].DeviceID
		if seen[device] {
			continue
		}
		seen[device] = true
		for _, a := range index.Device(device) {
			if a.Version >= since {
				ranges = append(ranges, repair.RangeOf(a.DeviceID, a.ValidFrom, a.ValidTo))
			}
		}
	}
	return ranges
}

// measured is what a row says of its reading, whoever it is of and however it
// came.
type measured struct {
	reading mesh.Reading
	bits    uint64 // of the value: 0 and -0 are two
}

func measuredBy(r *mesh.Reading) measured {
	m := measured{*r, math.Float64bits(r.Value)}
	m.reading.Value = 0
	m.reading.TenantID, m.reading.AssignmentVersion = "", 0
	m.reading.ReceivedAt, m.reading.EventSource, m.reading.EventID, m.reading.Attributes = 0, "", "", ""
	return m
}

// earlier orders rows that say the same as the store does: the first one is
// shown.
func earlier(a, b *mesh.JoinedReading) int {
	return cmp.Or(cmp.Compare(a.ReceivedAt, b.ReceivedAt), strings.Compare(a.EventSource, b.EventSource),
		strings.Compare(a.EventID, b.EventID), strings.Compare(a.Attributes, b.Attributes))
}

// restamped gives the rows of one reading that have to be added, so that
// everything that was measured is there with the tenancy that the index says,
// as it came first; and those that were added so before.
func restamped(rows []mesh.JoinedReading, index *tenancy.Index) (add, added []mesh.JoinedReading) {
	tenant, version := index.At(rows[0].DeviceID, rows[0].ObservedAt)
	if len(rows) == 1 { // as nearly all are
		if rows[0].TenantID != tenant || rows[0].AssignmentVersion != version {
			rows[0].TenantID, rows[0].AssignmentVersion = tenant, version
			return rows, nil
		}
		return nil, nil
	}
	first, stamped := map[measured]*mesh.JoinedReading{}, map[measured]*mesh.JoinedReading{}
	var order []measured
	corrected := false
	for i := range rows {
		r := &rows[i]
		corrected = corrected || r.AssignmentVersion != version
		m := measuredBy(&r.Reading)
		if known := first[m]; known == nil {
			order = append(order, m)
			first[m] = r
		} else if earlier(r, known) < 0 {
			first[m] = r
		}
		if r.TenantID == tenant && r.AssignmentVersion == version {
			if known := stamped[m]; known == nil || earlier(r, known) < 0 {
				stamped[m] = r
			}
		}
	}
	for _, m := range order {
		if known := stamped[m]; known != nil && earlier(known, first[m]) <= 0 {
			if corrected {
				added = append(added, *known)
			}
			continue
		}
		r := *first[m]
		r.TenantID, r.AssignmentVersion = tenant, version
		add = append(add, r)
	}
	return add, added
}

// moves counts rows by the tenant they were of and the one they are of now.
type moves map[[2]string]int64

func (m moves) list() []mesh.Move {
	var list []mesh.Move
	for _, pair := range slices.SortedFunc(maps.Keys(m), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		list = append(list, mesh.Move{From: pair[0], To: pair[1], Rows: m[pair]})
	}
	return list
}
