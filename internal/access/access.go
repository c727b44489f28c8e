// Package access says who may see what, and is the one way by which the portal
// reads data: what a viewer asks, Data answers from the rows of the viewer's
// tenants alone.
//
// A query names a table in braces, {iot_analytics.readings}. Before it runs, the
// braces become those rows of the output port that are the viewer's; a table
// that a contract gives no tenant is for those who see all. A query that names a
// product's table any other way does not run.
package access

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Role is what a user may do.
type Role string

// The roles.
const (
	Admin   Role = "admin"   // everything
	Analyst Role = "analyst" // sees the data of all tenants, and no users
	Tenant  Role = "tenant"  // sees the data of their tenants
)

// Viewer is who asks.
type Viewer struct {
	ID      string // of the user
	Name    string // that the user logs in with
	Role    Role
	Tenants []string // of the role tenant: those whose data they see
	only    string   // a tenant, of those that they may see; empty: all of them
}

// Team says whether the viewer sees the data of all tenants.
func (v Viewer) Team() bool { return v.Role == Admin || v.Role == Analyst }

// SeesAll says whether the viewer sees the data of all tenants, and now has not
// chosen one of them.
func (v Viewer) SeesAll() bool { return v.Team() && v.only == "" }

// Scope is the same for viewers who see the same rows: what one of them was
// answered may be shown to another.
func (v Viewer) Scope() string {
	switch {
	case v.only != "":
		return strconv.Quote(v.only)
	case v.Team():
		return "*"
	}
	tenants := slices.Clone(v.Tenants)
	slices.Sort(tenants)
	return fmt.Sprintf("%q", slices.Compact(tenants))
}

// MaySee says whether the viewer sees the data of a tenant.
func (v Viewer) MaySee(tenant string) bool {
	if tenant == "" || v.only != "" && v.only != tenant {
		return false
	}
	return v.Team() || v.Role == Tenant && slices.Contains(v.Tenants, tenant)
}

// ErrForbidden is that of data which the viewer may not see.
var ErrForbidden = errors.New("not yours to see")

// As gives the viewer who sees the data of one tenant alone, and else
// ErrForbidden.
func (v Viewer) As(tenant string) (Viewer, error) {
	if !v.MaySee(tenant) {
		return Viewer{}, fmt.Errorf("tenant %q: %w", tenant, ErrForbidden)
	}
	v.only = tenant
	return v, nil
}

// Data is the tables of a warehouse, as viewers see them.
type Data struct {
	warehouse warehouse.Warehouse
	tenant    map[string]string              // column that says whose a row is, by table; empty: nobody's
	named     *regexp.Regexp                 // a table of the products, out of braces
	count     func(v Viewer, ports []string) // nil: nobody counts
}

// CountedBy is the same tables, and tells of each statement that ran which output
// ports it read, for whom. What the portal asks for its own pages goes by the
// other Data: nobody reads a port by looking into the catalog.
func (d *Data) CountedBy(count func(v Viewer, ports []string)) *Data {
	counted := *d
	counted.count = count
	return &counted
}

// counts tells of tables that are output ports. A table of another schema is none.
func (d *Data) counts(v Viewer, tables []string) {
	var ports []string
	for _, table := range tables {
		schema, _, _ := strings.Cut(table, ".")
		if d.Has(table) && !strings.HasSuffix(schema, contract.InternalSuffix) && !slices.Contains(ports, table) {
			ports = append(ports, table)
		}
	}
	if len(ports) > 0 {
		d.count(v, ports)
	}
}

// Consumer names who reads without naming a person: the role, or the tenant whose
// rows are read as tenant/ID; several tenants are tenants.
func (v Viewer) Consumer() string {
	switch {
	case v.Role != Tenant:
		return string(v.Role)
	case v.only != "":
		return "tenant/" + v.only
	case len(v.Tenants) == 1:
		return "tenant/" + v.Tenants[0]
	}
	return "tenants"
}

