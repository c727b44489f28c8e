package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	outputport "github.com/telemesh/telemesh/functions/output-port/port"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/placements"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/products"
)

func placementsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "placements",
		Short: "See what a sheet of placements would change, and change it",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(placementsPlan(), placementsApply())
	return cmd
}

func placementsPlan() *cobra.Command {
	var (
		data   string
		zone   zone
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "Say what a sheet of placements would change, and change nothing",
		Long: `Compares a sheet of placements (CSV: device_id, tenant_id, building, floor, room,
persons, outside_co2, valid_from, valid_to; all rows, as --placements takes it)
with what is stored, and says for each device and interval which readings would
go from which tenant to which, or get another place, and which views show it.
Rows that would be refused are named, and so is what stays because of them; and
how many readings still follow an earlier change.`,
		Example: `  telemesh placements plan placements.csv`,
		Args:    arguments(cobra.ExactArgs(1), "the sheet of placements, a CSV"),
		RunE: func(cmd *cobra.Command, files []string) error {
			at, err := zone.location()
			if err != nil {
				return err
			}
			return withWarehouse(cmd.Context(), data, func(w warehouse.Warehouse) error {
				p, err := planPlacements(cmd.Context(), w, files[0], at)
				if err != nil {
					return err
				}
				if asJSON {
					out := json.NewEncoder(cmd.OutOrStdout())
					out.SetIndent("", "  ")
					return out.Encode(p.Plan)
				}
				return p.write(cmd.OutOrStdout())
			})
		},
	}
	dataFlag(cmd, &data)
	zone.flag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func placementsApply() *cobra.Command {
	var (
		o    options
		zone zone
	)
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Make a sheet of placements what holds, and wait until all readings follow",
		Long: `Does what telemesh placements plan says: the changed placements become an event,
and the readings inside the changed intervals are stamped and joined anew. Ended
in the middle, the repair goes on by itself when the mesh runs again.

A sheet that the telemesh of the folder reads by itself (--placements of telemesh
up) is the truth the next time it is read: such a file is read now, and another
one is refused.

Exits 1 if not all readings followed, those of an earlier change included.`,
		Example: `  telemesh placements apply placements.csv`,
		Args:    arguments(cobra.ExactArgs(1), "the sheet of placements, a CSV"),
		RunE: func(cmd *cobra.Command, files []string) (err error) {
			ctx := cmd.Context()
			at, err := zone.location()
			if err != nil {
				return err
			}
			r, err := o.run(ctx)
			if err != nil {
				return interrupted(ctx, err)
			}
			defer func() { err = errors.Join(err, r.close()) }()
			return interrupted(ctx, r.applyPlacements(ctx, files[0], at, cmd.OutOrStdout()))
		},
	}
	o.flags(cmd)
	zone.flag(cmd)
	return cmd
}

// zone is the time zone of times without an offset.
type zone string

func (z *zone) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar((*string)(z), "timezone", "", "time zone of times without an offset in the sheet, such as Europe/Amsterdam (default: they are refused)")
}

func (z zone) location() (*time.Location, error) { return (&sheets{zone: string(z)}).location() }

// readPlacements reads the file. Tenants that are no customers are warned of as
// sheet-source does.
func readPlacements(ctx context.Context, ports *http.Client, file string, zone *time.Location) (none sheet.Sheet[mesh.Placement], err error) {
	f, err := os.Open(file)
	if err != nil {
		return none, hint(err, "the sheet of placements is a CSV; what is stored is written as one by `telemesh query --format csv 'FROM iot_metadata.placements'`")
	}
	defer f.Close()
	if file, err = filepath.Abs(file); err != nil {
		return none, err // findings name a sheet by a name that holds everywhere
	}
	grid, err := sheet.ReadCSV(file, f)
	if err != nil {
		return none, err
	}
	grid.Zone = zone
	read, err := sheet.Placements.Read(grid)
	if err != nil {
		return none, fmt.Errorf("%s: %w", file, err)
	}
	known, err := sheet.NewPort(sheet.Customers, ports, customersAt.port, appliedBy)
	if err != nil {
		return none, err
	}
	customers, err := known.Rows(ctx)
	if len(customers) > 0 { // else nobody keeps them here
		sheet.WarnOfTenants(&read, customers)
	}
	return read, err
}

// appliedBy is the source of what apply tells.
const appliedBy = "placements-apply"

