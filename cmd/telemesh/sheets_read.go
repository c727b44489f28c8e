package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/manifest"
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

// reading is what a read of the sheets brought to a table.
type reading struct {
	Table    string `json:"table"`
	Recorded int64  `json:"recorded"` // rows, deletions too
	Findings int64  `json:"findings"` // about its sheet, which still hold
}

// readSheets makes the sources read their sheets now, and returns when all that
// comes of it is stored.
func (in *instance) readSheets(ctx context.Context) ([]reading, error) {
	pings := in.mesh.Pings()
	if len(pings) == 0 {
		return nil, errors.New("no sheet is read by this process: it was started without --placements, --actions and --customers, and without --set of sheet-source or customer-source")
	}
	readings := make([]reading, 3)
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
	for _, ping := range pings {
		if err := in.mesh.Tick(ctx, ping); err != nil {
			return nil, fmt.Errorf("tick of PingSource %s: %w", ping, err)
		}
	}
	if err := in.mesh.Idle(ctx); err != nil {
		return nil, err
	}
	for i := range readings {
		if err := count(i, func(r *reading, rows, findings int64) { r.Recorded += rows; r.Findings = findings }); err != nil {
			return nil, err
		}
	}
	return readings, nil
}

func sheetsRead() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "read",
		Short: "Take what changed in the sheets now, and say what",
		Long: `Makes the telemesh that runs on the folder read its sheets at once, instead of at
the next minute, and waits until all that comes of it is stored: corrections of
readings as well.`,
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
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			if resp.StatusCode >= 300 {
				return errors.New(strings.TrimSpace(string(body)))
			}
			var readings []reading
			if err := json.Unmarshal(body, &readings); err != nil {
				return fmt.Errorf("read what changed: %w", err)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "TABLE\tROWS RECORDED\tFINDINGS")
			for _, r := range readings {
				fmt.Fprintf(table, "%s\t%d\t%d\n", r.Table, r.Recorded, r.Findings)
			}
			return table.Flush()
		},
	}
	dataFlag(cmd, &data)
	return cmd
}
