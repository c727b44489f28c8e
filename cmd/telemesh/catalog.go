package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/portal"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// catalogOf is the catalog that a command shows, and the warehouse that it asks what
// is true of the rows.
type catalogOf struct {
	at                  warehouseAt
	dir, folder, format string
	formatted           bool
}

func (o *catalogOf) flags(cmd *cobra.Command, format bool) {
	o.at.flags(cmd)
	cmd.Flags().StringVar(&o.dir, "manifests", "", "folder with brokers/, triggers/ and config/ (default: those built in)")
	productsFlag(cmd, &o.folder)
	if o.formatted = format; format {
		cmd.Flags().StringVar(&o.format, "format", "text", "text or json")
	}
}

// documents gives the products and the mesh that the catalog is of.
func (o *catalogOf) documents() ([]contract.Product, topology.Mesh, error) {
	if o.formatted && o.format != "text" && o.format != "json" {
		return nil, topology.Mesh{}, hint(fmt.Errorf("unknown format %q", o.format), "--format text or json")
	}
	set, err := loadManifests(o.dir)
	if err != nil {
		return nil, topology.Mesh{}, err
	}
	documents, err := productsFolder(o.folder)
	if err != nil {
		return nil, topology.Mesh{}, err
	}
	products, err := contract.Load(documents)
	if err != nil {
		return nil, topology.Mesh{}, err
	}
	mesh, err := set.Topology()
	return products, mesh, err
}

// read gives the catalog, and the products that it is of.
func (o *catalogOf) read() (*catalog.Catalog, []contract.Product, error) {
	products, mesh, err := o.documents()
	if err != nil {
		return nil, nil, err
	}
	c, err := catalog.New(products, mesh)
	return c, products, err
}

// with has the warehouse for as long as do runs; nil: that of the default folder is
// not there, and no other one was named.
func (o *catalogOf) with(cmd *cobra.Command, do func(warehouse.Warehouse) error) error {
	if o.at.warehouse == "" && !cmd.Flags().Changed("data") {
		if _, err := os.Stat(o.at.data); err != nil {
			return do(nil)
		}
	}
	return o.at.with(cmd.Context(), do)
}

// now asks the warehouse, if there is one, of the ports.
func (o *catalogOf) now(cmd *cobra.Command, products []contract.Product, ports []*catalog.Port) (known catalog.KnownNow, err error) {
	err = o.with(cmd, func(w warehouse.Warehouse) error {
		if w == nil {
			return nil
		}
		var unknown error
		known, unknown = catalog.NewLive(access.New(w, products), time.Now).Now(cmd.Context(), access.Viewer{Role: access.Admin}, ports)
		if unknown != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "not all is known: %v\n", unknown)
		}
		return cmd.Context().Err()
	})
	return known, err
}

func catalogCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "catalog",
		Short: "Find data products: who owns them, what they offer, how to read it",
		Long: `The catalog of the data products, as the portal shows it: here, as a folder of
pages (build), or for other catalogs (export). With a warehouse, that of --data if
it is there, it says how many rows there are, how new they are, and what the last
check of the quality rules found.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(catalogListCommand(), catalogShowCommand(), catalogSearchCommand(), catalogBuildCommand(), catalogExportCommand())
	return cmd
}

func catalogListCommand() *cobra.Command {
	var o catalogOf
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the data products and their output ports",
		Args:  arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, products, err := o.read()
			if err != nil {
				return err
			}
			var ports []*catalog.Port
			for _, p := range c.Products {
				ports = append(ports, p.Ports...)
			}
			now, err := o.now(cmd, products, ports)
			if err != nil {
				return err
			}
			all := []catalog.ProductText{}
			for _, p := range c.Products {
				all = append(all, p.Text(now, false))
			}
			if o.format == "json" {
				return writeIndented(cmd.OutOrStdout(), all)
			}
			return writeProducts(cmd.OutOrStdout(), all, now)
		},
	}
	o.flags(cmd, true)
	return cmd
}

func catalogShowCommand() *cobra.Command {
	var o catalogOf
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a data product, or an output port: a table, a view or a type of events",
		Example: `  telemesh catalog show iot-analytics
  telemesh catalog show iot_analytics.co2_evolution
  telemesh catalog show --format json dev.telemesh.analytics.joined.v1`,
		Args: arguments(cobra.ExactArgs(1), "the name of a product or of an output port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, products, err := o.read()
			if err != nil {
				return err
			}
			if p := c.Product(args[0]); p != nil {
				now, err := o.now(cmd, products, p.Ports)
				if err != nil {
					return err
				}
				text := p.Text(now, o.format == "json")
				if o.format == "json" {
					return writeIndented(cmd.OutOrStdout(), text)
				}
				return writeProduct(cmd.OutOrStdout(), &text, now)
			}
			port := c.Port(args[0])
			if port == nil {
				err := fmt.Errorf("there is no product and no output port %s", args[0])
				if hits := c.Search(args[0]); len(hits) > 0 {
					return hint(err, "did you mean `%s %s`?", cmd.CommandPath(), hitName(hits[0]))
				}
				return hint(err, "`telemesh catalog list` names all, `telemesh catalog search WORDS` finds some")
			}
			now, err := o.now(cmd, products, []*catalog.Port{port})
			if err != nil {
				return err
			}
			text := port.Text(now, true)
			if o.format == "json" {
				return writeIndented(cmd.OutOrStdout(), text)
			}
			return writePort(cmd.OutOrStdout(), port, &text, now)
		},
	}
	o.flags(cmd, true)
	return cmd
}

func hitName(h catalog.Hit) string {
	if h.Port != nil {
		return h.Port.Name
	}
	return h.Product.Name
}

func catalogSearchCommand() *cobra.Command {
	var o catalogOf
	cmd := &cobra.Command{
		Use:     "search WORDS",
		Short:   "Find products and output ports by names, columns, purposes and owners",
		Example: `  telemesh catalog search co2 room`,
		Args:    arguments(cobra.MinimumNArgs(1), "words, all of which have to be found"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := o.read()
			if err != nil {
				return err
			}
			hits := c.Search(strings.Join(args, " "))
			type found struct {
				Name    string   `json:"name"`
				Type    string   `json:"type"` // product, table, view, event
				Product string   `json:"product"`
				Purpose string   `json:"purpose"`
				Columns []string `json:"columns,omitempty"` // that have a word
			}
			all := []found{}
			for _, h := range hits {
				one := found{Name: hitName(h), Type: "product", Product: h.Product.Name, Purpose: h.Product.Purpose}
				if h.Port != nil {
					one.Type, one.Purpose = string(h.Port.Kind), h.Port.Purpose
				}
				for _, column := range h.Columns {
					one.Columns = append(one.Columns, column.Name)
				}
				all = append(all, one)
			}
			if o.format == "json" {
				return writeIndented(cmd.OutOrStdout(), all)
			}
			if len(all) == 0 {
				return hint(fmt.Errorf("nothing has all of: %s", strings.Join(args, " ")), "try fewer words, or the begin of one")
			}
			for _, f := range all {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  (%s of %s)\n    %s\n", f.Name, f.Type, f.Product, f.Purpose)
				if len(f.Columns) > 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "    columns: %s\n", strings.Join(f.Columns, ", "))
				}
			}
			return nil
		},
	}
	o.flags(cmd, true)
	return cmd
}

func catalogBuildCommand() *cobra.Command {
	var o catalogOf
	cmd := &cobra.Command{
		Use:   "build DIR",
		Short: "Write the catalog as a folder of pages that need no server",
		Long: `Writes the catalog as pages that a browser opens from a folder, or any web server
