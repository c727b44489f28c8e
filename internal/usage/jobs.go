package usage

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Person stands for whoever reads BigQuery and is no service account of the project.
const Person = "person"

// Jobs reads who reads output ports in BigQuery from its own log of jobs,
// INFORMATION_SCHEMA.JOBS. It counts queries of the project that ended well, not
// those that were answered from a cache: of these the log names no table.
//
// BigQuery names the tables that a query ended at and not the views on the way to
// them: a table behind an output port counts as the port, and a query of a view as one of
// the ports that the view is made from. Who reads is told by BigQuery as the name
// of a service account, or Person: no address of a person leaves it.
type Jobs struct {
	query   func(context.Context, string) (*warehouse.Rows, error)
	source  string
	view    string // JOBS of a region
	project string
	ports   []string
}

var region = regexp.MustCompile(`^region-[a-z][a-z0-9-]*$`)

// NewJobs reads the log of a project in a region (region-eu), and reports in the
// name of a function.
func NewJobs(name string, query func(context.Context, string) (*warehouse.Rows, error), products []contract.Product, project, in string) (*Jobs, error) {
	if !region.MatchString(in) {
		return nil, fmt.Errorf("%q: want a region as BigQuery qualifies it: region-eu, region-europe-west4", in)
	}
	j := &Jobs{query: query, source: mesh.Source(name), view: "`" + project + "." + in + ".INFORMATION_SCHEMA.JOBS`", project: project}
	for _, p := range products {
		for _, port := range p.Ports {
			if strings.Contains(port.Name, ".") {
				j.ports = append(j.ports, port.Name)
			}
		}
	}
	return j, nil
}

const (
	settled   = 15 * time.Minute // the log is nearly of now
	caughtUp  = 24 * time.Hour   // hours that are older are not asked for
	longestOf = 12 * time.Hour   // a query waits for 6 hours at most, and runs for 6
	within    = time.Minute      // that the log answers
)

// Report gives an event port.read of each hour of the last day that has ended at an
// instant and has no row in Table. Asked again it gives the same events: an hour
// that has ended gets no more jobs.
func (j *Jobs) Report(ctx context.Context, at time.Time) ([]event.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	until := at.Add(-settled).UTC().Truncate(time.Hour)
	from := until.Add(-caughtUp)
	known, err := j.known(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("read which hours are known: %w", err)
	}
	for known[from] && from.Before(until) {
		from = from.Add(time.Hour)
	}
	if !from.Before(until) {
		return nil, nil
	}
	rows, err := j.query(ctx, j.statement(from, until))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", j.view, err)
	}
	hours := map[time.Time][]row{}
	for cells, err := range rows.All {
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", j.view, err)
		}
		var r row
		hour, _ := cells[0].(time.Time)
		r.Consumer, _ = cells[1].(string)
		r.Port, _ = cells[2].(string)
		r.Times, _ = cells[3].(int64)
		if hour = hour.UTC(); known[hour] || !slices.Contains(j.ports, r.Port) {
			continue
		}
		r.Kind, r.Hour = BigQuery, mesh.At(hour)
		r.Report = mesh.Hash(string(BigQuery), j.project, r.Hour.String())
		hours[hour] = append(hours[hour], r)
	}
	var events []event.Event
	for _, hour := range slices.SortedFunc(maps.Keys(hours), time.Time.Compare) {
		all := hours[hour]
		slices.SortFunc(all, func(a, b row) int { return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Consumer, b.Consumer)) })
		text, err := json.Marshal(map[string]any{"rows": all})
		if err != nil {
			return nil, err
		}
		events = append(events, mesh.NewEvent(mesh.PortRead, j.source, text, all[0].Report))
	}
	return events, nil
}

// known gives the hours that have rows.
func (j *Jobs) known(ctx context.Context, from time.Time) (map[time.Time]bool, error) {
	rows, err := j.query(ctx, fmt.Sprintf("SELECT DISTINCT t.hour FROM %s AS t WHERE t.kind = %s AND t.hour >= %s", Table, literal.Text(string(BigQuery)), literal.Time(mesh.At(from))))
	if err != nil {
		return nil, err
	}
	known := map[time.Time]bool{}
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		if hour, ok := row[0].(time.Time); ok {
			known[hour.UTC()] = true
		}
	}
	return known, nil
}

// statement counts the jobs of hours: by their end, which does not change, among
// those of the partitions that they can have begun in. GoogleSQL alone.
// https://cloud.google.com/bigquery/docs/information-schema-jobs
func (j *Jobs) statement(from, until time.Time) string {
	instant := func(at time.Time) string { return literal.Time(mesh.At(at)) }
	return fmt.Sprintf(`SELECT ended, consumer, port, COUNT(DISTINCT job_id) AS n FROM (
  SELECT TIMESTAMP_TRUNC(j.end_time, HOUR) AS ended, j.job_id,
    CASE WHEN ENDS_WITH(j.user_email, %[1]s) THEN SPLIT(j.user_email, '@')[OFFSET(0)] ELSE %[2]s END AS consumer,
    CONCAT(REGEXP_REPLACE(r.dataset_id, '%[3]s$', ''), '.', r.table_id) AS port
  FROM %[4]s AS j, UNNEST(j.referenced_tables) AS r
  WHERE j.creation_time >= %[5]s AND j.creation_time < %[7]s AND j.end_time >= %[6]s AND j.end_time < %[7]s
    AND j.job_type = 'QUERY' AND j.statement_type = 'SELECT' AND j.state = 'DONE' AND j.error_result IS NULL AND r.project_id = %[8]s
) AS read GROUP BY ended, consumer, port`,
		literal.Text("@"+j.project+".iam.gserviceaccount.com"), literal.Text(Person), contract.InternalSuffix, j.view,
		instant(from.Add(-longestOf)), instant(from), instant(until), literal.Text(j.project))
}
