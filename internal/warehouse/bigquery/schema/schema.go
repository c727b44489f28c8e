// Package schema says what Telemesh is made of in BigQuery: the datasets,
// tables and views of the products, as the contracts and views describe them.
// It reaches no network.
//
// A product has two datasets. <product> has the output ports, which are views,
// and <product>_internal what they are made of; a reader needs access to the
// first alone, where its views are authorized in the second. Whose rows a view
// shows is said by the table Members.
package schema

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/bigquery"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// Dataset is a dataset of a product, or of the platform.
type Dataset struct {
	Name    string
	Purpose string
	Port    bool // it has output ports: views that readers get access to
	Labels  map[string]string
	Objects []Object
}

// Owners is the access list that a dataset is made with. Without a list BigQuery
// lets in who may read or write the project's data,
// https://cloud.google.com/bigquery/docs/reference/rest/v2/datasets.
func Owners() []*bigquery.AccessEntry {
	return []*bigquery.AccessEntry{{Role: bigquery.OwnerRole, EntityType: bigquery.SpecialGroupEntity, Entity: "projectOwners"}}
}

// Object is a table or a view.
type Object struct {
	Dataset, Name string
	Metadata      *bigquery.TableMetadata // ViewQuery says whether it is a view
	Reads         []string                // what a view reads, as dataset.name
	Contract      *contract.Table         // nil: no contract describes it
}

// FullName is dataset.name.
func (o *Object) FullName() string { return o.Dataset + "." + o.Name }

// The dataset of the platform.
const (
	Platform = "telemesh_internal"
	// Members says who sees whose rows: member is an e-mail address as
	// SESSION_USER() gives it, or domain:DOMAIN for all addresses of a domain;
	// tenant_id is a tenant, or Everyone.
	Members = Platform + ".members"
	// Contracts has the contracts that were applied.
	Contracts = Platform + ".contracts"
	// Everyone is the tenant_id of who sees the rows of all tenants and of none:
	// the platform.
	Everyone = "*"
)

// The label of what Telemesh makes.
const (
	ManagedBy = "managed-by"
	Telemesh  = "telemesh"
)

// Columns that the warehouse adds to what a contract says.
const (
	Content    = "content_digest" // warehouse.Ranking.Content
	Origin     = "origin_digest"  // warehouse.Ranking.Origin
	Batch      = "batch"          // of the staged rows of an ordered table: the batch they came in
	BatchRow   = "batch_row"      // and their place in it
	AppendedAt = "appended_at"
)

// RecordedTables has, in the internal dataset of each product, when rows of an
// ordered table were recorded last: the row that its writers take turns at.
const RecordedTables = "recorded_tables"

const (
	appendedSuffix = "_appended"
	// Staged rows are copied within seconds; who looks for a fault has a week.
	stagedFor = 7 * 24 * time.Hour
)

// Internal is the dataset in which a table is stored.
func Internal(t *contract.Table) string {
	return strings.TrimSuffix(t.Schema, contract.InternalSuffix) + contract.InternalSuffix
}

// Appended is the table of Internal that rows are appended to.
func Appended(t *contract.Table) string { return t.Name + appendedSuffix }

// AppendedColumns are the columns of the table that rows are appended to: those
// of a stored row (warehouse.Ranking.Stored), and digests of it or what says
// which batch it came in.
func AppendedColumns(t *contract.Table) []contract.Column {
	stored := warehouse.NewRanking(t).Stored
	stored = stored[:len(stored):len(stored)]
	switch {
	case t.Ordered:
		// recorded_at is set when the rows are recorded.
		stored = slices.DeleteFunc(slices.Clone(stored), func(c contract.Column) bool { return c.Name == contract.RecordedAt })
		return append(stored, required(Content, contract.Int64), required(Batch, contract.String),
			required(BatchRow, contract.Int64), required(AppendedAt, contract.Timestamp))
	case t.AppendOnly:
		return stored
	}
	return append(stored, required(Content, contract.Int64), required(Origin, contract.Int64))
}

// RecordedColumns are the columns of the log of an ordered table.
func RecordedColumns(t *contract.Table) []contract.Column {
	stored := warehouse.NewRanking(t).Stored
	return append(stored[:len(stored):len(stored)], required(Content, contract.Int64))
}

func required(name string, kind contract.Type) contract.Column {
	return contract.Column{Name: name, Type: kind, Required: true, Purpose: purposes[name]}
}

var purposes = map[string]string{
	contract.RecordedAt: "When the row was written. The warehouse sets it.",
	contract.Deleted:    "The key is gone: the output port does not show it.",
	Content:             "First 64 bits of a SHA-256 of what the row says: rows of one key that say the same have the same.",
	Origin:              "First 64 bits of a SHA-256 of how the row came.",
	Batch:               "The batch that the row was appended with.",
	BatchRow:            "Its place in the batch.",
	AppendedAt:          "When it was appended.",
}

var fieldTypes = map[contract.Type]bigquery.FieldType{
	contract.String: bigquery.StringFieldType, contract.Float64: bigquery.FloatFieldType, contract.Int64: bigquery.IntegerFieldType,
	contract.Bool: bigquery.BooleanFieldType, contract.Timestamp: bigquery.TimestampFieldType, contract.JSON: bigquery.JSONFieldType,
}

