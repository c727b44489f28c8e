package contract

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/pointer"
)

// maxClustered is how many columns BigQuery clusters by.
const maxClustered = 4

// loadTable reads a contract; id is that of the contract.
func (l *loader) loadTable(file string, p *Product) (t Table, id string, err error) {
	var c dataContract
	if err := read(l.folder, file, &c); err != nil {
		return t, "", err
	}
	switch {
	case c.APIVersion != "v3.1.0":
		return t, "", fieldError(file, "apiVersion", c.APIVersion, "v3.1.0")
	case c.Kind != "DataContract":
		return t, "", fieldError(file, "kind", c.Kind, "DataContract")
	case c.ID == "" || l.contracts[c.ID] != "":
		return t, "", fieldError(file, "id", c.ID, "an id of its own")
	case !isVersion(c.Version):
		return t, "", fieldError(file, "version", c.Version, "a version as 1.0.0")
	case c.Status == "":
		return t, "", fieldError(file, "status", "", "a status")
	case c.DataProduct != p.Name:
		return t, "", fieldError(file, "dataProduct", c.DataProduct, p.Name)
	case c.Domain != p.Domain:
		return t, "", fieldError(file, "domain", c.Domain, p.Domain)
	case c.Team.Name != p.Owner:
		return t, "", fieldError(file, "team.name", c.Team.Name, p.Owner)
	case len(c.Schema) != 1:
		return t, "", &Fault{file, "schema", fmt.Sprintf("%d objects, want one", len(c.Schema))}
	}
	if err := c.Description.check(file); err != nil {
		return t, "", err
	}
	s := c.Schema[0]
	schema, name, _ := strings.Cut(s.PhysicalName, ".")
	switch {
	case name != s.Name || !identifier.MatchString(name) || schema != p.Schema && schema != p.Schema+InternalSuffix:
		return t, "", fieldError(file, "schema[0].physicalName", s.PhysicalName,
			fmt.Sprintf("%s.%s or %s%s.%[2]s", p.Schema, s.Name, p.Schema, InternalSuffix))
	case c.Name != name:
		return t, "", fieldError(file, "name", c.Name, name)
	case path.Base(file) != name+contractSuffix: // so that a table tells where its contract is
		return t, "", fieldError(file, "schema[0].name", name, "the name of the file without "+contractSuffix)
	}
	t = Table{
		ID: c.ID, Schema: schema, Name: name, Version: c.Version, Purpose: c.Description.Purpose,
		Usage: c.Description.Usage, Limits: c.Description.Limitations, Rows: s.Granularity,
	}
	if err := t.loadColumns(file, s.Properties, s.CustomProperties); err != nil {
		return t, "", err
	}
	return t, c.ID, errors.Join(
		t.loadProperties(file, s.CustomProperties),
		t.loadRoles(file, c.Roles),
		t.loadLevels(file, c.SLAProperties),
		t.loadQuality(file, &s),
	)
}

// port says that the table is an output port.
func (t *Table) port() bool { return !strings.HasSuffix(t.Schema, InternalSuffix) }

// column is nil where there is none of that name.
func (t *Table) column(name string) *Column {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return &t.Columns[i]
		}
	}
	return nil
}