serves: index.html and a page for each product and output port. They have no rows,
but say how many there are and how new, where a warehouse is reached.`,
		Args: arguments(cobra.ExactArgs(1), "the folder to write to"),
		RunE: func(cmd *cobra.Command, args []string) error {
			products, mesh, err := o.documents()
			if err != nil {
				return err
			}
			var n int
			err = o.with(cmd, func(w warehouse.Warehouse) (err error) {
				cfg := portal.Config{Products: products, Mesh: mesh, Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))}
				if w != nil {
					cfg.Data = access.New(w, products)
				}
				n, err = portal.WriteCatalog(cmd.Context(), cfg, args[0])
				return err
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d pages: open %s\n", n, strings.TrimSuffix(args[0], "/")+"/index.html")
			return nil
		},
	}
	o.flags(cmd, false)
	return cmd
}

func catalogExportCommand() *cobra.Command {
	var (
		o           catalogOf
		format, web string
	)
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the catalog for other catalogs, as DCAT in JSON-LD",
		Long: `Writes the catalog in the words of DCAT 3, with what DCAT-AP requires, as JSON-LD.
What it names has an address on the portal, whose own address is --portal.`,
		Example: `  telemesh catalog export --format dcat --portal https://portal.example.org > catalog.jsonld`,
		Args:    arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "dcat" {
				return hint(fmt.Errorf("unknown format %q", format), "--format dcat")
			}
			if u, err := url.Parse(web); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				return hint(fmt.Errorf("--portal %q is no address", web), "for example --portal https://portal.example.org")
			}
			c, _, err := o.read()
			if err != nil {
				return err
			}
			return writeIndented(cmd.OutOrStdout(), c.DCAT(web))
		},
	}
	cmd.Flags().StringVar(&o.dir, "manifests", "", "folder with brokers/, triggers/ and config/ (default: those built in)")
	productsFlag(cmd, &o.folder)
	cmd.Flags().StringVar(&format, "format", "dcat", "dcat: JSON-LD")
	cmd.Flags().StringVar(&web, "portal", "http://localhost:8080", "address of the portal")
	return cmd
}

func writeIndented(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(value)
}

func writeProducts(w io.Writer, all []catalog.ProductText, now catalog.KnownNow) error {
	for i := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		p := &all[i]
		fmt.Fprintf(w, "%s  (%s, %s, %s, version %s)\n", p.Name, p.Domain, p.Kind, p.Owner, p.Version)
		if err := writePorts(w, p.Ports, now); err != nil {
			return err
		}
	}
	return nil
}

func writePorts(w io.Writer, ports []catalog.PortText, now catalog.KnownNow) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := range ports {
		p := &ports[i]
		fmt.Fprintf(table, "  %s\t%s\t", p.Name, p.Type)
		if now.Facts != nil {
			fmt.Fprintf(table, "%s\t%s\t", rowsOf(p), newestOf(p, now))
		}
		fmt.Fprintf(table, "%s\n", p.Purpose)
	}
	return table.Flush()
}

func rowsOf(p *catalog.PortText) string {
	if p.RowCount == nil {
		return ""
	}
	return counted(*p.RowCount, "row")
}

func newestOf(p *catalog.PortText, now catalog.KnownNow) string {
	if p.NewestRow == nil {
		return ""
	}
	text := now.At.Sub(*p.NewestRow).Round(time.Second).String() + " ago"
	if p.Fresh != nil && !*p.Fresh {
		text += ", none since"
	}
	return text
}

func writeProduct(w io.Writer, p *catalog.ProductText, now catalog.KnownNow) error {
	fmt.Fprintf(w, "%s\n\n", p.Name)
	facts := [][2]string{{"what for", p.Purpose}, {"use it so", p.Usage}, {"its limits", p.Limits}, {"domain", p.Domain}, {"kind", p.Kind}, {"owner", p.Owner}, {"version", p.Version},
		{"reads", strings.Join(p.Inputs, ", ")}}
	if err := writeFacts(w, facts); err != nil {
		return err
	}
	fmt.Fprintln(w, "\noutput ports")
	return writePorts(w, p.Ports, now)
}

func writeFacts(w io.Writer, facts [][2]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range facts {
		if f[1] != "" {
			fmt.Fprintf(table, "%s\t%s\n", f[0], f[1])
		}
	}
	return table.Flush()
}

