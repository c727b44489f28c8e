package contract

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Change is one difference between what was promised and what is promised now.
type Change struct {
	Product string // iot-telemetry
	Table   string // iot_telemetry.readings; the name of an output port that is no table; empty: the product
	What    string // one of the constants
	Text    string // column sector: INT64, was STRING

	// Breaking: rows that were good are good no more, or readers lose what is
	// there: a port, a column, rows. That takes a new major version of File.
	Breaking bool
	File     string // in the folder of the products, with the port where it has several versions; empty: the product is gone, and no version is left to raise
	Old, New string // versions of File
}

// What a Change is about.
const (
	ProductAdded      = "product added"
	ProductRemoved    = "product removed"
	PortAdded         = "output port added"
	PortRemoved       = "output port removed"
	TableAdded        = "table added"   // that is no output port
	QueryChanged      = "query changed" // of a view; what its readers lose is told by CompareViews
	TableRemoved      = "table removed"
	Described         = "description changed"
	ColumnAdded       = "column added"
	ColumnRemoved     = "column removed"
	TypeChanged       = "type changed"
	UnitChanged       = "unit changed"   // or said for the first time
	RequiredAdded     = "required added" // to a column that was there, or with a new one
	RequiredDropped   = "required dropped"
	Declassified      = "classification lowered"
	Classified        = "classification raised"
	KeyChanged        = "primary key changed"
	PartitionChanged  = "partition changed"
	ClusteringChanged = "clustering changed"
	CountingChanged   = "what counts changed" // which rows say the same, and which of them counts
	OriginChanged     = "madeFrom changed"
	TenantChanged     = "tenant column changed"
	RoleAdded         = "role added"
	RoleRemoved       = "role removed"
	RuleTightened     = "quality rule tightened" // or added
	RuleLoosened      = "quality rule loosened"  // or removed
	RetentionCut      = "retention shortened"
	LevelChanged      = "service level changed"
)

// Refused says that the change breaks what the version says still holds.
func (c *Change) Refused() bool { return c.Breaking && c.File != "" && !grown(c.Old, c.New) }

// Needs is the first version that the change may have.
func (c *Change) Needs() string { return major(c.Old) }

func (c *Change) String() string {
	name := c.Table
	if name == "" {
		name = c.Product
	}
	return name + ": " + c.What + ": " + c.Text
}