// loadColumns sets the columns and what they are to the table: Key, Time and
// Knowledge.
func (t *Table) loadColumns(file string, properties []property, table customProperties) error {
	type position struct {
		column string
		at     int
	}
	var key []position
	var faults []error
	load := func(field string, c *property) error {
		want, ok := logical[c.PhysicalType]
		switch {
		case !identifier.MatchString(c.Name) || c.Name == Deleted:
			return fieldError(file, field+".name", c.Name, "a lower-case name")
		case !ok:
			return fieldError(file, field+".physicalType", string(c.PhysicalType), "STRING, FLOAT64, INT64, BOOL, TIMESTAMP or JSON")
		case c.LogicalType != want:
			return fieldError(file, field+".logicalType", c.LogicalType, want)
		case c.PrimaryKey && !c.Required:
			return fieldError(file, field+".required", "false", "true, since "+c.Name+" is part of the key")
		case c.Partitioned && (c.PhysicalType != Timestamp || !c.Required):
			return fieldError(file, field+".partitioned", "true", "false, since the column is not a required TIMESTAMP")
		case c.Partitioned && t.Time != "":
			return fieldError(file, field+".partitioned", "true", "one column that partitions; "+t.Time+" does")
		case t.column(c.Name) != nil:
			return fieldError(file, field+".name", c.Name, "each name once")
		case c.Description == "":
			return fieldError(file, field+".description", "", "a text")
		case !slices.Contains(classifications, c.Classification):
			return fieldError(file, field+".classification", c.Classification, strings.Join(classifications, ", "))
		}
		if c.PrimaryKey {
			key = append(key, position{c.Name, c.PrimaryKeyPosition})
		}
		if c.Partitioned {
			t.Time = c.Name
		}
		column := Column{Name: c.Name, Type: c.PhysicalType, Required: c.Required, Purpose: c.Description, Classification: c.Classification, Sources: c.Sources}
		field += ".customProperties"
		if err := c.CustomProperties.check(file, field, "provenance", "knowledge", "unit", "from"); err != nil {
			return err
		}
		knowledge := false
		if err := errors.Join(
			c.CustomProperties.decode(file, field, "provenance", &column.Provenance, "true or false"),
			c.CustomProperties.decode(file, field, "knowledge", &knowledge, "true or false"),
			c.CustomProperties.decode(file, field, "unit", &column.Unit, "a UCUM code; a number in quotes"),
			column.loadFrom(file, field, c.CustomProperties),
		); err != nil {
			return err
		}
		if knowledge {
			if t.Knowledge != "" || c.PhysicalType != Int64 || !c.Required || c.PrimaryKey || column.Provenance || table.get("madeFrom") == nil {
				return fieldError(file, field+".knowledge", "true",
					"one required column of type INT64, neither key nor provenance, of a table with madeFrom")
			}
			t.Knowledge = c.Name
		}
		t.Columns = append(t.Columns, column)
		return nil
	}
	for i := range properties {
		faults = append(faults, load(fmt.Sprintf("schema[0].properties[%d]", i), &properties[i]))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	if len(key) == 0 {
		return &Fault{file, "schema[0].properties", "no primaryKey"}
	}
	slices.SortFunc(key, func(a, b position) int { return cmp.Compare(a.at, b.at) })
	for _, k := range key {
		t.Key = append(t.Key, k.column)
	}
	return nil
}

// loadFrom reads where the value of a column stands: a JSON Pointer, or
// {pointer: …, unit: …}, or {attribute: …}.
func (c *Column) loadFrom(file, field string, properties customProperties) error {
	var from struct{ Attribute, Pointer, Unit string }
	switch value := properties.get("from").(type) {
	case nil:
		return nil
	case string:
		from.Pointer = value
	default:
		if err := properties.decode(file, field, "from", &from, "a JSON Pointer, {pointer: …, unit: …} or {attribute: …}"); err != nil {
			return err
		}
	}
	field += ".from"
	switch {
	case c.Name == RecordedAt:
		return fieldError(file, field, from.Pointer+from.Attribute, "none: the warehouse sets "+RecordedAt)
	case from.Attribute != "" && (from.Pointer != "" || !attribute.MatchString(from.Attribute)):
		return fieldError(file, field+".attribute", from.Attribute, "the name of an attribute of events, and no pointer beside it")
	case from.Attribute == "" && !pointer.Valid(from.Pointer):
		return fieldError(file, field+".pointer", from.Pointer, "a JSON Pointer, as /place/room")
	case from.Unit != "" && (c.Type != Timestamp || from.Attribute != "" || !slices.Contains(pointer.Units, from.Unit)):
		return fieldError(file, field+".unit", from.Unit, strings.Join(pointer.Units, ", ")+" of a TIMESTAMP that is a number")
	}
	c.From = (*From)(&from)
	return nil
}

// The classifications of a column, from that which all may see.
var classifications = []string{"public", "internal", "confidential"}

// clusterable are the types of columns here that BigQuery clusters by.
var clusterable = []Type{String, Int64, Bool, Timestamp}

// loadProperties sets what ODCS has no word for. The columns are known.
func (t *Table) loadProperties(file string, properties customProperties) error {
	const field = "schema[0].customProperties"
	if err := properties.check(file, field, "order", "tombstones", "appendOnly", "madeFrom", "tenantColumn", "clusteredBy", "keyOf", "events", "rows"); err != nil {
		return err
	}
	if err := errors.Join(
		properties.decode(file, field, "tombstones", &t.Tombstones, "true or false"),
		properties.decode(file, field, "appendOnly", &t.AppendOnly, "true or false"),
		properties.decode(file, field, "order", &t.Order, "revision or version"),
		properties.decode(file, field, "madeFrom", &t.MadeFrom, "a list of tables"),
		properties.decode(file, field, "tenantColumn", &t.Tenant, "a column"),
		properties.decode(file, field, "clusteredBy", &t.Clustered, "a list of columns"),
		properties.decode(file, field, "keyOf", &t.KeyOf, "a list of columns"),
		properties.decode(file, field, "events", &t.Events, "a list of event types"),
		properties.decode(file, field, "rows", &t.RowsAt, "a JSON Pointer"),
	); err != nil {
		return err
	}
	if err := t.checkFrom(file, field, properties.get("rows") != nil); err != nil {
		return err
	}
	if t.MadeFrom != nil && len(t.MadeFrom) == 0 {
		return fieldError(file, field+".madeFrom", "[]", "a list of tables")
	}
	for i, name := range t.Events {
		if name == "" || slices.Contains(t.Events[:i], name) {
			return fieldError(file, fmt.Sprintf("%s.events[%d]", field, i), name, "the type of an event, each once")
		}
	}
	switch {
	case !t.AppendOnly:
	case !slices.Contains(t.Key, t.Time):
		// What is known of the rows that are there is kept by the time.
		return fieldError(file, field+".appendOnly", "true", "a column that partitions as part of the key")
	case t.Tombstones || t.Knowledge != "" || t.Order != "":
		return fieldError(file, field+".appendOnly", "true", "neither order, tombstones nor knowledge: nothing takes a row's place")
	}
	if t.Order != "" {
		if t.Order != Revision && t.Order != Version {
			return fieldError(file, field+".order", t.Order, "revision or version")
		}
		if c := t.column(t.Order); c == nil || t.Knowledge == t.Order || c.Type != Int64 || !c.Required {
			return fieldError(file, field+".order", t.Order, "a required column of type INT64")
		}
	}
	for i, name := range t.KeyOf {
		if c := t.column(name); c == nil || !c.Required || c.Provenance || slices.Contains(t.Key, name) || slices.Contains(t.KeyOf[:i], name) {
			return fieldError(file, fmt.Sprintf("%s.keyOf[%d]", field, i), name, "a required column, neither key nor provenance, each once")
		}
	}
	if t.Order == Revision && !slices.Contains(t.KeyOf, t.Time) {
		return fieldError(file, field+".keyOf", fmt.Sprint(t.KeyOf), "the column that partitions among those that the key is made of, since the order is revision")
	}
	if properties.get("tenantColumn") != nil {
		if c := t.column(t.Tenant); c == nil || c.Type != String {
			return fieldError(file, field+".tenantColumn", t.Tenant, "a column of type STRING")
		}
	}
	if n := len(t.Clustered); properties.get("clusteredBy") != nil && (n == 0 || n > maxClustered) {
		return fieldError(file, field+".clusteredBy", fmt.Sprint(t.Clustered), fmt.Sprintf("1 to %d columns", maxClustered))
	}
	for i, name := range t.Clustered {
		if c := t.column(name); c == nil || !slices.Contains(clusterable, c.Type) || slices.Contains(t.Clustered[:i], name) {
			return fieldError(file, fmt.Sprintf("%s.clusteredBy[%d]", field, i), name, "a column of type STRING, INT64, BOOL or TIMESTAMP, each once")
		}
	}
	return nil
}

// checkFrom says which columns would never have a value.
func (t *Table) checkFrom(file, field string, said bool) error {
	named := slices.ContainsFunc(t.Columns, func(c Column) bool { return c.From != nil })
	switch {
	case said && !pointer.Valid(t.RowsAt):
		return fieldError(file, field+".rows", t.RowsAt, "a JSON Pointer to an array, as /rows")
	case (said || named) && len(t.Events) == 0:
		return fieldError(file, field+".events", "", "the types of the events that bring the rows")
	}
	for i, c := range t.Columns {
		if named && c.From == nil && c.Required && c.Name != RecordedAt {
			return fieldError(file, fmt.Sprintf("schema[0].properties[%d].customProperties.from", i), "",
				"where the value of "+c.Name+" stands, as other columns say it")
		}
	}
	return nil
}

// access of each role.
var access = map[string]string{TenantRole: "read", PlatformRole: "read", WriterRole: "write"}

// loadRoles sets who may do what. Tenants read nothing but output ports, and
// those by the column that says whose a row is.
func (t *Table) loadRoles(file string, roles []role) error {
	has := map[string]bool{}
	var faults []error
	for i, r := range roles {
		field := fmt.Sprintf("roles[%d]", i)
		switch want, ok := access[r.Role]; {
		case !ok || has[r.Role]:
			faults = append(faults, fieldError(file, field+".role", r.Role, "one of tenant, platform and writer, each once"))
		case r.Access != want:
			faults = append(faults, fieldError(file, field+".access", r.Access, want+", since the role is "+r.Role))
		case r.Role == TenantRole && !t.port():
			faults = append(faults, fieldError(file, field+".role", r.Role, "no tenant: "+t.FullName()+" is no output port"))
		}
		has[r.Role] = true
		t.Roles = append(t.Roles, Role{Name: r.Role, Access: r.Access})
	}
	if faults != nil {
		return errors.Join(faults...)
	}
	switch {
	case !has[PlatformRole] || !has[WriterRole]:
		faults = append(faults, fieldError(file, "roles", fmt.Sprint(t.Roles), "platform and writer"))
	case has[TenantRole] && t.Tenant == "":
		faults = append(faults, fieldError(file, "schema[0].customProperties.tenantColumn", "", "the column that says whose a row is, since there is the role tenant"))
	case !has[TenantRole] && t.Tenant != "":
		faults = append(faults, fieldError(file, "roles", fmt.Sprint(t.Roles), "tenant, since there is a tenantColumn"))
	}
	return errors.Join(faults...)
}

// units of service levels: what a second, a day… is called. A year is as long
// as the longest one, so that what is kept for years is not dropped before.
var units = map[string]time.Duration{
	"s": time.Second, "second": time.Second, "seconds": time.Second,
	"min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"y": 366 * 24 * time.Hour, "yr": 366 * 24 * time.Hour, "year": 366 * 24 * time.Hour, "years": 366 * 24 * time.Hour,
}

// unlimited is the value of a retention without end.
const unlimited = "unlimited"

// loadLevels sets the service levels: latency, frequency (ODCS's word for how
// often a table is brought up to date), retention and completeness.
func (t *Table) loadLevels(file string, levels []sla) error {
	into := map[string]*time.Duration{"latency": &t.Latency, "frequency": &t.Freshness, "retention": &t.Retention}
	has := map[string]bool{}
	load := func(field string, level *sla) error {
		d := into[level.Property]
		if d == nil && level.Property != completeness || has[level.Property] {
			return fieldError(file, field+".property", level.Property, "one of latency, frequency, retention and completeness, each once")
		}
		has[level.Property] = true
		table, column, _ := strings.Cut(level.Element, ".")
		switch {
		case table != t.Name || t.column(column) == nil:
			return fieldError(file, field+".element", level.Element, t.Name+" and a column: "+t.Name+"."+t.Key[0])
		case level.Driver != "regulatory" && level.Driver != "analytics" && level.Driver != "operational":
			return fieldError(file, field+".driver", level.Driver, "regulatory, analytics or operational")
		}
		if level.Property == completeness {
			percent, _ := level.Value.(float64)
			switch {
			case percent <= 0 || percent > 100:
				return fieldError(file, field+".value", text(level.Value), "percent, up to 100")
			case level.Unit != "percent":
				return fieldError(file, field+".unit", level.Unit, "percent")
			case !t.port() || t.Time == "" || column != t.Time || t.column("device_id") == nil:
				return fieldError(file, field+".element", level.Element, "the column that partitions an output port with a device_id: how much of what devices send is there is told by when they sent")
			}
			t.Completeness = percent
			t.Levels = append(t.Levels, Level{Property: level.Property, Percent: percent, Column: column, Purpose: level.Description})
			return nil
		}
		if level.Property == "retention" && level.Value == unlimited {
			if level.Unit != "" {
				return fieldError(file, field+".unit", level.Unit, "none, since the retention is unlimited")
			}
			t.Levels = append(t.Levels, Level{Property: level.Property, Column: column, Purpose: level.Description})
			return nil
		}
		unit, ok := units[level.Unit]
		if !ok {
			return fieldError(file, field+".unit", level.Unit, "s, min, h, d or years; YAML reads y as true")
		}
		n, _ := level.Value.(float64)
		if n < 1 || n != float64(int64(n)) || n > float64(maxLevel/unit) {
			return fieldError(file, field+".value", text(level.Value), "a whole number of "+level.Unit+" from 1, at most 100 years")
		}
		*d = time.Duration(n) * unit
		t.Levels = append(t.Levels, Level{Property: level.Property, Value: *d, Column: column, Purpose: level.Description})
		if level.Property == "retention" && column != t.Time {
			return fieldError(file, field+".element", level.Element, "the column that partitions the table: rows are dropped by the day")
		}
		// Else the row that counts could be dropped before one whose place it took.
		if level.Property == "retention" && !slices.Contains(t.Key, t.Time) && !slices.Contains(t.KeyOf, t.Time) {
			return fieldError(file, field+".value", text(level.Value), unlimited+", or "+t.Time+" in the primary key or keyOf: all rows of a key have to be dropped at once")
		}
		return nil
	}
	var faults []error
	for i := range levels {
		faults = append(faults, load(fmt.Sprintf("slaProperties[%d]", i), &levels[i]))
	}
	for _, property := range []string{"latency", "frequency", "retention"} {
		if t.port() && !has[property] {
			faults = append(faults, fieldError(file, "slaProperties", "", property+", since "+t.FullName()+" is an output port"))
		}
	}
	return errors.Join(faults...)
}

// completeness is the property of ODCS for how much of what is expected is there.
const completeness = "completeness"

const maxLevel = 100 * 366 * 24 * time.Hour

func text(value any) string {
	if value == nil {
		return ""
	}
	return fmt.Sprint(value)
}
