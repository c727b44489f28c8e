package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

// absolute gives the sheets by names that hold in every process: findings name a
// sheet as it was given. It fails if the time zone is none.
func (s sheets) absolute() (sheets, error) {
	if _, err := s.location(); err != nil {
		return s, err
	}
	for _, file := range []*string{&s.placements, &s.actions, &s.customers} {
		if *file == "" || strings.Contains(*file, "://") || strings.HasPrefix(*file, "google-sheets:") {
			continue
		}
		path, err := filepath.Abs(*file)
		if err != nil {
			return s, err
		}
		*file = path
	}
	if s.customers != "" && !strings.Contains(s.customers, "://") && !strings.EqualFold(filepath.Ext(s.customers), ".csv") {
		return s, hint(fmt.Errorf("--customers %s: neither a .csv nor the address of a CRM", s.customers), "--customers takes FILE.csv, or http://… or https://… of a CRM's JSON or CSV")
	}
	return s, nil
}

// settings are what the sources that read the sheets are told of them, as --set
// would, where the manifests have these sources.
func (s sheets) settings(set manifest.Set) []string {
	var settings []string
	zone := s.zone
	if s.placements+s.actions == "" {
		zone = ""
	}
	for _, one := range []struct{ source, variable, value string }{
		{"sheet-source", "PLACEMENTS_SHEET", s.placements},
		{"sheet-source", "ACTIONS_SHEET", s.actions},
		{"sheet-source", "TIMEZONE", zone},
		{"customer-source", "CRM_URL", s.customers},
	} {
		known := slices.ContainsFunc(set.Workloads(), func(w *manifest.Workload) bool { return w.Ref().Name == one.source })
		if known && one.value != "" {
			settings = append(settings, one.source+"."+one.variable+"="+one.value)
		}
	}
	return settings
}

// placementsSheet is the sheet of placements that a source of this process reads,
// without what may be secret; empty: none.
func (in *instance) placementsSheet() string {
	at := in.sourceEnv("sheet-source")["PLACEMENTS_SHEET"]
	if u, err := url.Parse(at); err == nil && u.Host != "" {
		u.User, u.RawQuery, u.Fragment = nil, "", ""
		at = u.String()
	}
	return at
}

// sourceEnv is the environment of a Service; nil if it does not run here.
func (in *instance) sourceEnv(name string) map[string]string {
	for _, s := range in.config.Manifests.Services {
		set := in.config.Set[s.Ref()]
		if s.Name != name {
			continue
		}
		if ok, _ := s.OptedIn(set); ok {
			env, _ := s.Environ(set)
			return env
		}
	}
	return nil
}

// sheetPings are the PingSources that have the sheets read: those of sources.
func (in *instance) sheetPings() []manifest.Ref {
	return slices.DeleteFunc(in.mesh.Pings(), func(p manifest.Ref) bool { return !in.config.Manifests.PingSource(p).OptIn() })
}

// reading is what a read of the sheets brought to a table.
type reading struct {
	Table    string `json:"table"`
	Recorded int64  `json:"recorded"` // rows, deletions too
	Findings int64  `json:"findings"` // about its sheet, which still hold
}

// sheetsReading is what a read of all sheets came to.
type sheetsReading struct {
	Tables []reading `json:"tables"`
	Unread []string  `json:"unread,omitempty"` // sheets, each with the cause
}

