package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// sheets are the files, or addresses, that say where devices stand, who the tenants are and
// what was done.
type sheets struct{ placements, actions, customers, zone string }

func (s *sheets) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.placements, "placements", "", "sheet of placements (CSV: FILE or https://…, or google-sheets:ID): device_id, tenant_id, building, floor, room, persons, outside_co2, valid_from, valid_to")
	cmd.Flags().StringVar(&s.actions, "actions", "", "logbook, likewise: action_id, tenant_id, device_id, building, room, action, taken_at")
	cmd.Flags().StringVar(&s.customers, "customers", "", "customers (FILE.csv, or the https://… of a CRM): customer_id, name, sector, country")
	cmd.Flags().StringVar(&s.zone, "timezone", "", "time zone of times without an offset in these, such as Europe/Amsterdam (default: they are refused)")
}

// Where the sheets' events go in, and where what is stored of them is read.
var (
	placementsAt = source{ingress("iot"), address("iot-metadata-port", "iot") + "placements"}
	actionsAt    = source{ingress("iot"), address("iot-actions-port", "iot") + "actions"}
	customersAt  = source{ingress("crm"), address("customers-port", "crm") + "customers"}
)

type source struct{ broker, port string }

func address(service, namespace string) string {
	return "http://" + service + "." + namespace + ".svc.cluster.local/"
}

func ingress(domain string) string {
	return "http://" + manifest.IngressHost + "/" + domain + "/" + domain
}

// load makes the sources read the sheets, as their ticks do, and returns when what
// the sheets say is stored, and so is what it corrects. It prints what is wrong
// with them. A sheet that could not be read is an error.
func (in *instance) load(ctx context.Context, s sheets) error {
	if s.placements+s.actions+s.customers == "" {
		return nil
	}
	// What an earlier run left on its way is stored first: the sheets are
	// compared with what is stored.
	if err := in.mesh.Idle(ctx); err != nil {
		return err
	}
	// Customers first: the placements are compared with them.
	for _, one := range []struct{ source, flags, files string }{
		{"customer-source", "--customers", s.customers},
		{"sheet-source", "--placements and --actions", s.placements + s.actions},
	} {
		if one.files == "" {
			continue
		}
		pings := slices.DeleteFunc(in.mesh.Pings(), func(p manifest.Ref) bool { return p.Name != one.source })
		if len(pings) == 0 {
			return hint(fmt.Errorf("%s: the manifests have no PingSource and Service %s that reads them", one.flags, one.source), "copy config/sources/%s.yaml to them", one.source)
		}
		for _, ping := range pings {
			if err := in.read(ctx, ping); err != nil {
				return s.named(err)
			}
		}
	}
	return in.tellFindings(ctx, s)
}

// read makes a source read its sheets now, and returns when all that comes of it
// is stored. It is an error if a sheet could not be read and may be later.
func (in *instance) read(ctx context.Context, ping manifest.Ref) error {
	times := 1
	if env := in.sourceEnv(ping.Name); env["PLACEMENTS_SHEET"] != "" && env["ACTIONS_SHEET"] != "" {
		// A tick that brings what the one sheet says does not fail for the other: the
		// next one, to which nothing is new, does.
		times = 2
	}
	for range times {
		before := in.givenUp(ping)
		if err := in.mesh.Tick(ctx, ping); err != nil {
			return fmt.Errorf("tick of PingSource %s: %w", ping, err)
		}
		if err := in.mesh.Idle(ctx); err != nil {
			return err
		}
		for trigger, n := range in.givenUp(ping) {
			if n == before[trigger] {
				continue
			}
			for _, f := range in.mesh.Status().Failures {
				if f.Trigger == trigger {
					return unread{errors.New(f.Text)}
				}
			}
			return unread{fmt.Errorf("%s did not answer", ping.Name)}
		}
	}
	return nil
}

// unread is why a sheet was not read, which passes.
type unread struct{ error }

// givenUp counts the ticks of a PingSource that were not answered well, by Trigger.
func (in *instance) givenUp(ping manifest.Ref) map[manifest.Ref]int64 {
	given := map[manifest.Ref]int64{}
	takers := in.config.Manifests.Takers(in.config.Manifests.PingSource(ping))
	for _, t := range in.mesh.Status().Triggers {
		if slices.ContainsFunc(takers, func(taker *manifest.Trigger) bool { return taker.Ref() == t.Trigger }) {
			given[t.Trigger] = t.DeadLettered + t.Dropped
		}
	}
	return given
}

