package schema

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"cloud.google.com/go/bigquery"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// generator makes the objects of one table.
type generator struct {
	project string
	table   *contract.Table
	warehouse.Ranking
}

// storage is what is in the internal dataset: the table that rows are appended
// to and the view of each distinct content of it or, of an ordered table, the
// log.
func (g *generator) storage() []Object {
	appended := Object{Dataset: Internal(g.table), Name: Appended(g.table), Contract: g.table}
	internal := Object{Dataset: Internal(g.table), Name: g.table.Name, Contract: g.table}
	if g.table.Ordered {
		appended.Metadata = &bigquery.TableMetadata{
			Description:      "Rows that wait to be recorded in " + g.table.Name + ", and those of the last days.",
			Schema:           Fields(AppendedColumns(g.table)),
			TimePartitioning: &bigquery.TimePartitioning{Type: bigquery.DayPartitioningType, Field: AppendedAt, Expiration: stagedFor},
			Clustering:       &bigquery.Clustering{Fields: []string{Batch}},
		}
		internal.Metadata = &bigquery.TableMetadata{
			Description: "Rows of " + g.table.FullName() + " in the order of their recording. " + g.table.Purpose,
			Schema:      Fields(RecordedColumns(g.table)),
			Clustering:  g.clustering(),
			// BigQuery plans with a key as if it were kept, so only this table has one:
			// of one that rows are appended to, a row may be there twice.
			TableConstraints: &bigquery.TableConstraints{PrimaryKey: &bigquery.PrimaryKey{Columns: append(slices.Clone(g.table.Key), Content)}},
		}
		return []Object{appended, internal}
	}
	appended.Metadata = &bigquery.TableMetadata{
		Description: "Rows of " + g.table.FullName() + " as they were appended, each at least once. " + g.table.Purpose,
		Schema:      Fields(AppendedColumns(g.table)),
		Clustering:  g.clustering(),
	}
	if g.table.Time != "" {
		appended.Metadata.TimePartitioning = &bigquery.TimePartitioning{
			Type: bigquery.DayPartitioningType, Field: g.table.Time, Expiration: g.table.Retention}
	}
	internal.Reads = []string{appended.FullName()}
	internal.Metadata = &bigquery.TableMetadata{
		Description: "Each distinct row of " + g.table.FullName() + " once.",
		ViewQuery:   g.distinct(),
	}
	return []Object{appended, internal}
}

func (g *generator) clustering() *bigquery.Clustering {
	if len(g.table.Clustered) == 0 {
		return nil
	}
	return &bigquery.Clustering{Fields: g.table.Clustered}
}

// distinct gives of the rows that say the same the one that knew most; of these
// the one that was received first.
func (g *generator) distinct() string {
	return fmt.Sprintf("SELECT %s\nFROM %s\n%s", columns(g.Stored), g.name(Internal(g.table), Appended(g.table)), g.once())
}

// once is the QUALIFY of distinct.
func (g *generator) once() string {
	by := g.key()
	var order []string
	if !g.table.AppendOnly {
		by = append(by, Content)
		if g.Knowledge >= 0 {
			order = append(order, g.column(g.Knowledge)+" DESC")
		}
		if g.Received >= 0 {
			order = append(order, g.column(g.Received))
		}
		order = append(order, Origin)
	}
	return window("QUALIFY ROW_NUMBER()", by, append(order, contract.RecordedAt)) + " = 1"
}

// key is what rows are of one key by. It has what the key is made of, too: a
// filter on such a column is applied before the rows are compared.
func (g *generator) key() []string {
	var key []string
	for _, i := range slices.Concat(g.KeyOf, g.Key) {
		key = append(key, g.column(i))
	}
	return key
}

func (g *generator) column(i int) string { return quoted(g.Stored[i].Name) }

// quoted is a name that may be a word of SQL.
func quoted(name string) string { return "`" + name + "`" }

func window(function string, by, order []string) string {
	return function + " OVER (PARTITION BY " + strings.Join(by, ", ") + " ORDER BY " + strings.Join(order, ", ") + ")"
}

// port is the output port: of each key the row that counts, and of these only
// those that the reader may see. Whose a row is is asked after it was chosen:
// who had a device before does not see the row that another one replaced.
func (g *generator) port() Object {
	rows, reads := g.rows()
	return Object{Dataset: g.table.Schema, Name: g.table.Name, Contract: g.table, Reads: []string{reads, Members},
		Metadata: &bigquery.TableMetadata{
			Description: g.table.Purpose,
			ViewQuery:   fmt.Sprintf("SELECT *\nFROM (\n%s\n)\nWHERE %s", rows, visible(g.project, g.table.Tenant)),
		}}
}

// rows are those of the output port, whoever reads it, and the table that they
// are in.
func (g *generator) rows() (sql, reads string) {
	var from, where string
	if g.table.Ordered {
		reads = Internal(g.table) + "." + g.table.Name
		from = "SELECT *\n  FROM " + g.name(Internal(g.table), g.table.Name)
	} else {
		reads = Internal(g.table) + "." + Appended(g.table)
		from = fmt.Sprintf("SELECT *\n  FROM %s\n  %s", g.name(Internal(g.table), Appended(g.table)), g.once())
	}
	if g.table.Tombstones {
		// Rows from before a table had tombstones have none.
		where = "\nWHERE " + contract.Deleted + " IS NOT TRUE"
	}
	if !g.table.AppendOnly {
		from = g.counts(from)
	}
	return fmt.Sprintf("SELECT %s\nFROM (\n  %s\n)%s", g.shown(), from, where), reads
}

