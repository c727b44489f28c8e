package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/prove"
	"github.com/telemesh/telemesh/internal/tenancy"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/products"
)

func proveCommand() *cobra.Command {
	var (
		o          options
		tenant     string
		report     string
		tablesOnly bool
	)
	cmd := &cobra.Command{
		Use:   "prove",
		Short: "Prove that every row is visible to the right tenant and to no other",
		Long: `Compares every output port with the batch result, one as-of join over all that
was measured, and names the rows that differ. Each row is looked up in the index
that the functions use, and at every instant at which a placement begins or
ends, one microsecond before it and one after, that index, a range join and
DuckDB's ASOF JOIN have to agree. The messages that the event log holds are read
again, and what they say has to be stored, and nothing else.

Then a mesh of its own, in a folder for temporary files, is told all placements
as they were recorded, corrections included, while messages of these instants
come in: before the placements are known, in between, and all of them again. Its
tables have to hold in the same way.

For each relocation the report counts the rows on both sides, with a digest: a
later report with the same digests speaks of the same rows.

Exits 1 if anything differs. While messages come in, a row may differ for the
seconds that a correction takes.`,
		Example: `  telemesh prove
  telemesh prove --tenant linden-school --report proof`,
		Args: arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withWarehouse(cmd.Context(), o.data, func(w warehouse.Warehouse) error {
				switch err := prove.Subject(cmd.Context(), w, tenant); {
				case errors.Is(err, prove.ErrNothing):
					return hint(err, "`telemesh replay` and `telemesh up` bring readings and placements; --data names another folder")
				case errors.Is(err, prove.ErrNoTenant):
					return hint(err, "--tenant takes the tenant_id of a placement, or the customer_id of a customer")
				case err != nil:
					return err
				}
				all, err := contract.Load(products.FS)
				if err != nil {
					return err
				}
				r, err := prove.Run(cmd.Context(), w, all, tenant)
				if err != nil {
					return err
				}
				formats, err := flatten.ReadFormats(o.mappings)
				if err != nil {
					return err
				}
				if tenant == "" {
					if err := prove.Messages(cmd.Context(), w, formats.Parser(), r); err != nil {
						return err
					}
				}
				if !tablesOnly {
					history, err := prove.History(cmd.Context(), w)
					if err != nil {
						return err
					}
					if err := o.rehearse(cmd.Context(), history, all, formats.Parser(), r); err != nil {
						return fmt.Errorf("prove with messages of the boundaries: %w", err)
					}
				}
				if err := writeReport(cmd.OutOrStdout(), report, r); err != nil {
					return err
				}
				if !r.Holds {
					return hint(errors.New("the proof does not hold"), "`telemesh trace READING_ID` tells the story of a row")
				}
				return nil
			})
		},
	}
	dataFlag(cmd, &o.data)
	mappingsFlag(cmd, &o.mappings)
	cmd.Flags().StringVar(&tenant, "tenant", "", "only what this tenant sees, or should see")
	cmd.Flags().StringVar(&report, "report", "", "folder for the report: proof.txt, and proof.json with all rows that differ")
	cmd.Flags().BoolVar(&tablesOnly, "tables-only", false, "leave out the mesh of its own")
	return cmd
}

func writeReport(out io.Writer, dir string, r *prove.Report) error {
	if err := r.Write(out); err != nil || dir == "" {
		return err
	}
	var text bytes.Buffer
	if err := r.Write(&text); err != nil {
		return err
	}
	machine, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	for name, content := range map[string][]byte{"proof.txt": text.Bytes(), "proof.json": append(machine, '\n')} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return nil
}

const (
	maxProbes = 150_000 // messages at boundaries; more devices than that takes are left out, and that is said
	stages    = 8       // in which a rehearsal tells the placements
)