// readSheets makes the sources read their sheets now, and returns when all that
// comes of it is stored.
func (in *instance) readSheets(ctx context.Context) (*sheetsReading, error) {
	pings := in.sheetPings()
	if len(pings) == 0 {
		return nil, errors.New("no sheet is read by this process: it was started without --placements, --actions and --customers, and without --set of sheet-source or customer-source")
	}
	read := &sheetsReading{Tables: make([]reading, 3)}
	readings := read.Tables
	count := func(i int, add func(*reading, int64, int64)) error {
		schema, table, _ := strings.Cut(readings[i].Table, ".")
		rows, err := scalar(ctx, in.warehouse, fmt.Sprintf("SELECT count(*) FROM %s_internal.%s", schema, table))
		if err != nil {
			return err
		}
		findings, err := scalar(ctx, in.warehouse, fmt.Sprintf("SELECT count(*) FROM %s.rejected_rows", schema))
		if err != nil {
			return err
		}
		add(&readings[i], rows, findings)
		return nil
	}
	for i, table := range []string{"iot_metadata.placements", "iot_actions.actions", "customers.customers"} {
		readings[i].Table = table
		if err := count(i, func(r *reading, rows, _ int64) { r.Recorded = -rows }); err != nil {
			return nil, err
		}
	}
	// By name customers come before the sheets, which are compared with them.
	slices.SortFunc(pings, func(a, b manifest.Ref) int { return strings.Compare(a.Name, b.Name) })
	for _, ping := range pings {
		switch err := in.read(ctx, ping); {
		case errors.As(err, new(unread)):
			read.Unread = append(read.Unread, fmt.Sprintf("not read by %s: %v", ping.Name, err))
		case err != nil:
			return nil, err
		}
	}
	found, err := in.findings(ctx)
	if err != nil {
		return nil, err
	}
	for _, kind := range slices.Sorted(maps.Keys(found)) {
		for _, f := range found[kind] {
			if f.Row == 0 && f.Severity == mesh.SeverityError {
				read.Unread = append(read.Unread, fmt.Sprintf("sheet %s was not read: %s", f.Sheet, f.Reason))
			}
		}
	}
	for i := range readings {
		if err := count(i, func(r *reading, rows, findings int64) { r.Recorded += rows; r.Findings = findings }); err != nil {
			return nil, err
		}
	}
	return read, nil
}

// err is an error if a sheet was not read.
func (r *sheetsReading) err() error {
	var errs []error
	for _, cause := range r.Unread {
		errs = append(errs, errors.New(cause))
	}
	return hint(errors.Join(errs...), "what is stored of a sheet that is not read stays as it is; it is tried again every minute")
}

// readInterrupted says what an interrupt means, or that the other process ended.
func readInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return hint(errors.New("interrupted"), "the telemesh that runs goes on reading: what changed is taken all the same")
	}
	return hint(fmt.Errorf("the telemesh that runs on the folder ended meanwhile: %w", err), "start it again: it reads the sheets then")
}

func sheetsRead() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "read",
		Short: "Take what changed in the sheets now, and say what",
		Long: `Makes the telemesh that runs on the folder read its sheets at once, instead of at
the next minute, and waits until all that comes of it is stored: corrections of
readings as well.

Exits 1 if a sheet was not read.`,
		Args: arguments(cobra.NoArgs, "no arguments: `telemesh up` is told where the sheets are"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := dialFolder(cmd.Context(), data)
			if err != nil {
				return hint(fmt.Errorf("no telemesh runs on %s", data), "start one with `telemesh up --placements FILE`, or name the folder of the one that runs with --data")
			}
			defer client.CloseIdleConnections()
			req, err := http.NewRequestWithContext(cmd.Context(), http.MethodPost, "http://telemesh/sheets/read", nil)
			if err != nil {
				return err
			}
			resp, err := client.Do(req)
			if err != nil {
				return readInterrupted(cmd.Context(), err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return readInterrupted(cmd.Context(), err)
			}
			if resp.StatusCode >= 300 {
				return errors.New(strings.TrimSpace(string(body)))
			}
			var read sheetsReading
			if err := json.Unmarshal(body, &read); err != nil {
				return fmt.Errorf("read what changed: %w", err)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "TABLE\tROWS RECORDED\tFINDINGS")
			for _, r := range read.Tables {
				fmt.Fprintf(table, "%s\t%d\t%d\n", r.Table, r.Recorded, r.Findings)
			}
			return errors.Join(table.Flush(), read.err())
		},
	}
	dataFlag(cmd, &data)
	return cmd
}