// counts gives the row of each key that counts, of distinct rows.
func (g *generator) counts(distinct string) string {
	var rank, assigned, values []string
	add := func(i int) {
		if i >= 0 {
			rank = append(rank, g.descending(i))
		}
	}
	add(g.Order)
	add(g.Assigned)
	assigned = rank
	for _, i := range g.Values {
		add(i)
	}
	values = rank
	add(g.Judged)
	add(g.Knowledge)
	for _, i := range g.Flags {
		add(i)
	}
	rank = append(rank, Content+" DESC")
	key := g.key()
	if g.table.Order != contract.Revision {
		return fmt.Sprintf("SELECT *\n  FROM (\n  %s\n  )\n  %s = 1", distinct, window("QUALIFY ROW_NUMBER()", key, rank))
	}
	// A row counts one revision more than the one that ranks below it, or has the
	// higher one that it came with.
	by := strings.Join(key, ", ")
	return fmt.Sprintf(`SELECT *,
    MAX(%[1]s + _place - 1) OVER (PARTITION BY %[2]s) AS _counted,
    LOGICAL_OR(_assigned_place = 1 AND _value_place > 1) OVER (PARTITION BY %[2]s) AS _conflict
  FROM (
    SELECT *,
      %[3]s AS _place,
      %[4]s AS _assigned_place,
      %[5]s AS _value_place
    FROM (
  %[6]s
    )
  )
  QUALIFY _place = 1`, g.column(g.Order), by, window("ROW_NUMBER()", key, rank), window("DENSE_RANK()", key, assigned),
		window("DENSE_RANK()", key, values), distinct)
}

// descending orders by a column, the greatest first and NULL last.
func (g *generator) descending(i int) string {
	if g.Stored[i].Type == contract.JSON {
		return "TO_JSON_STRING(" + g.column(i) + ") DESC"
	}
	return g.column(i) + " DESC"
}

// shown are the columns of the port.
func (g *generator) shown() string {
	if g.table.Order != contract.Revision {
		return columns(g.table.Columns)
	}
	var list []string
	for i, c := range g.table.Columns {
		switch i {
		case g.Order:
			list = append(list, "_counted AS "+quoted(c.Name))
		case g.Quality:
			list = append(list, fmt.Sprintf("IF(_conflict, 'conflict', %[1]s) AS %[1]s", quoted(c.Name)))
		default:
			list = append(list, quoted(c.Name))
		}
	}
	return strings.Join(list, ", ")
}

// visible is the condition that the reader may see a row, of the tenant that a
// column says. Without one it is the platform's.
func visible(project, tenant string) string {
	members := "`" + project + "." + Members + "`"
	// A principal that is no e-mail address has no domain.
	const member = "LOWER(member) IN (LOWER(SESSION_USER()), CONCAT('domain:', REGEXP_EXTRACT(LOWER(SESSION_USER()), r'^[^@/]+@([^@]+)$')))"
	all := fmt.Sprintf("EXISTS (SELECT 1 FROM %s WHERE %s AND tenant_id = '%s')", members, member, Everyone)
	if tenant == "" {
		return all
	}
	return fmt.Sprintf("(%s IN (SELECT tenant_id FROM %s WHERE %s) OR %s)", quoted(tenant), members, member, all)
}

func (g *generator) name(dataset, table string) string {
	return "`" + g.project + "." + dataset + "." + table + "`"
}

func columns(list []contract.Column) string {
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = quoted(c.Name)
	}
	return strings.Join(names, ", ")
}

// viewer makes the views of the products. A view of a product reads what the
// output ports of tables have, whoever reads it, and other views: what is whose
// is said of its own rows. So a tenant's view is made of all that says what is
// the tenant's, be it somebody else's.
type viewer struct {
	project string
	ports   map[string]*generator
	views   map[string]*contract.View
	names   *regexp.Regexp // of both
}

// object is a view.
func (v *viewer) object(view *contract.View) (Object, error) {
	o := Object{Dataset: view.Schema, Name: view.Name, Reads: []string{Members}}
	with := parts{of: map[string]string{}}
	if err := v.add(&with, &o, view.FullName()); err != nil {
		return o, err
	}
	slices.Sort(o.Reads)
	purpose, _ := comments(view.SQL)
	o.Metadata = &bigquery.TableMetadata{
		Description: purpose,
		ViewQuery: fmt.Sprintf("WITH %s\nSELECT *\nFROM %s\nWHERE %s", strings.Join(with.texts, ",\n"),
			with.of[view.FullName()], visible(v.project, view.Tenant)),
	}
	return o, nil
}

// parts are the WITH of a view.
type parts struct {
	texts []string
	of    map[string]string // by what is read; empty: it is being added
}

// add adds what a name stands for, and what that reads before it.
func (v *viewer) add(with *parts, o *Object, name string) error {
	if part, ok := with.of[name]; ok {
		if part == "" {
			return fmt.Errorf("view %s reads itself", name)
		}
		return nil
	}
	with.of[name] = ""
	var sql string
	if port := v.ports[name]; port != nil {
		var reads string
		sql, reads = port.rows()
		o.Reads = append(o.Reads, reads)
	} else {
		_, text := comments(v.views[name].SQL)
		for _, read := range v.names.FindAllString(text, -1) {
			if err := v.add(with, o, read); err != nil {
				return err
			}
		}
		sql = v.names.ReplaceAllStringFunc(text, func(read string) string { return with.of[read] })
	}
	with.of[name] = "`_" + strings.ReplaceAll(name, ".", "__") + "`"
	with.texts = append(with.texts, with.of[name]+" AS (\n"+sql+"\n)")
	return nil
}