// Check is an error if changes are breaking in a file whose major version is
// the one that it was. That a product is gone is no matter of versions.
func Check(changes []Change) error {
	var refused []error
	var files []string
	for _, c := range changes {
		if !c.Refused() {
			continue
		}
		refused = append(refused, errors.New(c.String()))
		if do := fmt.Sprintf("raise the version of %s from %s to %s", c.File, c.Old, c.Needs()); !slices.Contains(files, do) {
			files = append(files, do)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return fmt.Errorf("breaking changes need a new major version:\n%w\n%s, or take them back", errors.Join(refused...), strings.Join(files, ", "))
}

// Compare gives what is different between the products that were and those that
// are, in the order of their names.
func Compare(old, new []Product) []Change {
	var changes []Change
	named := func(name string) func(Product) bool { return func(p Product) bool { return p.Name == name } }
	for i := range old {
		a := &old[i]
		if at := slices.IndexFunc(new, named(a.Name)); at < 0 {
			changes = append(changes, Change{Product: a.Name, What: ProductRemoved, Text: "it was at version " + a.Version, Breaking: true, Old: a.Version})
		} else {
			changes = append(changes, compareProducts(a, &new[at])...)
		}
	}
	for i := range new {
		if b := &new[i]; !slices.ContainsFunc(old, named(b.Name)) {
			changes = append(changes, Change{Product: b.Name, What: ProductAdded, Text: b.Purpose, File: path.Join(b.Name, descriptorFile), New: b.Version})
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return cmp.Compare(a.Product, b.Product) })
	return changes
}

// differences collects the changes of one file.
type differences struct {
	Change // what they have in common
	all    []Change
}

func (d *differences) add(breaking bool, what, format string, args ...any) {
	c := d.Change
	c.Breaking, c.What, c.Text = breaking, what, fmt.Sprintf(format, args...)
	d.all = append(d.all, c)
}

func compareProducts(a, b *Product) []Change {
	d := differences{Change: Change{Product: a.Name, File: path.Join(a.Name, descriptorFile), Old: a.Version, New: b.Version}}
	if a.Purpose != b.Purpose {
		d.add(false, Described, "of the product")
	}
	was, is := a.objects(), b.objects()
	for _, o := range was {
		d.Table = o.name
		switch {
		case slices.Contains(is, o):
		case o.port:
			d.add(true, PortRemoved, "the %s", o.kind)
		default:
			d.add(false, TableRemoved, "no output port")
		}
	}
	for _, o := range is {
		d.Table = o.name
		switch {
		case slices.Contains(was, o):
		case o.port:
			d.add(false, PortAdded, "the %s", o.kind)
		default:
			d.add(false, TableAdded, "no output port")
		}
	}
	for i := range a.Tables {
		for j := range b.Tables {
			if a.Tables[i].FullName() == b.Tables[j].FullName() {
				d.all = append(d.all, compareTables(a.Name, &a.Tables[i], &b.Tables[j])...)
			}
		}
	}
	for i := range a.Views {
		for j := range b.Views {
			was, is := &a.Views[i], &b.Views[j]
			if was.FullName() != is.FullName() {
				continue
			}
			d.view(was, is)
			if was.SQL != is.SQL {
				d.add(false, QueryChanged, "of the view")
			}
			if was.Tenant != is.Tenant {
				d.add(was.Tenant != "", TenantChanged, "%s, was %s", cmp.Or(is.Tenant, "none"), cmp.Or(was.Tenant, "none"))
			}
		}
	}
	return d.all
}

// view makes a view what the next changes are about.
func (d *differences) view(was, is *View) {
	d.Table = is.FullName()
	d.File = path.Join(d.Product, descriptorFile) + ", output port " + d.Table
	d.Old, d.New = was.Version, is.Version
}

// CompareViews gives what readers of a view lose. No contract has its columns:
// the warehouse gives those that it had and those that its query gives now.
func CompareViews(product string, was, is *View, had, has []Column) []Change {
	d := differences{Change: Change{Product: product}}
	d.view(was, is)
	d.columns(&Table{Columns: had}, &Table{Columns: has})
	return slices.DeleteFunc(d.all, func(c Change) bool { return !c.Breaking })
}

// object is what a product has for others or for itself.
type object struct {
	name, kind string
	port       bool
}

func (p *Product) objects() []object {
	var all []object
	for i := range p.Tables {
		all = append(all, object{p.Tables[i].FullName(), "table", p.Tables[i].port()})
	}
	for _, v := range p.Views {
		all = append(all, object{v.FullName(), "view", true})
	}
	for _, e := range p.Events {
		all = append(all, object{e, "event", true})
	}
	return all
}

func compareTables(product string, a, b *Table) []Change {
	d := differences{Change: Change{
		Product: product, Table: a.FullName(), File: path.Join(product, a.Name+contractSuffix), Old: a.Version, New: b.Version,
	}}
	if a.Purpose != b.Purpose {
		d.add(false, Described, "of the table")
	}
	d.columns(a, b)
	for _, c := range []struct {
		what, name, old, new string
		compatible           bool
	}{
		{what: KeyChanged, name: "primary key", old: list(a.Key), new: list(b.Key)},
		{what: PartitionChanged, name: "partition", old: a.Time, new: b.Time},
		{what: ClusteringChanged, name: "clusteredBy", old: list(a.Clustered), new: list(b.Clustered), compatible: true},
		{what: CountingChanged, name: "order", old: a.Order, new: b.Order},
		{what: CountingChanged, name: "tombstones", old: fmt.Sprint(a.Tombstones), new: fmt.Sprint(b.Tombstones)},
		{what: CountingChanged, name: "appendOnly", old: fmt.Sprint(a.AppendOnly), new: fmt.Sprint(b.AppendOnly)},
		{what: CountingChanged, name: "knowledge", old: a.Knowledge, new: b.Knowledge},
		{what: OriginChanged, name: "madeFrom", old: list(slices.Sorted(slices.Values(a.MadeFrom))), new: list(slices.Sorted(slices.Values(b.MadeFrom)))},
	} {
		if c.old != c.new {
			d.add(!c.compatible, c.what, "%s %s, was %s", c.name, none(c.new), none(c.old))
		}
	}
	if lacks := func(names, from []string) bool {
		return slices.ContainsFunc(from, func(name string) bool { return !slices.Contains(names, name) })
	}; lacks(a.KeyOf, b.KeyOf) {
		d.add(true, KeyChanged, "keyOf %s, was %s", none(list(b.KeyOf)), none(list(a.KeyOf)))
	} else if lacks(b.KeyOf, a.KeyOf) { // less is asked of the rows of a key
		d.add(false, KeyChanged, "keyOf %s, was %s", none(list(b.KeyOf)), none(list(a.KeyOf)))
	}
	for _, r := range a.Roles {
		if !slices.Contains(b.Roles, r) {
			d.add(true, RoleRemoved, "%s (%s)", r.Name, r.Access)
		}
	}
	for _, r := range b.Roles {
		if !slices.Contains(a.Roles, r) {
			d.add(false, RoleAdded, "%s (%s)", r.Name, r.Access)
		}
	}
	if a.Tenant != b.Tenant && a.Tenant != "" && b.Tenant != "" { // else the role tenant comes or goes
		d.add(true, TenantChanged, "%s, was %s", b.Tenant, a.Tenant)
	}
	d.rules(a, b)
	if a.Retention != b.Retention {
		what := LevelChanged
		if b.Retention != 0 && (a.Retention == 0 || b.Retention < a.Retention) {
			what = RetentionCut
		}
		d.add(what == RetentionCut, what, "retention %s, was %s", days(b.Retention), days(a.Retention))
	}
	if a.Latency != b.Latency {
		d.add(false, LevelChanged, "latency %s, was %s", b.Latency, a.Latency)
	}
	if a.Freshness != b.Freshness {
		d.add(false, LevelChanged, "frequency %s, was %s", b.Freshness, a.Freshness)
	}
	if a.Completeness != b.Completeness {
		d.add(false, LevelChanged, "completeness %g percent, was %g", b.Completeness, a.Completeness)
	}
	return d.all
}

func (d *differences) columns(a, b *Table) {
	for _, was := range a.Columns {
		is := b.column(was.Name)
		if is == nil {
			d.add(true, ColumnRemoved, "column %s", was.Name)
			continue
		}
		if is.Type != was.Type {
			d.add(true, TypeChanged, "column %s: %s, was %s", is.Name, is.Type, was.Type)
		}
		if is.Unit != was.Unit {
			d.add(was.Unit != "", UnitChanged, "column %s: %s, was %s", is.Name, none(is.Unit), none(was.Unit))
		}
		switch {
		case is.Required && !was.Required:
			d.add(true, RequiredAdded, "column %s", is.Name)
		case was.Required && !is.Required:
			d.add(false, RequiredDropped, "column %s", is.Name)
		}
		switch by := slices.Index(classifications, is.Classification) - slices.Index(classifications, was.Classification); {
		case by < 0:
			d.add(true, Declassified, "column %s: %s, was %s", is.Name, is.Classification, was.Classification)
		case by > 0:
			d.add(false, Classified, "column %s: %s, was %s", is.Name, is.Classification, was.Classification)
		}
		if is.Provenance != was.Provenance {
			d.add(true, CountingChanged, "column %s: provenance %t, was %t", is.Name, is.Provenance, was.Provenance)
		}
		if is.Purpose != was.Purpose {
			d.add(false, Described, "of column %s", is.Name)
		}
	}
	for _, is := range b.Columns {
		switch {
		case a.column(is.Name) != nil:
		case is.Required: // the rows that are there have no value
			d.add(true, RequiredAdded, "new column %s", is.Name)
		default:
			d.add(false, ColumnAdded, "column %s %s", is.Name, is.Type)
		}
	}
}

func (d *differences) rules(a, b *Table) {
	find := func(rules []Rule, r *Rule) *Rule {
		if at := slices.IndexFunc(rules, func(other Rule) bool { return other.subject() == r.subject() }); at >= 0 {
			return &rules[at]
		}
		return nil
	}
	for i := range a.Quality {
		was := &a.Quality[i]
		is := find(b.Quality, was)
		switch {
		case is != nil && was.allows(is) && is.allows(was):
			if is.Purpose != was.Purpose {
				d.add(false, Described, "of rule %q", is.Purpose)
			}
		case is != nil && was.allows(is):
			d.add(true, RuleTightened, "rule %q: %s, was %s", is.Purpose, is.bounds(), was.bounds())
		case is != nil && is.allows(was):
			d.add(false, RuleLoosened, "rule %q: %s, was %s", is.Purpose, is.bounds(), was.bounds())
		case is != nil: // some of both
			d.add(true, RuleTightened, "rule %q: %s, was %s", is.Purpose, is.bounds(), was.bounds())
		case was.Column == "" || b.column(was.Column) != nil:
			d.add(false, RuleLoosened, "rule %q: none, was %s", was.Purpose, was.bounds())
		}
	}
	for i := range b.Quality {
		is := &b.Quality[i]
		// Rows that are there have no value in a new column, so they can only have too many NULLs.
		if find(a.Quality, is) == nil && (is.Column == "" || a.column(is.Column) != nil || is.Metric == "nullValues") {
			d.add(true, RuleTightened, "rule %q: %s, was none", is.Purpose, is.bounds())
		}
	}
}

func list(names []string) string { return strings.Join(names, ", ") }

func none(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func days(d time.Duration) string {
	if d == 0 {
		return unlimited
	}
	return fmt.Sprintf("%v days", d.Hours()/24)
}

var version = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})$`)

func isVersion(s string) bool { return version.MatchString(s) }

// parts gives the first two numbers of a version.
func parts(version string) (major, minor int) {
	fmt.Sscanf(version, "%d.%d", &major, &minor)
	return major, minor
}

// grown says that a version may break what the old one promised: it has a
// higher major part or, before 1.0.0, a higher minor part.
func grown(old, new string) bool {
	a, aMinor := parts(old)
	b, bMinor := parts(new)
	return b > a || a == 0 && b == 0 && bMinor > aMinor
}

// Fits says that what is written for one version works with another.
func Fits(writtenFor, is string) bool { return !grown(writtenFor, is) && !grown(is, writtenFor) }

// major is the first version that may break what the old one promised.
func major(old string) string {
	major, minor := parts(old)
	if major == 0 {
		return fmt.Sprintf("0.%d.0", minor+1)
	}
	return fmt.Sprintf("%d.0.0", major+1)
}