// rehearse lets a mesh of its own live through the placements, with messages at
// each of their boundaries, and adds to the report what it comes to.
func (o *options) rehearse(ctx context.Context, history []tenancy.Recorded, all []contract.Product, parser *device.Parser, r *prove.Report) (err error) {
	history, messages, devices := probes(history)
	dir, err := os.MkdirTemp("", "telemesh-prove-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	in, err := (&options{data: dir}).open(ctx, sheets{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.close()) }()

	// A third before anything is known, a third while it becomes known, and then
	// all of them: late and for the second time.
	third := func(n int) (some [][]byte) {
		for i := n; i < len(messages); i += 3 {
			some = append(some, messages[i])
		}
		return some
	}
	if err := in.feed(ctx, third(0)); err != nil {
		return err
	}
	between := third(1)
	for stage := range stages {
		for _, e := range told(part(steps(history), stage)) {
			if err := function.Post(ctx, in.mesh.Client(), ingress("iot"), e); err != nil {
				return err
			}
		}
		if err := in.feed(ctx, part(between, stage)); err != nil {
			return err
		}
	}
	if err := in.feed(ctx, messages); err != nil {
		return err
	}
	if err := in.mesh.Idle(ctx); err != nil {
		return err
	}
	own, err := prove.Run(ctx, in.warehouse, all, r.Tenant)
	if err != nil {
		return err
	}
	if err := prove.Messages(ctx, in.warehouse, parser, own); err != nil {
		return err
	}
	rows, err := scalar(ctx, in.warehouse, "SELECT count(*) FROM iot_telemetry.readings")
	if err != nil {
		return err
	}
	taken := prove.Check{Name: "boundary messages", Says: fmt.Sprintf("each message at a boundary of the %s is stored once", devices), Rows: rows, Different: max(rows-int64(len(messages)), int64(len(messages))-rows)}
	for _, c := range append([]prove.Check{taken}, own.Checks...) {
		if c.Rows == 0 && c.Different == 0 {
			continue // the probes have no customers and actions: that shows nothing
		}
		c.Name = "rehearsal: " + c.Name
		r.Checks = append(r.Checks, c)
		r.Holds = r.Holds && c.Different == 0
	}
	return nil
}

// probes gives a message for each instant at which a placement begins or ends,
// 1 µs before and 1 µs after, and says of which devices.
func probes(history []tenancy.Recorded) (kept []tenancy.Recorded, messages [][]byte, devices string) {
	instants := map[string]map[mesh.Instant]bool{}
	for _, p := range history {
		if instants[p.DeviceID] == nil {
			instants[p.DeviceID] = map[mesh.Instant]bool{}
		}
		boundaries := []mesh.Instant{p.ValidFrom}
		if p.ValidTo != nil {
			boundaries = append(boundaries, *p.ValidTo)
		}
		for _, b := range boundaries {
			for at := b - 1; at <= b+1; at++ {
				if device.InRange(at) { // the end of all times is a boundary, and no message tells it
					instants[p.DeviceID][at] = true
				}
			}
		}
	}
	names := make([]string, 0, len(instants))
	for name := range instants {
		names = append(names, name)
	}
	slices.Sort(names)
	total := len(names)
	for i, name := range names {
		if len(messages) > maxProbes {
			names = names[:i]
			break
		}
		quoted, err := json.Marshal(name)
		if err != nil { // a string always is JSON
			panic(err)
		}
		for at := range instants[name] {
			messages = append(messages, fmt.Appendf(nil, `{"device_id":%s,"time":%q,"metrics":{"probe":1}}`, quoted, at))
		}
	}
	slices.SortFunc(messages, bytes.Compare)
	if len(names) == total {
		return history, messages, strconv.Itoa(total) + " devices"
	}
	last := names[len(names)-1]
	kept = slices.DeleteFunc(slices.Clone(history), func(p tenancy.Recorded) bool { return p.DeviceID > last })
	return kept, messages, fmt.Sprintf("first %d of %d devices", len(names), total)
}

// part gives the rows that a stage tells.
func part[T any](rows []T, stage int) []T {
	return rows[len(rows)*stage/stages : len(rows)*(stage+1)/stages]
}

// steps groups what was recorded at once.
func steps(history []tenancy.Recorded) (steps [][]tenancy.Recorded) {
	for i, p := range history {
		if i == 0 || p.RecordedAt != history[i-1].RecordedAt {
			steps = append(steps, nil)
		}
		steps[len(steps)-1] = append(steps[len(steps)-1], p)
	}
	return steps
}

// told makes the events that tell of placements as they were recorded. A
// device's rows of one step stay in one event.
func told(steps [][]tenancy.Recorded) (events []event.Event) {
	for _, step := range steps {
		slices.SortStableFunc(step, func(a, b tenancy.Recorded) int { return strings.Compare(a.DeviceID, b.DeviceID) })
		var rows []mesh.Placement
		for i, p := range step {
			rows = append(rows, p.Placement)
			if i == len(step)-1 || len(rows) >= 10_000 && step[i+1].DeviceID != p.DeviceID {
				data := mesh.Encode(mesh.Placements{Placements: rows})
				events = append(events, mesh.NewEvent(mesh.PlacementsChanged, mesh.Source("prove"), data, string(data)))
				rows = nil
			}
		}
	}
	return events
}

// feed sends messages to the ingest.
func (in *instance) feed(ctx context.Context, messages [][]byte) error {
	for chunk := range slices.Chunk(messages, sendMessages) {
		if err := postMessages(ctx, in.mesh.Client(), ingestAt, append(bytes.Join(chunk, []byte("\n")), '\n')); err != nil {
			return err
		}
	}
	return nil
}