func writePort(w io.Writer, port *catalog.Port, p *catalog.PortText, now catalog.KnownNow) error {
	whose := p.Tenant
	if whose == "" {
		whose = "nobody's: for who sees the data of all tenants"
		if p.Type == catalog.Event {
			whose = ""
		}
	}
	fmt.Fprintf(w, "%s\n\n", p.Name)
	facts := [][2]string{{"what it is", p.Purpose}, {"type", string(p.Type)}, {"product", p.Product}, {"owner", port.Product.Owner}, {"version", p.Version}, {"whose", whose},
		{"rows", rowsOf(p)}, {"newest", newestOf(p, now)}, {"made from", strings.Join(p.MadeFrom, ", ")}, {"brought by", strings.Join(p.Events, ", ")},
		{"made by", strings.Join(p.Makers, ", ")}, {"brokers", strings.Join(p.Brokers, ", ")}, {"kept in", strings.Join(p.Stored, ", ")}}
	if err := writeFacts(w, facts); err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(p.Columns) > 0 {
		fmt.Fprintln(table, "\nCOLUMN\tTYPE\tUNIT\tCLASS\tMADE OF\tMEANING")
		for _, c := range p.Columns {
			name := c.Name
			if c.Key {
				name += " (key)"
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", name, c.Type, c.Unit, c.Classification, strings.Join(c.MadeOf, ", "), c.Purpose)
		}
		table.Flush()
	}
	if len(p.Levels) > 0 {
		fmt.Fprintln(table, "\nSERVICE LEVEL\tPROMISED\tMEASURED\tMEANING")
		for _, l := range p.Levels {
			promised := "unlimited"
			switch {
			case l.Seconds != nil:
				promised = (time.Duration(*l.Seconds) * time.Second).String()
			case l.Percent != nil:
				promised = percent(*l.Percent)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", l.Property, promised, measuredOf(&l), l.Purpose)
		}
		table.Flush()
	}
	if len(p.Rules) > 0 {
		fmt.Fprintln(table, "\nQUALITY RULE\tWANTED\tLAST RESULT\tMEANING")
		for _, r := range p.Rules {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", r.ID, r.Wanted, lastOf(r.Last), r.Purpose)
		}
		table.Flush()
	}
	if len(p.Consumers) > 0 {
		fmt.Fprintln(table, "\nCONSUMER\tWHAT\tHOW")
		for _, c := range p.Consumers {
			fmt.Fprintf(table, "%s\t%s\t%s\n", c.Name, c.By, c.How)
		}
	}
	if len(p.Reads) > 0 {
		table.Flush()
		fmt.Fprintf(table, "\nREAD BY\tWAY\tREADS IN %d DAYS\n", catalog.UsageDays)
		for _, r := range p.Reads {
			fmt.Fprintf(table, "%s\t%s\t%d\n", r.Consumer, r.By, r.Reads)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if p.Query != "" {
		_, err := fmt.Fprintf(w, "\n%s\n", p.Query)
		return err
	}
	return nil
}

func percent(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) + "%" }

// measuredOf is the last measurement of a level.
func measuredOf(l *catalog.LevelText) string {
	m := l.Last
	switch {
	case m == nil:
		return "not measured"
	case m.Actual == nil:
		return "nothing to measure, " + m.At.Format(time.RFC3339)
	}
	text := ""
	switch {
	case m.Kept == nil:
	case *m.Kept:
		text = "kept: "
	default:
		text = "missed: "
	}
	if l.Percent != nil {
		text += percent(*m.Actual)
	} else {
		text += time.Duration(*m.Actual * float64(time.Second)).Round(time.Millisecond).String()
	}
	text += ", " + m.At.Format(time.RFC3339)
	if m.BudgetLeft != nil {
		text += ", " + percent(*m.BudgetLeft) + " of the error budget left"
	}
	return text
}

func lastOf(r *catalog.ResultText) string {
	switch {
	case r == nil:
		return "not checked"
	case r.Error != "":
		return "not known: " + r.Error
	case r.Kept:
		return "kept: " + strconv.FormatFloat(r.Counted, 'g', -1, 64) + ", " + r.At.Format(time.RFC3339)
	}
	return "broken: " + strconv.FormatFloat(r.Counted, 'g', -1, 64) + ", " + r.At.Format(time.RFC3339)
}
