package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/usage"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

func queryCommand() *cobra.Command {
	var (
		at     warehouseAt
		format string
	)
	cmd := &cobra.Command{
		Use:   "query SQL",
		Short: "Run SQL that reads on the warehouse of a data folder, or on another",
		Long: `Runs one statement that only reads, in DuckDB's SQL, also while the mesh runs on
the same folder; in GoogleSQL, if --warehouse names BigQuery. Tables:
iot_telemetry.readings, iot_analytics.readings, iot_metadata.placements,
iot_actions.actions, customers.customers, event_log.events; quality_results,
service_levels and reads of mesh_metrics; views of iot_analytics: co2_evolution,
co2_with_actions, actions_timeline, actions_placed, readings_hourly.`,
		Example: `  telemesh query 'SELECT room, avg(value) FROM iot_analytics.readings WHERE metric = '\''co2'\'' GROUP BY room'
  telemesh query --format csv 'FROM iot_metadata.placements' > placements.csv`,
		Args: arguments(cobra.ExactArgs(1), "one SQL statement, in quotes"),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := formats[format]
			if !ok {
				return hint(fmt.Errorf("unknown format %q", format), "--format table, csv or json")
			}
			return at.with(cmd.Context(), func(w warehouse.Warehouse) error {
				rows, err := w.Query(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if err := write(cmd.OutOrStdout(), rows); err != nil {
					return err
				}
				at.countRead(cmd.Context(), w, args[0])
				return nil
			})
		},
	}
	at.flags(cmd)
	cmd.Flags().StringVar(&format, "format", "table", "table, csv or json (an object a line)")
	return cmd
}

const warehouseForms = "bigquery://PROJECT?location=LOCATION or the http(s)://… of `telemesh warehouse`"

// warehouseAt is the warehouse that a command reads: that of a folder, or another.
type warehouseAt struct {
	data, warehouse string
	cmd             *cobra.Command // whose flags these are; nil: none
}

func (p *warehouseAt) flags(cmd *cobra.Command) {
	p.cmd = cmd
	dataFlag(cmd, &p.data)
	cmd.Flags().StringVar(&p.warehouse, "warehouse", "", "read another warehouse than that of --data: "+warehouseForms)
}

// with has the warehouse for as long as do runs.
func (p *warehouseAt) with(ctx context.Context, do func(warehouse.Warehouse) error) error {
	if p.warehouse == "" {
		return withWarehouse(ctx, p.data, do)
	}
	if p.cmd != nil && p.cmd.Flags().Changed("data") {
		return hint(errors.New("--data and --warehouse name two warehouses"), "leave one of them out")
	}
	config := connect.Config{URL: p.warehouse, Token: os.Getenv("TELEMESH_WAREHOUSE_TOKEN")}
	w, err := config.Open(nil, nil)
	if err != nil {
		return p.hint(err)
	}
	return errors.Join(p.hint(do(w)), w.Close())
}

// reported bounds how long a report of what was read keeps a command.
const reported = 2 * time.Second

// countRead reports which output ports a statement read, to the mesh that runs on
// the folder: tables and views of all schemas but internal ones, since the products
// of the mesh may be others than those built in. Where none runs there is nobody to
// tell, and BigQuery has a log of its own; a report that is not taken is no reason to
// fail.
func (p *warehouseAt) countRead(ctx context.Context, w warehouse.Warehouse, sql string) {
	if p.warehouse != "" {
		return
	}
	client, err := dialFolder(ctx, p.data)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reported)
	defer cancel()
	var ports []string
	for _, name := range lineage.Named(ctx, w.Query, sql) {
		if schema, _, ok := strings.Cut(name, "."); ok && !strings.HasSuffix(schema, contract.InternalSuffix) && !slices.Contains(ofDuckDB, schema) {
			ports = append(ports, name)
		}
	}
	counter := usage.New("telemesh", func(ctx context.Context, e event.Event) error {
		return function.Post(ctx, client, "http://telemesh/brokers/platform/platform", e)
	}, time.Now)
	counter.Count(usage.CLI, "telemesh", ports...)
	if err := counter.Report(ctx); err != nil {
		slog.Debug("read not counted", "error", err)
	}
}