// Fields gives columns as BigQuery describes them.
func Fields(columns []contract.Column) bigquery.Schema {
	var fields bigquery.Schema
	for _, c := range columns {
		fields = append(fields, &bigquery.FieldSchema{Name: c.Name, Type: fieldTypes[c.Type], Required: c.Required,
			Description: cmp.Or(c.Purpose, purposes[c.Name])})
	}
	return fields
}

// Of gives the datasets of the platform and of the products in a project. A
// view comes after what it reads.
func Of(project string, products []contract.Product) ([]Dataset, error) {
	datasets := []Dataset{platform()}
	var ports []Dataset
	for _, p := range products {
		internal := Dataset{Name: p.Schema + contract.InternalSuffix, Purpose: "Storage of " + p.Name + "; read its output ports instead.", Labels: labels(&p)}
		port := Dataset{Name: p.Schema, Purpose: p.Purpose, Port: true, Labels: labels(&p)}
		ordered := false
		for i := range p.Tables {
			t := &p.Tables[i]
			g := generator{project, t, warehouse.NewRanking(t)}
			internal.Objects = append(internal.Objects, g.storage()...)
			if t.Schema == p.Schema {
				port.Objects = append(port.Objects, g.port())
			}
			ordered = ordered || t.Ordered
		}
		if ordered {
			internal.Objects = append(internal.Objects, Object{Dataset: internal.Name, Name: RecordedTables,
				Metadata: &bigquery.TableMetadata{
					Description: "When rows of the ordered tables were recorded last: the row that their writers take turns at.",
					Schema:      Fields([]contract.Column{required("table_name", contract.String), required(contract.RecordedAt, contract.Timestamp)}),
				}})
		}
		datasets = append(datasets, internal)
		ports = append(ports, port)
	}
	if err := addViews(project, ports, products); err != nil {
		return nil, err
	}
	return append(datasets, ports...), nil
}

func platform() Dataset {
	return Dataset{Name: Platform, Purpose: "Who sees whose rows, and which contracts were applied.",
		Labels: map[string]string{ManagedBy: Telemesh},
		Objects: []Object{
			{Dataset: Platform, Name: "members", Metadata: &bigquery.TableMetadata{
				Description: "Who sees whose rows in the output ports.",
				Schema: Fields([]contract.Column{
					{Name: "member", Type: contract.String, Required: true, Purpose: "An e-mail address as SESSION_USER() gives it, or domain:DOMAIN."},
					{Name: "tenant_id", Type: contract.String, Required: true, Purpose: "The tenant whose rows the member sees; * for all rows."},
				}),
			}},
			{Dataset: Platform, Name: "contracts", Metadata: &bigquery.TableMetadata{
				Description: "The contracts that were applied: the latest of each table is what its readers were promised.",
				Schema: Fields([]contract.Column{
					{Name: "table_name", Type: contract.String, Required: true, Purpose: "dataset.name of the table."},
					{Name: "version", Type: contract.String, Required: true, Purpose: "Version of the contract."},
					{Name: "contract", Type: contract.JSON, Required: true, Purpose: "What Telemesh read of the contract."},
					{Name: "applied_at", Type: contract.Timestamp, Required: true, Purpose: "When it was applied."},
				}),
			}},
		}}
}

var notInLabel = regexp.MustCompile(`[^a-z0-9_-]+`)

func labels(p *contract.Product) map[string]string {
	l := map[string]string{ManagedBy: Telemesh, "product": p.Name, "domain": p.Domain, "owner": p.Owner, "version": p.Version}
	maps.DeleteFunc(l, func(_, value string) bool { return value == "" })
	for name, value := range l {
		// At most 63 lower-case letters, digits, _ and -.
		value = notInLabel.ReplaceAllString(strings.ToLower(value), "-")
		l[name] = value[:min(len(value), 63)]
	}
	return l
}

// addViews adds the views of the products to their ports.
func addViews(project string, ports []Dataset, products []contract.Product) error {
	byName := map[string]*Dataset{}
	for i := range ports {
		byName[ports[i].Name] = &ports[i]
	}
	v := viewer{project: project, ports: map[string]*generator{}, views: map[string]*contract.View{}}
	var names []string
	for i := range products {
		p := &products[i]
		for j := range p.Tables {
			if t := &p.Tables[j]; t.Schema == p.Schema {
				v.ports[t.FullName()] = &generator{project, t, warehouse.NewRanking(t)}
				names = append(names, t.FullName())
			}
		}
		for j := range p.Views {
			v.views[p.Views[j].FullName()] = &p.Views[j]
			names = append(names, p.Views[j].FullName())
		}
	}
	// A name that begins with another one is looked for first.
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) })
	v.names = regexp.MustCompile(`\b(?:` + strings.Join(names, "|") + `)\b`)
	for i := range products {
		for j := range products[i].Views {
			view := &products[i].Views[j]
			port := byName[view.Schema]
			if port == nil {
				return fmt.Errorf("view %s: no product has its schema", view.FullName())
			}
			o, err := v.object(view)
			if err != nil {
				return err
			}
			port.Objects = append(port.Objects, o)
		}
	}
	return nil
}

// comments splits the comments that a view begins with, which say what it is
// for, from the statement.
func comments(sql string) (purpose, statement string) {
	var words []string
	for strings.HasPrefix(sql, "--") {
		line, rest, _ := strings.Cut(sql, "\n")
		words = append(words, strings.TrimSpace(strings.TrimLeft(line, "-")))
		sql = rest
	}
	return strings.Join(words, " "), sql
}
