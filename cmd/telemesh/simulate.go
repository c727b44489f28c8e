package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/air"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/simulate"
)

func simulateCommand() *cobra.Command {
	var (
		fleet = simulate.Sample()
		out   string
		to    string
		speed float64
		start string
	)
	cmd := &cobra.Command{
		Use:   "simulate --out FOLDER | --to URL",
		Short: "Write or send the messages of a simulated fleet",
		Long: `Simulates devices in rooms: CO2 by a mass balance of persons, ventilation and
windows that are opened (an action), temperature and humidity. Devices move to
other tenants, send late, twice and out of order, and some clocks are wrong. The
same flags give the same messages.`,
		Example: `  telemesh simulate --out week
  telemesh simulate --out month --duration 672h
  telemesh simulate --out crowd --crowd 1 --duration 24h
  telemesh simulate --to http://localhost:8082 --speed 60`,
		Args: arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (out == "") == (to == "") {
				return hint(errors.New("where should the messages go?"), "--out FOLDER writes them, --to URL sends them to an ingest endpoint")
			}
			if start != "" {
				at, err := time.Parse(time.RFC3339, start)
				if err != nil {
					return hint(fmt.Errorf("--start %q is no time", start), "for example --start 2026-03-02T00:00:00+01:00")
				}
				fleet.Start = at
			}
			f, err := simulate.New(fleet)
			if err != nil {
				return hint(err, "see `telemesh simulate --help` for the flags that say how many")
			}
			if out != "" {
				if err := f.WriteFiles(out); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: messages.ndjson, placements.csv, actions.csv, customers.csv\n", out)
				return nil
			}
			sender := simulate.Sender{URL: to, Client: http.DefaultClient, Log: (&options{}).log(), Speed: speed}
			return sender.Run(cmd.Context(), f.Messages(f.Start, f.End()))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&out, "out", "", "folder to write messages and sheets to")
	flags.StringVar(&to, "to", "", "ingest endpoint to send messages to")
	flags.Float64Var(&speed, "speed", 0, "with --to: simulated seconds a second; 0: as fast as possible")
	flags.StringVar(&start, "start", "", "first event time, RFC 3339 (default "+fleet.Start.Format(time.RFC3339)+")")
	flags.Uint64Var(&fleet.Seed, "seed", fleet.Seed, "another seed, another fleet")
	flags.IntVar(&fleet.Tenants, "tenants", fleet.Tenants, "tenants")
	flags.IntVar(&fleet.Devices, "devices", fleet.Devices, "devices, each in a room of its own")
	flags.IntVar(&fleet.Relocations, "relocations", fleet.Relocations, "devices that move to another tenant")
	flags.DurationVar(&fleet.Duration, "duration", fleet.Duration, "simulated time")
	flags.DurationVar(&fleet.Interval, "interval", fleet.Interval, "between two measurements of a device")
	flags.IntVar(&fleet.Crowded, "crowd", fleet.Crowded, "rooms that are crowded once, from 10 to 11 on the first working day, without ventilation: their air gets bad")
	flags.IntVar(&fleet.Skewed, "skewed", fleet.Skewed, "devices that take local time for UTC")
	flags.IntVar(&fleet.Timeless, "timeless", fleet.Timeless, "devices that lose their clock for two hours")
	flags.Float64Var(&fleet.Late, "late", fleet.Late, "share of days on which a device sends hours late")
	flags.Float64Var(&fleet.Duplicated, "duplicated", fleet.Duplicated, "share of messages sent twice")
	flags.Float64Var(&fleet.Reordered, "reordered", fleet.Reordered, "share of messages overtaken by later ones")
	return cmd
}

// simulatedDays are those that the fleet of `telemesh up --simulate` has behind it
// when it starts: as many as an action is compared with.
const simulatedDays = air.Weeks * 7

// simulated is how far the simulated fleet of a data folder has come.
type simulated struct {
	Start time.Time `json:"start"` // of the fleet
	Next  time.Time `json:"next"`  // what is sent from here on is not sent yet
}

func readSimulated(file string) (simulated, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		// Days that end now, so that there is something to see at once.
		start := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 1-simulatedDays)
		return simulated{Start: start, Next: start}, nil
	}
	if err != nil {
		return simulated{}, err
	}
	var s simulated
	if err := json.Unmarshal(text, &s); err != nil {
		return s, hint(fmt.Errorf("read %s: %w", file, err), "remove the file: the simulated weeks then begin anew")
	}
	return s, nil
}

// write replaces the file whole, so that a kill leaves the old or the new one.
func (s simulated) write(file string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// simulate sends a simulated fleet to the mesh: the past weeks at once, then as
// time goes on. It ends with ctx, and goes on from there the next time.
func (in *instance) simulate(ctx context.Context) error {
	file := filepath.Join(in.dir, "simulated.json")
	at, err := readSimulated(file)
	if err != nil {
		return err
	}
	o := simulate.Sample()
	o.Start = at.Start
	o.Duration = simulatedDays * 24 * time.Hour
	o.Timeless = 0 // the past comes at once: without a time it would be now
	fleet, err := simulate.New(o)
	if err != nil {
		return err
	}
	if err := in.mesh.Idle(ctx); err != nil {
		return err
	}
	if err := postChanges(ctx, in, sheet.Customers, fleet.Customers(), customersAt); err != nil {
		return err
	}
	if err := postChanges(ctx, in, sheet.Placements, fleet.Placements(), placementsAt); err != nil {
		return err
	}
	logged := func(until time.Time) error {
		return postChanges(ctx, in, sheet.Actions, fleet.ActionsUntil(until), actionsAt)
	}
	now := time.Now()
	if err := logged(now); err != nil {
		return err
	}
	if err := in.mesh.Idle(ctx); err != nil {
		return err
	}
	known := now
	sender := simulate.Sender{
		URL: ingestAt, Client: in.mesh.Client(), Log: in.log, Speed: 1, Live: now,
		Acknowledged: func(next time.Time, _ int) error {
			// The logbook is written by hand: an entry is there some minutes after.
			if now := time.Now(); now.Sub(known) > time.Minute {
				known = now
				if err := logged(now); err != nil {
					return err
				}
			}
			return simulated{at.Start, next}.write(file)
		},
	}
	return sender.Run(ctx, fleet.Messages(at.Next, time.Time{}))
}