// tellFindings prints what is wrong with the sheets that the flags name.
func (in *instance) tellFindings(ctx context.Context, s sheets) error {
	found, err := in.findings(ctx)
	if err != nil {
		return err
	}
	var unreadable []error
	for _, kind := range []struct{ name, file string }{{"customers", s.customers}, {"placements", s.placements}, {"actions", s.actions}} {
		for _, f := range found[kind.name] {
			switch {
			case kind.file == "":
			case f.Row == 0 && f.Severity == mesh.SeverityError:
				unreadable = append(unreadable, s.named(fmt.Errorf("--%s: %s", kind.name, sheet.Describe(f))))
			case f.Severity == mesh.SeverityWarning:
				fmt.Fprintf(os.Stderr, "telemesh: warning: %s\n", plain(sheet.Describe(f)))
			default:
				fmt.Fprintf(os.Stderr, "telemesh: row refused: %s\n", plain(sheet.Describe(f)))
			}
		}
	}
	return hint(errors.Join(unreadable...), "a sheet that is not read changes nothing: put right what is said of it, or leave the flag out")
}

// findings gives what is wrong with the sources, by what they bring.
func (in *instance) findings(ctx context.Context) (map[string][]mesh.RejectedRow, error) {
	rows, err := in.warehouse.Query(ctx, findingsSQL)
	if err != nil {
		return nil, err
	}
	found := map[string][]mesh.RejectedRow{}
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		number, _ := row[2].(int64)
		kind := text(row[0])
		found[kind] = append(found[kind], mesh.RejectedRow{
			Sheet: text(row[1]), Row: number, Column: text(row[3]), Severity: mesh.Severity(text(row[4])), Reason: text(row[5]),
		})
	}
	return found, nil
}

// named speaks of the flags, where an error of a source speaks of the variables
// that they set.
func (s *sheets) named(err error) error {
	if err == nil {
		return nil
	}
	var names []string
	for _, flag := range []struct{ variable, flag, value string }{
		{"PLACEMENTS_SHEET", "--placements", s.placements},
		{"ACTIONS_SHEET", "--actions", s.actions},
		{"CRM_URL", "--customers", s.customers},
		{"TIMEZONE", "--timezone", s.zone},
		{"CRM_ALLOW_EMPTY", "--set customer-source.CRM_ALLOW_EMPTY", s.customers},
		{"SHEETS_ALLOW_EMPTY", "--set sheet-source.SHEETS_ALLOW_EMPTY", s.placements + s.actions},
	} {
		if flag.value != "" {
			names = append(names, flag.variable, flag.flag)
		}
	}
	text := strings.NewReplacer(names...).Replace(err.Error())
	if text == err.Error() {
		return err
	}
	return renamed{text, err}
}

// renamed is an error in other words.
type renamed struct {
	text string
	error
}

func (r renamed) Error() string { return r.text }
func (r renamed) Unwrap() error { return r.error }

func (s *sheets) location() (*time.Location, error) {
	if s.zone == "" {
		return nil, nil
	}
	zone, err := time.LoadLocation(s.zone)
	return zone, hint(err, "--timezone takes a name of the tz database, such as Europe/Amsterdam")
}

// postChanges posts rows that no file says and the output port does not show
// yet.
func postChanges[R any](ctx context.Context, in *instance, kind sheet.Kind[R], rows []R, at source) error {
	to, err := sheet.NewPort(kind, in.mesh.Client(), at.port, "sheet-source")
	if err != nil {
		return err
	}
	changes, err := to.Changes(ctx, sheet.Sheet[R]{Rows: rows})
	if err != nil {
		return err
	}
	for _, e := range changes {
		if err := function.Post(ctx, in.mesh.Client(), at.broker, e); err != nil {
			return err
		}
	}
	return nil
}

// scalar runs a query that gives one integer.
func scalar(ctx context.Context, w warehouse.Warehouse, sql string) (int64, error) {
	rows, err := w.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	for row, err := range rows.All {
		if err != nil {
			return 0, err
		}
		n, ok := row[0].(int64)
		if !ok {
			return 0, fmt.Errorf("%s gave %v, want an integer", sql, row[0])
		}
		return n, nil
	}
	return 0, fmt.Errorf("%s gave no row", sql)
}
