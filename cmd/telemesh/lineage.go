package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/openlineage"
	"github.com/telemesh/telemesh/internal/warehouse"
)

func lineageCommand() *cobra.Command {
	var (
		at                  warehouseAt
		dir, folder         string
		format, from, to    string
		window              time.Duration
		server, out, called string
	)
	cmd := &cobra.Command{
		Use:   "lineage [NAME]",
		Short: "Say what is made of what: events, tables, columns; also as OpenLineage",
		Long: `Says what every function and every view reads and makes, and of which columns
each column is made: of views by their SQL, of tables by their contracts, of
events by the manifests. NAME is a table, a view, an event type, a job or a
column (SCHEMA.TABLE.COLUMN), of which alone it tells then.

As OpenLineage (--format openlineage, one event a line) each function and each
view is a job of type STREAMING. A run of it is a window of time (--window):
the last one that has ended, or those that begin from --from and before --to.
Each has a START and a COMPLETE; the one that has not ended has a RUNNING. Run
ids are made of job and window: events that are sent again are the same. With
--data or --warehouse events also say how many rows each table recorded in the
window (on BigQuery this reads one column of each table) and which quality rules
were checked in it.

--to-url posts the events to a server, as OpenLineage's clients do with
OPENLINEAGE_URL; OPENLINEAGE_ENDPOINT (api/v1/lineage), OPENLINEAGE_API_KEY and
OPENLINEAGE_NAMESPACE mean what they mean to these.`,
		Example: `  telemesh lineage iot_analytics.co2_evolution
  telemesh lineage iot_telemetry.readings.tenant_id
  telemesh lineage --format openlineage --window 24h --to-url http://localhost:5000
  telemesh lineage --format openlineage --from 2026-03-01T00:00:00Z --to 2026-03-02T00:00:00Z --out lineage.jsonl`,
		Args: arguments(cobra.MaximumNArgs(1), "one name, or none for all"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			set, err := loadManifests(dir)
			if err != nil {
				return err
			}
			m, err := set.Topology()
			if err != nil {
				return err
			}
			documents, err := productsFolder(folder)
			if err != nil {
				return err
			}
			products, err := contract.Load(documents)
			if err != nil {
				return err
			}
			c, err := catalog.New(products, m)
			if err != nil {
				return err
			}
			jobs := openlineage.New(c, m)
			told := jobs.All
			if len(args) == 1 {
				if column, ok := columnOf(c, args[0]); ok && format == "text" {
					return writeColumn(cmd.OutOrStdout(), c.Lineage, column)
				}
				if told = jobs.Of(args[0]); len(told) == 0 {
					return hint(fmt.Errorf("nothing is called %s", args[0]), "`telemesh lineage` names all jobs, tables and events")
				}
			}
			var write func(io.Writer) error
			switch format {
			case "text":
				write = func(w io.Writer) error { return writeJobs(w, told) }
			case "json":
				write = func(w io.Writer) error { return writeLineage(w, told) }
			case "openlineage":
			default:
				return hint(fmt.Errorf("unknown format %q", format), "--format text, json or openlineage")
			}
			if write != nil {
				for _, name := range []string{"window", "from", "to", "to-url", "namespace", "data", "warehouse"} {
					if cmd.Flags().Changed(name) {
						return hint(fmt.Errorf("--%s says something of events, and --format is %s", name, format), "add --format openlineage, or leave it out")
					}
				}
				return toFile(cmd, out, write)
			}
			windows, err := windowsOf(from, to, window, time.Now())
			if err != nil {
				return err
			}
			names := openlineage.Names{Mesh: called, Version: version()}
			if names.Tables, names.Prefix, err = at.dataset(); err != nil {
				return err
			}
			if server != "" && out != "" {
				return hint(errors.New("--to-url and --out both say where events go"), "leave one of them out")
			}
			known := func(context.Context, openlineage.Window) (*openlineage.Found, error) { return nil, nil }
			tell := func(w warehouse.Warehouse) error {
				if w != nil {
					known = func(ctx context.Context, in openlineage.Window) (*openlineage.Found, error) {
						return openlineage.Find(ctx, w.Query, products, in)
					}
				}
				events := func(each func(openlineage.Event) error) error {
					for _, in := range windows {
						found, err := known(cmd.Context(), in)
						if err != nil {
							return err
						}
						for _, job := range told {
							for _, e := range names.Events(job, in, time.Now(), found) {
								if err := each(e); err != nil {
									return err
								}
							}
						}
					}
					return nil
				}
				if server == "" {
					return toFile(cmd, out, func(w io.Writer) error {
						lines := json.NewEncoder(w)
						lines.SetEscapeHTML(false)
						return events(func(e openlineage.Event) error { return lines.Encode(e) })
					})
				}
				endpoint, err := openlineage.Endpoint(server, os.Getenv("OPENLINEAGE_ENDPOINT"))
				if err != nil {
					return hint(err, "--to-url takes http(s)://HOST of a server such as Marquez, as OPENLINEAGE_URL does")
				}
				n, client := 0, openlineage.NewClient(endpoint, os.Getenv("OPENLINEAGE_API_KEY"))
				err = events(func(e openlineage.Event) error {
					n++
					return hint(client.Send(cmd.Context(), e), "events that %s took are there; all can be sent again", endpoint)
				})
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "sent %s to %s\n", counted(int64(n), "event"), endpoint)
				}
				return err
			}
			if cmd.Flags().Changed("data") || at.warehouse != "" {
				return at.with(cmd.Context(), tell)
			}
			return tell(nil)
		},
	}
	at.flags(cmd)
	cmd.Flags().StringVar(&dir, "manifests", "", "folder with brokers/, triggers/ and config/ (default: those built in)")
	productsFlag(cmd, &folder)
	cmd.Flags().StringVar(&format, "format", "text", "text, json or openlineage")
	cmd.Flags().DurationVar(&window, "window", time.Hour, "length of a run")
	cmd.Flags().StringVar(&from, "from", "", "tell of windows that begin at this time or later, RFC 3339 (default: the last that has ended)")
	cmd.Flags().StringVar(&to, "to", "", "tell of windows that begin before this time, RFC 3339 (default: now)")
	cmd.Flags().StringVar(&server, "to-url", "", "server that takes OpenLineage, http(s)://HOST")
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: standard output)")
	namespace := os.Getenv("OPENLINEAGE_NAMESPACE")
	if namespace == "" {
		namespace = "telemesh"
	}
	cmd.Flags().StringVar(&called, "namespace", namespace, "namespace of the jobs, which names this mesh")
	return cmd
}

