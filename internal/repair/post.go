package repair

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

const (
	// EventReadings and eventBytes bound an event, as a source bounds what the
	// readings came in.
	EventReadings = 500
	eventBytes    = 512 << 10
	// heldBytes bounds what waits for more of its tenant.
	heldBytes = 16 << 20
)

// Events puts corrected readings into events of one tenant each, up to 500 in
// one, and posts each when it is full. Their ids come of the event that is
// worked on, the version and what they say: the same readings make the same
// event again.
type Events struct {
	In       event.Event // what is worked on
	Function string
	Version  int64  // of the metadata that the readings were corrected with; 0: of none
	Held     string // type of the events of a tenant's readings: telemetry.enriched or analytics.joined
	Nobody   string // type of those that are no tenant's: telemetry.unassigned, withdrawn, or analytics.withdrawn
	Post     func(context.Context, event.Event) error

	open  map[string]*batch
	bytes int
}

// batch is the readings of a tenant that wait.
type batch struct {
	readings mesh.ReadingsWriter
	n, bytes int
}

// Add takes a reading, with the tenancy it should have.
func (e *Events) Add(ctx context.Context, r *mesh.JoinedReading) error {
	b := e.open[r.TenantID]
	if b == nil {
		if e.open == nil {
			e.open = map[string]*batch{}
		}
		b = &batch{}
		e.open[r.TenantID] = b
	}
	size := sizeOf(r)
	if b.n > 0 && b.bytes+size > eventBytes {
		if err := e.post(ctx, r.TenantID, b); err != nil {
			return err
		}
		b = &batch{}
		e.open[r.TenantID] = b
	}
	if e.Held == mesh.AnalyticsJoined {
		b.readings.AddJoined(r)
	} else {
		b.readings.Add(&r.Reading)
	}
	b.n++
	b.bytes += size
	e.bytes += size
	if b.n == EventReadings {
		return e.post(ctx, r.TenantID, b)
	}
	if e.bytes > heldBytes {
		tenant := r.TenantID
		for id, other := range e.open {
			if largest := e.open[tenant]; other.bytes > largest.bytes || other.bytes == largest.bytes && id < tenant {
				tenant = id
			}
		}
		return e.post(ctx, tenant, e.open[tenant])
	}
	return nil
}

// sizeOf is about what a reading takes in an event.
func sizeOf(r *mesh.JoinedReading) int {
	return 256 + len(r.ReadingID) + len(r.DeviceID) + len(r.Metric) + len(r.ValueString) + len(r.EventSource) + len(r.EventID) +
		len(r.Attributes) + len(r.TenantID) + len(r.Building) + len(r.Floor) + len(r.Room) + len(r.CustomerName) + len(r.LastAction)
}

// Close posts what waits.
func (e *Events) Close(ctx context.Context) error {
	for _, tenant := range slices.Sorted(maps.Keys(e.open)) {
		if err := e.post(ctx, tenant, e.open[tenant]); err != nil {
			return err
		}
	}
	return nil
}

func (e *Events) post(ctx context.Context, tenant string, b *batch) error {
	delete(e.open, tenant)
	e.bytes -= b.bytes
	data := b.readings.Data()
	eventType := e.Held
	if tenant == "" {
		eventType = e.Nobody
	}
	out := mesh.Derive(e.In, e.Function, eventType, fmt.Sprintf("%s@%d@%s", tenant, e.Version, mesh.Hash(string(data))), data)
	if e.Version > 0 {
		mesh.SetVersion(&out, e.Version)
	}
	switch {
	case tenant != "":
		out.SetExtension(mesh.ExtTenant, tenant)
	case eventType == mesh.TelemetryUnassigned:
		out.SetExtension(mesh.ExtWithdrawn, "true")
	}
	return e.Post(ctx, out)
}