// portsOf serves the output ports of a warehouse as their Services do, also where
// no mesh runs.
func portsOf(w warehouse.Warehouse) (*http.Client, error) {
	all, err := contract.Load(products.FS)
	if err != nil {
		return nil, fmt.Errorf("read contracts: %w", err)
	}
	hosts := outputPorts{}
	for _, at := range []source{placementsAt, customersAt} {
		u, err := url.Parse(at.port)
		if err != nil {
			return nil, err
		}
		schema := map[source]string{placementsAt: "iot_metadata", customersAt: "customers"}[at]
		var tables []contract.Table
		for _, p := range all {
			if p.Schema != schema {
				continue
			}
			for _, t := range p.Tables {
				if t.Schema == schema {
					tables = append(tables, t)
				}
			}
		}
		hosts[u.Host] = outputport.New(tables, w, slog.New(slog.DiscardHandler))
	}
	return &http.Client{Transport: hosts}, nil
}

// outputPorts are the handlers of Services by their host.
type outputPorts map[string]http.Handler

func (o outputPorts) RoundTrip(r *http.Request) (*http.Response, error) {
	handler := o[r.URL.Host]
	if handler == nil {
		return nil, fmt.Errorf("there is no output port %s", r.URL.Host)
	}
	w := &answer{header: http.Header{}, status: http.StatusOK}
	handler.ServeHTTP(w, r)
	return &http.Response{StatusCode: w.status, Status: http.StatusText(w.status), Header: w.header, Body: io.NopCloser(&w.body), Request: r}, r.Context().Err()
}

// answer is a handler's answer in memory.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// change is a sheet of placements beside what is stored.
type change struct {
	*placements.Plan
	read   sheet.Sheet[mesh.Placement]
	port   *sheet.Port[mesh.Placement]
	client *http.Client // of the output ports
}

func planPlacements(ctx context.Context, w warehouse.Warehouse, file string, zone *time.Location) (*change, error) {
	client, err := portsOf(w)
	if err != nil {
		return nil, err
	}
	read, err := readPlacements(ctx, client, file, zone)
	if err != nil {
		return nil, err
	}
	c := &change{read: read, client: client}
	if c.port, err = sheet.NewPort(sheet.Placements, client, placementsAt.port, appliedBy); err != nil {
		return nil, err
	}
	stored, err := c.port.Rows(ctx)
	if err != nil {
		return nil, err
	}
	c.Plan = placements.Make(read, stored)
	if err := c.Count(ctx, w); err != nil {
		return nil, err
	}
	return c, c.see()
}

// see finds where the change is seen.
func (c *change) see() error {
	if len(c.Tenants) == 0 {
		return nil
	}
	all, err := contract.Load(products.FS)
	if err != nil {
		return err
	}
	for _, product := range all {
		for _, v := range product.Views {
			if strings.Contains(v.SQL, "iot_analytics.readings") || strings.Contains(v.SQL, "iot_telemetry.readings") {
				c.Views = append(c.Views, v.Schema+"."+v.Name)
			}
		}
	}
	return nil
}

func (c *change) write(out io.Writer) error {
	for _, refused := range c.Refused {
		fmt.Fprintf(out, "refused: %s\n", plain(refused))
	}
	for _, warning := range c.Warnings {
		fmt.Fprintf(out, "warning: %s\n", plain(warning))
	}
	for _, held := range c.HeldBack {
		fmt.Fprintf(out, "held back: device %s from %s is not deleted, nor is its device changed, while a refused row may be about it\n", plain(held.DeviceID), held.From)
	}
	if c.Behind > 0 {
		verb := "follow"
		if c.Behind == 1 {
			verb = "follows"
		}
		fmt.Fprintf(out, "%s still %s an earlier change: `telemesh placements apply` waits for it to be done\n", counted(c.Behind, "reading"), verb)
	}
	if c.Empty() {
		_, err := fmt.Fprintln(out, "nothing changes")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(c.Moves) > 0 {
		fmt.Fprintln(table, "DEVICE\tFROM\tTO\tTENANT NOW\tTHEN\tPLACE\tREADINGS")
	}
	hands := map[[2]string]int64{}
	for _, m := range c.Moves {
		to, place := "(open)", ""
		if m.To != nil {
			to = m.To.String()
		}
		if m.Place {
			place = "another"
		}
		hands[[2]string{m.Now, m.Then}] += m.Rows
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", plain(m.DeviceID), m.From, to, holder(m.Now), holder(m.Then), orDash(place), m.Rows)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(c.Moves) > 0 {
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "placements  %d new, %d changed, %d deleted\n", c.New, c.Changed, c.Deleted)
	for _, pair := range slices.SortedFunc(maps.Keys(hands), func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }) {
		what := fmt.Sprintf("from %s to %s", holder(pair[0]), holder(pair[1]))
		if pair[0] == pair[1] {
			what = "of " + holder(pair[0]) + " get another place"
		}
		if hands[pair] > 0 {
			fmt.Fprintf(out, "readings    %d %s\n", hands[pair], what)
		}
	}
	if len(c.Views) > 0 {
		fmt.Fprintf(out, "views       %s\n", strings.Join(c.Views, ", "))
		fmt.Fprintf(out, "tenants     %s\n", strings.Join(c.Tenants, ", "))
	}
	return nil
}