// windowsOf reads --from, --to and --window. Windows that have not begun are none.
func windowsOf(from, to string, length time.Duration, now time.Time) ([]openlineage.Window, error) {
	if length < time.Minute || length%time.Second != 0 {
		return nil, hint(fmt.Errorf("--window %s", length), "whole seconds, a minute at least")
	}
	last := now.Truncate(length)
	begin, end := last.Add(-length), last
	for _, flag := range []struct {
		name, text string
		into       *time.Time
	}{{"from", from, &begin}, {"to", to, &end}} {
		if flag.text == "" {
			continue
		}
		at, err := mesh.ParseInstant(flag.text)
		if err != nil {
			return nil, hint(fmt.Errorf("--%s: %w", flag.name, err), "as 2026-03-01T00:00:00Z")
		}
		*flag.into = at.Time()
	}
	if to == "" && from != "" {
		end = now
	}
	if end.After(now) {
		end = now
	}
	windows := openlineage.Windows(begin, end, length)
	if len(windows) == 0 {
		return nil, hint(fmt.Errorf("no window of %s begins from %s until %s", length, begin.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339)),
			"windows are aligned in UTC; name a longer time or a shorter --window")
	}
	return windows, nil
}

// dataset gives the namespace of the tables of a warehouse, and what stands
// before their names, as OpenLineage names those of others.
func (p *warehouseAt) dataset() (namespace, prefix string, err error) {
	switch at, err := url.Parse(p.warehouse); {
	case err != nil:
		return "", "", err
	case at.Scheme == "bigquery":
		return "bigquery", at.Host + ".", nil
	case p.warehouse != "":
		return p.warehouse, "", nil
	}
	file, err := filepath.Abs(filepath.Join(p.data, "warehouse.duckdb"))
	return "duckdb://" + file, "", err
}

