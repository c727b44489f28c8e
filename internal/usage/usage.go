// Package usage counts who reads which output port, and reports it as events
// port.read, whose rows are those of mesh_metrics.reads.
//
// Counting takes a lock and no more: no read waits for a report. Reports are sent
// now and then, and once more at the end; one that is not taken is sent again, as
// the same event. What a process counted and did not send when it was killed is
// lost.
package usage

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Table has the reports.
const Table = "mesh_metrics.reads"

// Kind is a way to the data.
type Kind string

// The kinds.
const (
	Portal   Kind = "portal"
	CLI      Kind = "cli"
	BigQuery Kind = "bigquery"
)

// read is what is counted. A consumer is no person: a role, a tenant, a command
// or a service account.
type read struct {
	port     string
	kind     Kind
	consumer string
	hour     mesh.Instant
}

// Counter counts the reads of one process. A nil Counter counts nothing.
type Counter struct {
	source string
	post   func(context.Context, event.Event) error
	now    func() time.Time
	id     string

	mu     sync.Mutex
	counts map[read]int64

	sending sync.Mutex
	sent    int
	pending *event.Event // that was not taken
}

const (
	every   = 5 * time.Minute  // that a report is sent
	patient = 10 * time.Second // of one
	most    = 10_000           // counts that are kept while none is taken; others are lost
)

// New makes a counter of a function, or of a command, that reports by post.
func New(name string, post func(context.Context, event.Event) error, now func() time.Time) *Counter {
	return &Counter{source: mesh.Source(name), post: post, now: now, id: uuid.NewString(), counts: map[read]int64{}}
}

// Count counts a read of ports.
func (c *Counter) Count(kind Kind, consumer string, ports ...string) {
	if c == nil || len(ports) == 0 {
		return
	}
	hour := mesh.At(c.now().UTC().Truncate(time.Hour))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, port := range ports {
		r := read{port, kind, consumer, hour}
		if _, known := c.counts[r]; known || len(c.counts) < most {
			c.counts[r]++
		}
	}
}

// Run reports until ctx ends, and once more then.
func (c *Counter) Run(ctx context.Context, failed func(error)) {
	if c == nil {
		return
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	report := func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, patient)
		defer cancel()
		if err := c.Report(ctx); err != nil {
			failed(err)
		}
	}
	for {
		select {
		case <-ticker.C:
			report(ctx)
		case <-ctx.Done():
			report(context.WithoutCancel(ctx))
			return
		}
	}
}

// row is one of mesh_metrics.reads.
type row struct {
	Port     string       `json:"port"`
	Kind     Kind         `json:"kind"`
	Consumer string       `json:"consumer"`
	Report   string       `json:"report"`
	Times    int64        `json:"times"`
	Hour     mesh.Instant `json:"hour"`
}

// Report sends what was counted since the last report; nothing, if nothing was.
// After an error the next one sends the same event first.
func (c *Counter) Report(ctx context.Context) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	for {
		if c.pending == nil {
			next, err := c.next()
			if next == nil || err != nil {
				return err
			}
			c.pending = next
		}
		if err := c.post(ctx, *c.pending); err != nil {
			return fmt.Errorf("report reads of output ports: %w", err)
		}
		c.pending = nil
	}
}

func (c *Counter) next() (*event.Event, error) {
	c.mu.Lock()
	counts := c.counts
	c.counts = map[read]int64{}
	c.mu.Unlock()
	if len(counts) == 0 {
		return nil, nil
	}
	c.sent++
	id := mesh.Hash(c.id, strconv.Itoa(c.sent))
	var data struct {
		Rows []row `json:"rows"`
	}
	for _, r := range slices.SortedFunc(maps.Keys(counts), func(a, b read) int {
		return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.kind, b.kind), cmp.Compare(a.consumer, b.consumer), cmp.Compare(a.hour, b.hour))
	}) {
		data.Rows = append(data.Rows, row{r.port, r.kind, r.consumer, id, counts[r], r.hour})
	}
	text, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	e := mesh.NewEvent(mesh.PortRead, c.source, text, c.id, strconv.Itoa(c.sent))
	return &e, nil
}
