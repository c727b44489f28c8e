package cloud

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"cloud.google.com/go/bigquery"

	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// Error is that of an Apply that ended before its end.
type Error struct {
	Step Step // what was not done
	Done int  // steps that were
	Left int  // steps that were not, Step included
	Err  error
}

func (e *Error) Error() string {
	c := e.Step.Changes[0]
	what := fmt.Sprintf("%s %s %s", c.Action, c.Kind, c.Name)
	if more := len(e.Step.Changes) - 1; more > 0 {
		what += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%s: %v", what, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Apply does the steps of a plan, and tells of each that is done. It stops at
// the first that cannot be done, with an *Error; what is done stays, and another
// plan begins where this one ended.
func (p *Project) Apply(ctx context.Context, plan *Plan, done func(Step)) error {
	if len(plan.Refused) > 0 {
		return fmt.Errorf("the plan is refused: %s", plan.Refused[0])
	}
	for i, step := range plan.Steps {
		if err := p.do(ctx, step); err != nil {
			return &Error{step, i, len(plan.Steps) - i, err}
		}
		done(step)
	}
	return nil
}

func (p *Project) do(ctx context.Context, step Step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	return step.do(ctx)
}

// create makes a table or a view.
func (p *Project) create(ctx context.Context, o *schema.Object) error {
	if err := p.table(o.FullName()).Create(ctx, o.Metadata); err != nil || o.Metadata.ViewQuery == "" {
		return err
	}
	return p.describeView(ctx, o)
}

// changeView makes a view what is wanted.
func (p *Project) changeView(ctx context.Context, o *schema.Object, query bool) error {
	update := bigquery.TableMetadataToUpdate{Description: o.Metadata.Description, ExpirationTime: bigquery.NeverExpire}
	if query {
		update.ViewQuery = o.Metadata.ViewQuery
		update.UseLegacySQL = false
	}
	for name, value := range o.Metadata.Labels {
		update.SetLabel(name, value)
	}
	if _, err := p.table(o.FullName()).Update(ctx, update, ""); err != nil {
		return err
	}
	return p.describeView(ctx, o)
}

// describeView sets the descriptions of a view's columns. BigQuery takes none
// with the query: it makes the columns of it.
func (p *Project) describeView(ctx context.Context, o *schema.Object) error {
	have, err := p.table(o.FullName()).Metadata(ctx)
	if err != nil {
		return err
	}
	after, fields := described(have.Schema, o)
	if len(fields) == 0 {
		return nil
	}
	_, err = p.table(o.FullName()).Update(ctx, bigquery.TableMetadataToUpdate{Schema: after}, have.ETag)
	return err
}

// changeAccess adds entries to the access list of a dataset and removes others.
// What somebody else changes at the same time stays.
//
// An authorization that is there already is written once more: "If that view is
// updated by any user, access to the view needs to be granted again via an update
// operation", https://cloud.google.com/bigquery/docs/reference/rest/v2/datasets.
func (p *Project) changeAccess(ctx context.Context, dataset string, add, remove []entry) error {
	const tries = 5
	d := p.config.BigQuery.Dataset(dataset)
	for try := 1; ; try++ {
		metadata, err := d.Metadata(ctx)
		if err != nil {
			return err
		}
		there := map[entry]bool{}
		list := []*bigquery.AccessEntry{}
		for _, a := range metadata.Access {
			if e := p.entry(a); !slices.Contains(remove, e) {
				there[e] = true
				list = append(list, a)
			}
		}
		for _, e := range add {
			if !there[e] {
				list = append(list, p.write(e))
			}
		}
		// BigQuery replaces the whole list.
		_, err = d.Update(ctx, bigquery.DatasetMetadataToUpdate{Access: list}, metadata.ETag)
		if err == nil || !isCode(err, http.StatusPreconditionFailed) || try == tries {
			return err
		}
	}
}

// run runs a statement that changes rows.
func (p *Project) run(ctx context.Context, sql string, parameters []bigquery.QueryParameter) error {
	q := p.config.BigQuery.Query(sql)
	q.Parameters = parameters
	job, err := q.Run(ctx)
	if err != nil {
		return err
	}
	ended, err := job.Wait(ctx)
	if err != nil {
		return err
	}
	return ended.Err()
}

func (p *Project) quoted(table string) string {
	return "`" + p.config.Project + "." + table + "`"
}

// parameters collects the values of a statement.
type parameters []bigquery.QueryParameter

// add gives the name of a new parameter.
func (p *parameters) add(value string) string {
	name := fmt.Sprint("p", len(*p))
	*p = append(*p, bigquery.QueryParameter{Name: name, Value: value})
	return "@" + name
}

// memberRows is how many rows a statement deletes or inserts: it may have 10,000
// parameters.
const memberRows = 2000

func (p *Project) deleteMembers(ctx context.Context, rows []member) error {
	for chunk := range slices.Chunk(rows, memberRows) {
		var ps parameters
		var which []string
		for _, m := range chunk {
			which = append(which, fmt.Sprintf("(member = %s AND tenant_id = %s)", ps.add(m.Member), ps.add(m.Tenant)))
		}
		if err := p.run(ctx, "DELETE FROM "+p.quoted(schema.Members)+" WHERE "+strings.Join(which, " OR "), ps); err != nil {
			return err
		}
	}
	return nil
}

func (p *Project) insertMembers(ctx context.Context, rows []member) error {
	for chunk := range slices.Chunk(rows, memberRows) {
		var ps parameters
		var values []string
		for _, m := range chunk {
			values = append(values, fmt.Sprintf("(%s, %s)", ps.add(m.Member), ps.add(m.Tenant)))
		}
		if err := p.run(ctx, "INSERT INTO "+p.quoted(schema.Members)+" (member, tenant_id) VALUES "+strings.Join(values, ", "), ps); err != nil {
			return err
		}
	}
	return nil
}

func (p *Project) insertContracts(ctx context.Context, rows map[string]record) error {
	var ps parameters
	var values []string
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		r := rows[name]
		values = append(values, fmt.Sprintf("(%s, %s, PARSE_JSON(%s), CURRENT_TIMESTAMP())", ps.add(name), ps.add(r.version), ps.add(r.json)))
	}
	return p.run(ctx, "INSERT INTO "+p.quoted(schema.Contracts)+" (table_name, version, contract, applied_at) VALUES "+strings.Join(values, ", "), ps)
}
