package cloud

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/bigquery"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// tableChange is what differs between a table that is there and the wanted one.
type tableChange struct {
	name       string
	have, want *bigquery.TableMetadata
	old        *contract.Table // the contract as it was deployed; nil: none was

	fields  []Field
	update  bigquery.TableMetadataToUpdate
	expire  *Field // rows that are kept now would go
	refused []string
	notes   []string
}

func (t *tableChange) compare() {
	t.columns()
	if have, want := partition(t.have), partition(t.want); have != want {
		t.refuse("it is partitioned by %s and not by %s, which BigQuery cannot change; %s", have, want, newTable)
	} else if old, now := expiration(t.have), expiration(t.want); old != now {
		f := Field{"rows kept", kept(old), kept(now)}
		if now != 0 && (old == 0 || now < old) {
			t.expire = &f
		} else {
			t.fields = append(t.fields, f)
			t.update.TimePartitioning = t.want.TimePartitioning
		}
	}
	if t.differs("clustered by", clustered(t.have), clustered(t.want)) {
		if t.update.Clustering = t.want.Clustering; t.want.Clustering == nil {
			t.update.Clustering = &bigquery.Clustering{}
		}
	}
	if t.differs("primary key", key(t.have), key(t.want)) {
		if t.update.TableConstraints = t.want.TableConstraints; key(t.want) == "" {
			t.update.TableConstraints = &bigquery.TableConstraints{PrimaryKey: &bigquery.PrimaryKey{}}
		}
	}
	// The queries of the views have no such filter.
	if t.differs("partition filter required", fmt.Sprint(t.have.RequirePartitionFilter), fmt.Sprint(t.want.RequirePartitionFilter)) {
		t.update.RequirePartitionFilter = t.want.RequirePartitionFilter
	}
	if fields := expires(t.have); len(fields) > 0 {
		t.fields = append(t.fields, fields...)
		t.update.ExpirationTime = bigquery.NeverExpire
	}
	if t.differs("description", t.have.Description, t.want.Description) {
		t.update.Description = t.want.Description
	}
	t.fields = labelFields(t.fields, t.have.Labels, t.want.Labels)
	for name, value := range t.want.Labels {
		if t.have.Labels[name] != value {
			t.update.SetLabel(name, value)
		}
	}
}

// differs adds a field if the two are not the same.
func (t *tableChange) differs(name, old, now string) bool {
	t.fields = difference(t.fields, name, old, now)
	return old != now
}

// newTable is what one can do where BigQuery cannot.
const newTable = "give the table of the contract another name: the new one is made beside the old one, whose rows stay until --destroy"

func (t *tableChange) refuse(format string, args ...any) {
	t.refused = append(t.refused, "table "+t.name+": "+fmt.Sprintf(format, args...))
}

// columns compares the columns. What BigQuery can do to those of a table with
// rows: add one that may be NULL, let one be NULL that could not, and change
// descriptions.
// https://cloud.google.com/bigquery/docs/managing-table-schemas
func (t *tableChange) columns() {
	wanted := map[string]*bigquery.FieldSchema{}
	for _, f := range t.want.Schema {
		wanted[f.Name] = f
	}
	after := make(bigquery.Schema, 0, len(t.have.Schema))
	there := map[string]bool{}
	before := len(t.fields)
	for _, have := range t.have.Schema {
		there[have.Name] = true
		f := *have
		after = append(after, &f)
		column := "column " + f.Name
		want := wanted[f.Name]
		switch {
		case want == nil && f.Required && !t.retired(f.Name):
			t.refuse("%s is REQUIRED, and no contract that was applied has it: rows could not be appended. Let it be NULL: ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL", column, t.name, f.Name)
		case want == nil:
			t.notes = append(t.notes, fmt.Sprintf("table %s: %s is left: the contract has none; if nobody needs it: ALTER TABLE %s DROP COLUMN %s", t.name, column, t.name, f.Name))
			if f.Required {
				f.Required = false
				t.fields = append(t.fields, Field{column, describe(have), describe(&f)})
			}
		case typeName(f.Type) != typeName(want.Type) || f.Repeated != want.Repeated:
			t.refuse("%s is %s and in the contract %s; BigQuery cannot change that where there are rows. Give the column another name, or %s", column, describe(have), describe(want), newTable)
		default:
			if f.Required && !want.Required {
				f.Required = false
				t.fields = append(t.fields, Field{column, describe(have), describe(&f)})
			} else if !f.Required && want.Required {
				t.notes = append(t.notes, fmt.Sprintf("table %s: %s may be NULL, as BigQuery has it for a column that was added later; the contract has it REQUIRED, which holds for new rows", t.name, column))
			}
			t.differs(column+" description", f.Description, want.Description)
			f.Description = want.Description
		}
	}
	for _, want := range t.want.Schema {
		if !there[want.Name] {
			f := *want
			f.Required = false
			after = append(after, &f)
			t.fields = append(t.fields, Field{Name: "column " + f.Name, New: describe(&f)})
		}
	}
	if len(t.fields) > before {
		t.update.Schema = after
	}
}