func counted(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func holder(tenant string) string {
	if tenant == "" {
		return "(nobody)"
	}
	return plain(tenant)
}

// applyPlacements makes the file what holds. Nothing is said to be done before
// the placements that are stored are those of the file and all readings follow
// them.
func (r *running) applyPlacements(ctx context.Context, file string, zone *time.Location, out io.Writer) error {
	mine, err := r.readsPlacements(ctx, file)
	if err != nil {
		return err
	}
	c, err := planPlacements(ctx, r.warehouse, file, zone)
	if err != nil {
		return err
	}
	if err := c.write(out); err != nil {
		return err
	}
	began := time.Now()
	if mine {
		// One process tells of a sheet: two would give one version to two contents.
		if err := r.tellSheets(ctx); err != nil {
			return err
		}
	} else {
		events, err := c.port.Changes(ctx, c.read)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := r.post(ctx, e); err != nil {
				return err
			}
		}
	}
	all := c.Behind
	for _, m := range c.Moves {
		if m.Now != m.Then {
			all += m.Rows
		}
	}
	var bar *progressbar.ProgressBar
	if all > 0 && term.IsTerminal(int(os.Stderr.Fd())) {
		bar = progressbar.Default(all, "readings")
	}
	var unlike, left int64
	missing := func() (int, error) {
		if unlike, err = c.unlike(ctx); err != nil {
			return 0, err
		}
		if left, err = placements.Behind(ctx, r.warehouse); err != nil {
			return 0, err
		}
		if bar != nil && unlike == 0 {
			bar.Set64(max(all-left, 0))
		}
		return int(unlike + left), nil
	}
	if err := r.wait(ctx, missing); err != nil {
		return err
	}
	const causes = "`telemesh deadletters list` shows what failed; another source (a sheet that `telemesh up` or a cluster reads) may have changed the same rows meanwhile: " +
		"`telemesh placements plan` says what differs now, and `telemesh prove` names the rows"
	switch {
	case unlike > 0:
		return hint(fmt.Errorf("not stored as the sheet has it: %s", counted(unlike, "placement")), causes)
	case left > 0:
		return hint(fmt.Errorf("%s did not follow", counted(left, "reading")), causes)
	}
	// What is joined follows.
	if err := r.idle(ctx); err != nil || c.Empty() && c.Behind == 0 {
		return err
	}
	_, err = fmt.Fprintf(out, "\ndone        in %.1f s\n", time.Since(began).Seconds())
	return err
}

// unlike counts the placements that are not stored as the sheet has them.
func (c *change) unlike(ctx context.Context) (int64, error) {
	now, err := sheet.NewPort(sheet.Placements, c.client, placementsAt.port, appliedBy) // knows only what is stored
	if err != nil {
		return 0, err
	}
	stored, err := now.Rows(ctx)
	return int64(len(sheet.Placements.Changes(c.read, stored, 0))), err
}

// readsPlacements says whether the process that holds the folder reads the file
// by itself. It is an error if it reads another sheet: that one would undo what
// the file says, the next time it is read.
func (r *running) readsPlacements(ctx context.Context, file string) (bool, error) {
	if r.placementsSheet == nil {
		return false, nil
	}
	at, err := r.placementsSheet(ctx)
	if err != nil || at == "" {
		return false, err
	}
	own, err := os.Stat(at)
	if err == nil {
		given, err := os.Stat(file)
		if err == nil && os.SameFile(own, given) {
			return true, nil
		}
	}
	return false, hint(fmt.Errorf("the telemesh that runs on this folder reads its placements from %s: what %s says would be undone within a minute", at, file),
		"change %s itself and run `telemesh sheets read`, or start that telemesh without this sheet", at)
}