// ofDuckDB are schemas that are in every database.
var ofDuckDB = []string{"information_schema", "main", "pg_catalog"}

// hint says what to do where the warehouse that --warehouse names is not there,
// or refuses.
func (p *warehouseAt) hint(err error) error {
	if err == nil || errors.As(err, new(hinted)) {
		return err
	}
	if request, ok := errors.AsType[*url.Error](err); ok && strings.HasPrefix(request.URL, strings.TrimSuffix(p.warehouse, "/")) {
		return hint(err, "does `telemesh warehouse` run there? --warehouse takes %s", warehouseForms)
	}
	return whoReads.add(err)
}

// attach reaches the warehouse of a folder: through the process that holds it,
// or by opening it.
func attach(ctx context.Context, dir string) (warehouse.Warehouse, error) {
	if err := folderExists(dir); err != nil {
		return nil, err
	}
	return patiently(ctx, func() (warehouse.Warehouse, error) {
		if client, err := dialFolder(ctx, dir); err == nil {
			return remote.Open("http://telemesh/warehouse", client, ""), nil
		}
		return openWarehouse(ctx, dir, nil)
	})
}

// folderExists keeps commands that only look from making an empty folder.
func folderExists(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return hint(fmt.Errorf("no data folder %s", dir), "`telemesh up` or `telemesh replay` makes one; --data names another")
	}
	return nil
}

// dialFolder gives a client of the process that holds the folder. The host of
// a URL does not matter to it.
func dialFolder(ctx context.Context, dir string) (*http.Client, error) {
	path, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	conn, err := dial(ctx, "", "")
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}, conn.Close()
}

var formats = map[string]func(io.Writer, *warehouse.Rows) error{
	"table": writeTable, "csv": writeCSV, "json": writeJSON,
}

// text is a cell as a person or a CSV file reads it.
func text(cell any) string {
	switch v := cell.(type) {
	case nil:
		return ""
	case time.Time:
		return mesh.At(v).String()
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return fmt.Sprint(cell)
}

func texts(cells []any) []string {
	out := make([]string, len(cells))
	for i, c := range cells {
		out[i] = text(c)
	}
	return out
}

func writeTable(w io.Writer, rows *warehouse.Rows) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(n int, cell func(int) string) {
		for i := range n {
			if i > 0 {
				fmt.Fprint(table, "\t")
			}
			fmt.Fprint(table, cell(i))
		}
		fmt.Fprintln(table)
	}
	line(len(rows.Columns), func(i int) string { return rows.Columns[i].Name })
	n := 0
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		line(len(row), func(i int) string { return text(row[i]) })
		if n++; n%1000 == 0 {
			if err := table.Flush(); err != nil {
				return err
			}
		}
	}
	return table.Flush()
}

func writeCSV(w io.Writer, rows *warehouse.Rows) error {
	out := csv.NewWriter(w)
	header := make([]string, len(rows.Columns))
	for i, c := range rows.Columns {
		header[i] = c.Name
	}
	if err := out.Write(header); err != nil {
		return err
	}
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		if err := out.Write(texts(row)); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// writeJSON writes an object a line.
func writeJSON(w io.Writer, rows *warehouse.Rows) error {
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		line := []byte{'{'}
		for i, cell := range row {
			if i > 0 {
				line = append(line, ',')
			}
			switch v := cell.(type) {
			case time.Time:
				cell = mesh.At(v)
			case float64:
				if math.IsNaN(v) || math.IsInf(v, 0) {
					cell = nil // JSON has no such numbers
				}
			}
			name, err := json.Marshal(rows.Columns[i].Name)
			if err != nil {
				return err
			}
			value, err := json.Marshal(cell)
			if err != nil {
				return fmt.Errorf("column %s: %w", rows.Columns[i].Name, err)
			}
			line = append(append(append(line, name...), ':'), value...)
		}
		if _, err := w.Write(append(line, "}\n"...)); err != nil {
			return err
		}
	}
	return nil
}