// retired says whether the contract had a column before. Whether it may go is
// said by contract.Compare.
func (t *tableChange) retired(column string) bool {
	return t.old != nil && slices.ContainsFunc(t.old.Cells(), func(c contract.Column) bool { return c.Name == column })
}

// The types that have two names.
var typeNames = map[bigquery.FieldType]string{
	"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD",
}

func typeName(t bigquery.FieldType) string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return string(t)
}

var goNames = map[string]string{"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}

// describe gives type and mode, as GoogleSQL names them.
func describe(f *bigquery.FieldSchema) string {
	name := typeName(f.Type)
	if sql, ok := goNames[name]; ok {
		name = sql
	}
	switch {
	case f.Repeated:
		return name + " REPEATED"
	case f.Required:
		return name + " REQUIRED"
	}
	return name
}

// columns are those of a view. No query tells which are REQUIRED.
func columns(s bigquery.Schema) (list []contract.Column) {
	for _, f := range s {
		of := bigquery.FieldSchema{Type: f.Type, Repeated: f.Repeated}
		list = append(list, contract.Column{Name: f.Name, Type: contract.Type(describe(&of))})
	}
	return list
}

func partition(m *bigquery.TableMetadata) string {
	switch {
	case m.RangePartitioning != nil:
		return "ranges of " + m.RangePartitioning.Field
	case m.TimePartitioning == nil:
		return "nothing"
	case m.TimePartitioning.Field == "":
		return "the time of arrival"
	}
	return string(m.TimePartitioning.Type) + " of " + m.TimePartitioning.Field
}

func expiration(m *bigquery.TableMetadata) time.Duration {
	if m.TimePartitioning == nil {
		return 0
	}
	return m.TimePartitioning.Expiration
}

func kept(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return "for ever"
	case d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

// expires says when a table or view that is there would go by itself: none
// should.
func expires(m *bigquery.TableMetadata) []Field {
	if m.ExpirationTime.IsZero() {
		return nil
	}
	return []Field{{"goes at", m.ExpirationTime.UTC().Format(time.RFC3339), "never"}}
}

func clustered(m *bigquery.TableMetadata) string {
	if m.Clustering == nil {
		return ""
	}
	return strings.Join(m.Clustering.Fields, ", ")
}

func key(m *bigquery.TableMetadata) string {
	if m.TableConstraints == nil || m.TableConstraints.PrimaryKey == nil {
		return ""
	}
	return strings.Join(m.TableConstraints.PrimaryKey.Columns, ", ")
}

// described gives the columns of a view that is there with the descriptions of
// the contract, and what differs. A view gets its columns from its query.
func described(have bigquery.Schema, o *schema.Object) (bigquery.Schema, []Field) {
	if o.Contract == nil {
		return nil, nil
	}
	purposes := map[string]string{}
	for _, c := range o.Contract.Columns {
		purposes[c.Name] = c.Purpose
	}
	var fields []Field
	var after bigquery.Schema
	for _, f := range have {
		f := *f
		if purpose := purposes[f.Name]; purpose != "" && purpose != f.Description {
			fields = append(fields, Field{"column " + f.Name + " description", f.Description, purpose})
			f.Description = purpose
		}
		after = append(after, &f)
	}
	return after, fields
}