func toFile(cmd *cobra.Command, name string, write func(io.Writer) error) error {
	if name == "" {
		out := bufio.NewWriter(cmd.OutOrStdout())
		return errors.Join(write(out), out.Flush())
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	return errors.Join(write(out), out.Flush(), f.Close())
}

// columnOf reads SCHEMA.TABLE.COLUMN.
func columnOf(c *catalog.Catalog, name string) (lineage.Column, bool) {
	at := strings.LastIndexByte(name, '.')
	if at < 0 {
		return lineage.Column{}, false
	}
	column := lineage.Column{Table: name[:at], Name: name[at+1:]}
	node := c.Lineage.Node(column.Table)
	return column, node != nil && node.Column(column.Name) != nil
}

func writeColumn(w io.Writer, g *lineage.Graph, c lineage.Column) error {
	fmt.Fprintln(w, c)
	node := g.Node(c.Table)
	for _, from := range node.Column(c.Name).From {
		how := "made of"
		if from == node.Column(c.Name).Same {
			how = "is"
		}
		fmt.Fprintf(w, "  %s %s\n", how, from)
	}
	for _, origin := range g.Origins(c) {
		if !slices.Contains(node.Column(c.Name).From, origin) {
			fmt.Fprintf(w, "  comes from %s\n", origin)
		}
	}
	for _, use := range g.Uses(c) {
		if use.Rows {
			fmt.Fprintf(w, "  decides the rows of %s\n", use.Table)
		} else {
			fmt.Fprintf(w, "  used by %s\n", use.Column)
		}
	}
	return nil
}

// title is the kind of a job as people read it.
var title = map[openlineage.Kind]string{
	openlineage.Function: "function", openlineage.Sink: "stores", openlineage.Trigger: "Trigger", openlineage.Query: "view",
}

func writeJobs(w io.Writer, jobs []*openlineage.Job) error {
	for _, job := range jobs {
		fmt.Fprintf(w, "%s (%s", job.Name, title[job.Kind])
		if job.Owner != "" {
			fmt.Fprintf(w, ", %s", job.Owner)
		}
		fmt.Fprintln(w, ")")
		for _, d := range job.Inputs {
			fmt.Fprintf(w, "  reads %s\n", d.Name)
		}
		for _, d := range job.Outputs {
			fmt.Fprintf(w, "  makes %s\n", d.Name)
			for _, c := range d.Columns {
				switch {
				case c.Made.Same != (lineage.Column{}):
					fmt.Fprintf(w, "    %s = %s\n", c.Name, c.Made.Same)
				case len(c.Made.From) > 0:
					fmt.Fprintf(w, "    %s of %s\n", c.Name, joined(c.Made.From))
				}
			}
			if len(d.Rows) > 0 {
				fmt.Fprintf(w, "    rows by %s\n", joined(d.Rows))
			}
		}
	}
	return nil
}

func joined(columns []lineage.Column) string {
	var all []string
	for _, c := range columns {
		all = append(all, c.String())
	}
	return strings.Join(all, ", ")
}

// writeLineage writes the jobs, and the datasets that they read or make.
func writeLineage(w io.Writer, jobs []*openlineage.Job) error {
	type column struct {
		Name string   `json:"name"`
		From []string `json:"from,omitempty"`
		Same bool     `json:"same,omitempty"` // it is the one column that it is from, unchanged
	}
	type dataset struct {
		Name    string           `json:"name"`
		Kind    openlineage.Kind `json:"kind"`
		Owner   string           `json:"owner,omitempty"`
		Columns []column         `json:"columns,omitempty"`
		Rows    []string         `json:"rows,omitempty"`
	}
	type job struct {
		*openlineage.Job
		Inputs  []string `json:"inputs"`
		Outputs []string `json:"outputs"`
	}
	var out struct {
		Jobs     []job     `json:"jobs"`
		Datasets []dataset `json:"datasets"`
	}
	seen := map[string]bool{}
	names := func(all []*openlineage.Dataset) []string {
		named := []string{}
		for _, d := range all {
			named = append(named, d.Name)
			if seen[d.Name] {
				continue
			}
			seen[d.Name] = true
			one := dataset{Name: d.Name, Kind: d.Kind, Owner: d.Owner}
			for _, c := range d.Columns {
				made := column{Name: c.Name, Same: c.Made.Same != (lineage.Column{})}
				for _, from := range c.Made.From {
					made.From = append(made.From, from.String())
				}
				one.Columns = append(one.Columns, made)
			}
			for _, c := range d.Rows {
				one.Rows = append(one.Rows, c.String())
			}
			out.Datasets = append(out.Datasets, one)
		}
		return named
	}
	for _, j := range jobs {
		out.Jobs = append(out.Jobs, job{j, names(j.Inputs), names(j.Outputs)})
	}
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	lines.SetIndent("", "  ")
	return lines.Encode(out)
}
