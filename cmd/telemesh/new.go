package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/scaffold"
)

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Make a mesh of your own, a data product, a function",
		Long: `Writes the files of a mesh, of a data product or of a function: whole, and like
those that are there. Nothing is overwritten; a file that has to name what is new
as well, as that of the namespaces, gains lines. What was written is listed, and
what is left to do.

A mesh is a folder with brokers/, triggers/, config/ and products/, as a clone of
Telemesh is. Products need no code: events fill their tables by what the contracts
say, views are SQL. Functions are Go, and are made in a clone.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newMeshCommand(), newProductCommand(), newFunctionCommand())
	return cmd
}

func dirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", ".", "folder of the mesh: with brokers/, triggers/, config/ and products/")
}

func newMeshCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "mesh DIR",
		Short: "Make a folder with the platform's part of a mesh: log, dead letters, portal",
		Long: `Makes a folder that telemesh up --manifests DIR --products DIR/products runs: the
namespace and the Broker of the platform, the log of all events, the dead letters,
the portal and the platform's own products. It has no devices, tenants or readings.`,
		Example: `  telemesh new mesh shop
  telemesh new product orders --dir shop --domain sales --kind source --like order.json
  telemesh up --manifests shop --products shop/products`,
		Args: arguments(cobra.ExactArgs(1), "the folder to make"),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := scaffold.NewMesh(args[0])
			return listWritten(cmd.OutOrStdout(), args[0], report, hint(err, "name a folder that is not there, or is empty"))
		},
	}
}

func newProductCommand() *cobra.Command {
	var p scaffold.Product
	cmd := &cobra.Command{
		Use:   "product NAME",
		Short: "Make a data product: descriptor, contract or view, and what fills it",
		Long: `Makes a data product, and its domain where that is new.

A source-aligned product has a table, whose rows events bring. Samples of their
data (--like: a file, a folder or a pattern) tell the columns, one for each member
in objects; lists are JSON. Or --columns does, and the data are
{"rows": [{"COLUMN": VALUE, …}]}. A row with the key of another one takes its place:
without --key it is a member id, uuid or hash of the data that differs from sample
to sample, else source and id of the event.

A consumer-aligned product reads output ports of others (--in): tables and views
by a view, whose query a file tells (--view FILE.sql, in GoogleSQL; what DuckDB is
to read instead stands in FILE.duckdb.sql), events by a table as above.`,
		Example: `  telemesh new product orders --domain sales --kind source --like 'orders/*.json' --key order_id
  telemesh new product stock --domain sales --kind source --columns 'sku string key, counted_at timestamp required, pieces int64'
  telemesh new product alarms --domain analytics --kind consumer --in dev.telemesh.telemetry.enriched.v1 \
      --rows /readings --columns 'reading_id string key, device_id string, value float64'
  telemesh new product large-orders --domain finance --kind consumer --in orders.orders --view large.sql`,
		Args: arguments(cobra.ExactArgs(1), "the name of the product"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Name = args[0]
			report, err := scaffold.NewProduct(p)
			return listWritten(cmd.OutOrStdout(), p.Dir, report, hint(err, "see `telemesh new product --help`; `telemesh new mesh DIR` makes a folder, --dir names it"))
		},
	}
	dirFlag(cmd, &p.Dir)
	flags := cmd.Flags()
	flags.StringVar(&p.Domain, "domain", "", "domain that it is of: a namespace, with a Broker of the same name")
	flags.StringVar(&p.Kind, "kind", "", "source or consumer")
	flags.StringVar(&p.Owner, "owner", "", "team that owns it (default: DOMAIN-team)")
	flags.StringVar(&p.Purpose, "purpose", "", "what it is for, in a sentence")
	flags.StringVar(&p.Event, "event", "", "type of the events that bring its rows (default: dev.telemesh.NAME.received.v1)")
	flags.StringVar(&p.Like, "like", "", "file, folder or pattern of samples of the data of such events, JSON or NDJSON")
	flags.StringVar(&p.Columns, "columns", "", "NAME TYPE [key] [required], …; types: string, float64, int64, bool, timestamp, json")
	flags.StringVar(&p.RowsAt, "rows", "", "JSON Pointer to the list of rows in such data, as /readings (default: the data are one row; of --columns: /rows)")
	flags.StringVar(&p.Key, "key", "", "columns that tell one row from another, separated by commas")
	flags.StringSliceVar(&p.In, "in", nil, "output port that a consumer reads, as iot_telemetry.readings or the type of an event")
	flags.StringVar(&p.View, "view", "", "file with the query of the consumer's view (default: all columns of the port)")
	return cmd
}

func newFunctionCommand() *cobra.Command {
	var f scaffold.Function
	cmd := &cobra.Command{
		Use:   "function NAME",
		Short: "Make a function: handler, tests, benchmark, Service and Trigger",
		Long: `Makes a function of a product in a clone of Telemesh: a handler with its tests and
a benchmark, its entry in the table of functions, its Service, and the Trigger that
wakes it. It takes events of one type and replies events of another, which becomes
an output port of the product. As it is written it hands the data on: what else it
is to do is written in the handler.`,
		Example: `  telemesh new function order-count --product orders --in dev.telemesh.orders.received.v1 --out dev.telemesh.orders.counted.v1`,
		Args:    arguments(cobra.ExactArgs(1), "the name of the function"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Name = args[0]
			report, err := scaffold.NewFunction(f)
			return listWritten(cmd.OutOrStdout(), f.Dir, report, hint(err, "see `telemesh new function --help`; functions are made in a clone of Telemesh, which --dir names"))
		},
	}
	dirFlag(cmd, &f.Dir)
	flags := cmd.Flags()
	flags.StringVar(&f.Product, "product", "", "product that it is of")
	flags.StringVar(&f.In, "in", "", "type of the events that wake it")
	flags.StringVar(&f.Out, "out", "", "type of the events that it replies")
	return cmd
}

// listWritten lists what was written.
func listWritten(out io.Writer, dir string, r scaffold.Report, err error) error {
	if err != nil {
		return err
	}
	for _, name := range r.Created {
		fmt.Fprintln(out, "created", filepath.Join(dir, name))
	}
	for _, name := range r.Changed {
		fmt.Fprintln(out, "changed", filepath.Join(dir, name))
	}
	for _, next := range r.Next {
		fmt.Fprintln(out, "next:  ", next)
	}
	return nil
}