// New gives the tables and views of products.
func New(w warehouse.Warehouse, products []contract.Product) *Data {
	d := &Data{warehouse: w, tenant: map[string]string{}}
	var schemas []string
	for _, p := range products {
		schemas = append(schemas, regexp.QuoteMeta(p.Schema))
		for i := range p.Tables {
			t := &p.Tables[i]
			internal := p.Schema + contract.InternalSuffix + "." + t.Name
			d.tenant[internal] = ""
			if t.Schema == p.Schema { // only an output port shows whose a row is now
				d.tenant[t.FullName()] = t.Tenant
			}
		}
		for i := range p.Views {
			d.tenant[p.Views[i].FullName()] = p.Views[i].Tenant
		}
	}
	d.named = regexp.MustCompile(`(?i)\b(` + strings.Join(schemas, "|") + `)(_internal)?["` + "`" + `]?\s*\.`)
	return d
}

var (
	braces = regexp.MustCompile(`\{([^{}]*)\}`)
	texts  = regexp.MustCompile(`'[^']*'`)
)

// Query runs a statement that only reads. Its tables are in braces, and have the
// rows that the viewer may see.
func (d *Data) Query(ctx context.Context, v Viewer, sql string) (*warehouse.Rows, error) {
	outside := braces.ReplaceAllString(sql, "")
	if !strings.Contains(outside, `\`) { // else where a text ends is a matter of the dialect
		outside = texts.ReplaceAllString(outside, "")
	}
	if bare := d.named.FindString(outside); bare != "" {
		return nil, fmt.Errorf("query names %s… out of braces", bare)
	}
	var failed error
	matched := braces.FindAllStringSubmatch(sql, -1)
	sql = braces.ReplaceAllStringFunc(sql, func(match string) string {
		rows, err := d.rows(v, match[1:len(match)-1])
		failed = errors.Join(failed, err)
		return rows
	})
	if failed != nil {
		return nil, failed
	}
	out, err := d.warehouse.Query(ctx, sql)
	if err == nil && d.count != nil {
		var tables []string
		for _, match := range matched {
			tables = append(tables, match[1])
		}
		d.counts(v, tables)
	}
	return out, err
}

// Has says whether a product has a table or a view, so that it can be queried.
func (d *Data) Has(table string) bool {
	_, ok := d.tenant[table]
	return ok
}

// rows gives the rows of a table that the viewer may see, as what stands behind
// FROM.
func (d *Data) rows(v Viewer, table string) (string, error) {
	column, ok := d.tenant[table]
	if !ok {
		return "", fmt.Errorf("no product has a table %q", table)
	}
	if v.SeesAll() {
		return table, nil
	}
	if column == "" {
		return "", fmt.Errorf("%s: %w", table, ErrForbidden)
	}
	var tenants []string
	switch {
	case v.only != "":
		tenants = []string{v.only}
	case v.Role == Tenant:
		tenants = v.Tenants
	}
	if len(tenants) == 0 {
		return "(SELECT * FROM " + table + " WHERE FALSE)", nil
	}
	var in []string
	for _, t := range tenants {
		in = append(in, literal.Text(t))
	}
	return "(SELECT * FROM " + table + " WHERE " + column + " IN (" + strings.Join(in, ", ") + "))", nil
}

// Reader reads tables as they are named, for packages that know which they read.
type Reader struct{ data *Data }

// Reader is for who sees the data of all tenants; else ErrForbidden.
func (d *Data) Reader(v Viewer) (*Reader, error) {
	if !v.SeesAll() {
		return nil, fmt.Errorf("all tables: %w", ErrForbidden)
	}
	return &Reader{d}, nil
}

// Query runs a statement that only reads.
func (r *Reader) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	return r.data.warehouse.Query(ctx, sql)
}

// Whole runs a statement as an administrator wrote it, over all tables.
func (d *Data) Whole(ctx context.Context, v Viewer, sql string) (*warehouse.Rows, error) {
	if v.Role != Admin || v.only != "" {
		return nil, fmt.Errorf("a query of one's own: %w", ErrForbidden)
	}
	rows, err := d.warehouse.Query(ctx, sql)
	if err == nil && d.count != nil {
		d.counts(v, lineage.Named(ctx, d.warehouse.Query, sql))
	}
	return rows, err
}
