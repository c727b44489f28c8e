package contract

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The names of the documents of a product.
const (
	descriptorFile = "product.odps.yaml"
	contractSuffix = ".odcs.yaml" // after the name of the table
)

// Load reads all products of a folder, ordered by name. It reads strictly: a
// member that it does not know, or a value that has no meaning here, is a Fault.
// The error holds all of them, but for those that may come of others.
func Load(folder fs.FS) ([]Product, error) {
	files, err := fs.Glob(folder, "*/"+descriptorFile)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("load products: no */" + descriptorFile)
	}
	l := loader{folder: folder, tables: map[string]string{}, contracts: map[string]string{}, fields: map[string]string{}}
	products := make([]Product, 0, len(files))
	for _, file := range files {
		p, err := l.loadProduct(file)
		l.fail(err)
		products = append(products, p)
	}
	if l.faults == nil { // else what is missing in one may be what is wrong with another
		l.checkInputs(products)
		l.checkSources(products)
		l.checkMadeFrom(products)
		l.checkKept(products)
	}
	if l.faults != nil {
		return nil, errors.Join(l.faults...)
	}
	return products, nil
}

// loader knows of the products that it has read what the others have to fit to.
type loader struct {
	folder    fs.FS
	tables    map[string]string // the file that describes it, by FullName
	contracts map[string]string // versions by id
	fields    map[string]string // of the output ports that are views, in their descriptors, by FullName
	faults    []error
}

func (l *loader) fail(err error) {
	if err != nil {
		l.faults = append(l.faults, err)
	}
}

// checkMadeFrom looks for the tables that others are made from. Such a table
// has to grow with each row that says something new or is better informed:
// where knowledge has a row take another's place, or rows are dropped, its
// version would not tell.
func (l *loader) checkMadeFrom(products []Product) {
	knowledge := map[string]string{}
	ordered := map[string]bool{}
	for _, p := range products {
		for _, t := range p.Tables {
			knowledge[t.FullName()] = t.Knowledge
			for _, from := range t.MadeFrom {
				ordered[from] = true
			}
		}
	}
	for _, p := range products {
		for i := range p.Tables {
			t := &p.Tables[i]
			t.Ordered = ordered[t.FullName()]
			for i, from := range t.MadeFrom {
				file, field := l.tables[t.FullName()], fmt.Sprintf("schema[0].customProperties.madeFrom[%d]", i)
				switch column, ok := knowledge[from]; {
				case !ok:
					l.fail(fieldError(file, field, from, "a table of a product"))
				case from == t.FullName() || slices.Contains(t.MadeFrom[:i], from):
					l.fail(fieldError(file, field, from, "each other table once"))
				case column != "":
					l.fail(fieldError(file, field, from, "a table without knowledge; it has "+column))
				}
			}
			if t.Ordered && t.Retention != 0 {
				l.fail(fieldError(l.tables[t.FullName()], "slaProperties", "retention "+days(t.Retention),
					unlimited+", since other tables are made from this one: its version counts its rows"))
			}
		}
	}
}

// checkSources looks for the columns that others are declared to be made of.
func (l *loader) checkSources(products []Product) {
	columns := map[string]bool{}
	for _, p := range products {
		for i := range p.Tables {
			for _, c := range p.Tables[i].Columns {
				columns[p.Tables[i].FullName()+"."+c.Name] = true
			}
		}
	}
	for _, p := range products {
		for i := range p.Tables {
			t := &p.Tables[i]
			for at, c := range t.Columns {
				for j, from := range c.Sources {
					if !columns[from] || strings.HasPrefix(from, t.FullName()+".") || slices.Contains(c.Sources[:j], from) {
						l.fail(fieldError(l.tables[t.FullName()], fmt.Sprintf("schema[0].properties[%d].transformSourceObjects[%d]", at, j), from,
							"a column of another table, as iot_metadata.placements.room, each once"))
					}
				}
			}
		}
	}
}

// checkInputs holds the input ports against the contracts that they name, where
// those are of a table: which port a product reads is a matter of the major version.
func (l *loader) checkInputs(products []Product) {
	for i := range products {
		for at, in := range products[i].InputPorts {
			if version, ok := l.contracts[in.Contract]; ok && !Fits(in.Version, version) {
				l.fail(fieldError(path.Join(products[i].Name, descriptorFile), fmt.Sprintf("inputPorts[%d].version", at), in.Version,
					"a version that fits "+version+", that of "+in.Contract))
			}
		}
	}
}

// logical is the logicalType that goes with each physicalType.
var logical = map[Type]string{
	String: "string", Float64: "number", Int64: "integer", Bool: "boolean", Timestamp: "timestamp", JSON: "object",
}

// ofDuckDB are schemas that DuckDB has for what is its own.
var ofDuckDB = []string{"information_schema", "main", "pg_catalog", "system", "temp"}

var (
	identifier = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	attribute  = regexp.MustCompile(`^[a-z0-9]{1,20}$`) // of a CloudEvent
	// named is what a topic or a subscription of Pub/Sub is called, but for its
	// length: as a part of the expression it would take most of a function's start.
	named = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._~+%-]*$`)
)

// isResource says whether Pub/Sub takes a name of a topic or a subscription.
func isResource(name string) bool {
	return len(name) >= 3 && len(name) <= 255 && named.MatchString(name)
}

func (l *loader) loadProduct(file string) (Product, error) {
	var d descriptor
	if err := read(l.folder, file, &d); err != nil {
		return Product{}, err
	}
	dir := path.Dir(file)
	p := Product{
		Name: d.Name, Version: d.Version, Domain: d.Domain, Schema: strings.ReplaceAll(d.Name, "-", "_"),
		Owner: d.Team.Name, Purpose: d.Description.Purpose, Usage: d.Description.Usage, Limits: d.Description.Limitations,
	}
	switch {
	case d.APIVersion != "v1.0.0":
		return p, fieldError(file, "apiVersion", d.APIVersion, "v1.0.0")
	case d.Kind != "DataProduct":
		return p, fieldError(file, "kind", d.Kind, "DataProduct")
	case d.Status == "":
		return p, fieldError(file, "status", "", "a status")
	case d.Name != dir || d.ID != dir:
		return p, &Fault{file, "name", fmt.Sprintf("id %q and name %q: want the name of the folder, %s", d.ID, d.Name, dir)}
	case !identifier.MatchString(p.Schema):
		return p, fieldError(file, "name", d.Name, "lower-case words joined by -")
	case p.Schema == "telemesh" || strings.HasSuffix(p.Schema, InternalSuffix):
		return p, fieldError(file, "name", d.Name, "a name that is neither telemesh nor ends in -internal: its datasets would be those of the platform or of another product")
	case slices.Contains(ofDuckDB, p.Schema):
		return p, fieldError(file, "name", d.Name, "another name: DuckDB has schemas of its own that are called "+strings.Join(ofDuckDB, ", "))
	case !isVersion(d.Version):
		return p, fieldError(file, "version", d.Version, "a version as 1.0.0")
	case d.Domain == "":
		return p, fieldError(file, "domain", "", "a domain")
	case p.Owner == "":
		return p, fieldError(file, "team.name", "", "the team that owns the product")
	}
	if err := d.Description.check(file); err != nil {
		return p, err
	}
	if err := d.CustomProperties.check(file, "customProperties", "kind"); err != nil {
		return p, err
	}
	p.Kind = text(d.CustomProperties.get("kind"))
	if p.Kind != "source-aligned" && p.Kind != "consumer-aligned" {
		return p, fieldError(file, "customProperties.kind", p.Kind, "source-aligned or consumer-aligned")
	}

	var faults []error
	for i := range d.InputPorts {
		faults = append(faults, p.loadInput(file, fmt.Sprintf("inputPorts[%d]", i), &d.InputPorts[i]))
	}
	ports := map[string]*port{} // those that are a table or a view
	for i := range d.OutputPorts {
		faults = append(faults, p.loadOutput(file, fmt.Sprintf("outputPorts[%d]", i), &d.OutputPorts[i], ports))
	}

	files, err := fs.Glob(l.folder, dir+"/*"+contractSuffix)
	if err != nil {
		return p, err
	}
	for _, from := range files {
		t, id, err := l.loadTable(from, &p)
		if err != nil {
			faults = append(faults, err)
			if out := ports[p.Schema+"."+strings.TrimSuffix(path.Base(from), contractSuffix)]; out != nil {
				out.found = true
			}
			continue
		}
		if other, ok := l.tables[t.FullName()]; ok {
			faults = append(faults, &Fault{from, "schema[0].physicalName", fmt.Sprintf("table %s is also that of %s", t.FullName(), other)})
			continue
		}
		l.tables[t.FullName()] = from
		l.contracts[id] = t.Version
		if t.port() {
			out := ports[t.FullName()]
			switch {
			case out == nil || out.ContractID != id:
				faults = append(faults, &Fault{from, "id", fmt.Sprintf("%q: no output port %s of %s has this contractId", id, t.FullName(), file)})
			case out.Version != t.Version:
				faults = append(faults, fieldError(file, out.field+".version", out.Version, t.Version+", the version of "+from))
			}
			if out != nil {
				out.found = true
			}
		}
		p.Tables = append(p.Tables, t)
	}
	faults = append(faults, l.loadViews(dir, &p, ports))
	for _, out := range d.OutputPorts {
		if port := ports[out.Name]; port != nil && !port.found {
			faults = append(faults, &Fault{file, port.field + ".name", fmt.Sprintf("output port %s: no contract and no view of that name in %s", out.Name, dir)})
		}
	}
	return p, errors.Join(faults...)
}

func (p *Product) loadInput(file, field string, in *inputPort) error {
	switch {
	case in.Name == "":
		return fieldError(file, field+".name", "", "a name")
	case !isVersion(in.Version):
		return fieldError(file, field+".version", in.Version, "a version as 1.0.0")
	case in.ContractID == "":
		return fieldError(file, field+".contractId", "", "the id of a contract or the type of an event")
	}
	one := Input{Name: in.Name, Contract: in.ContractID, Version: in.Version}
	properties := field + ".customProperties"
	if err := errors.Join(in.CustomProperties.check(file, properties, "pubsub", "columns"),
		in.CustomProperties.decode(file, properties, "columns", &one.Columns, "columns, each with a name and, where it matters, type, required and unit")); err != nil {
		return err
	}
	for i, c := range one.Columns {
		if _, ok := logical[c.Type]; c.Type != "" && !ok || !identifier.MatchString(c.Name) {
			return fieldError(file, fmt.Sprintf("%s.columns[%d]", properties, i), c.Name+" "+string(c.Type), "the name of a column and a type as STRING")
		}
	}
	p.Inputs = append(p.Inputs, in.ContractID)
	p.InputPorts = append(p.InputPorts, one)
	feeds, err := in.feeds(file, field)
	p.Feeds = append(p.Feeds, feeds...)
	return err
}

func (p *Product) loadOutput(file, field string, out *outputPort, ports map[string]*port) error {
	switch {
	case !isVersion(out.Version):
		return fieldError(file, field+".version", out.Version, "a version as 1.0.0")
	case ports[out.Name] != nil || slices.Contains(p.Events, out.Name):
		return fieldError(file, field+".name", out.Name, "each name once")
	case out.Type == "event":
		p.Events = append(p.Events, out.Name)
	case out.Type == "table" && out.ContractID == "":
		return fieldError(file, field+".contractId", "", "the id of the table's contract")
	case out.Type == "table" || out.Type == "view":
		ports[out.Name] = &port{outputPort: *out, field: field}
	default:
		return fieldError(file, field+".type", out.Type, "event, table or view")
	}
	one := Port{Name: out.Name, Type: out.Type, Version: out.Version, Purpose: out.Description}
	field += ".customProperties"
	if err := out.CustomProperties.decode(file, field, "consumers", &one.Consumers, "a list of name, since and version"); err != nil {
		return err
	}
	for i, c := range one.Consumers {
		at := fmt.Sprintf("%s.consumers[%d]", field, i)
		_, err := time.Parse(time.DateOnly, c.Since)
		switch {
		case c.Name == "" || slices.ContainsFunc(one.Consumers[:i], func(other Reader) bool { return other.Name == c.Name }):
			return fieldError(file, at+".name", c.Name, "a name, each once")
		case err != nil:
			return fieldError(file, at+".since", c.Since, "a day as 2026-11-21")
		case !isVersion(c.Version):
			return fieldError(file, at+".version", c.Version, "a version as 1.0.0")
		}
	}
	switch out.Type {
	case "table": // a contract says what it is
		if err := out.CustomProperties.check(file, field, "consumers"); err != nil {
			return err
		}
	case "event":
		if err := errors.Join(out.CustomProperties.check(file, field, "tenantAttribute", "consumers"),
			out.CustomProperties.decode(file, field, "tenantAttribute", &one.Tenant, "an attribute")); err != nil {
			return err
		}
		if one.Tenant != "" && !attribute.MatchString(one.Tenant) {
			return fieldError(file, field+".tenantAttribute", one.Tenant, "the name of an attribute of events")
		}
	}
	p.Ports = append(p.Ports, one)
	return nil
}

// port is an output port of a descriptor.
type port struct {
	outputPort
	field string
	found bool // its contract or view is there
}

func (d description) check(file string) error {
	for _, part := range []struct{ name, text string }{{"purpose", d.Purpose}, {"usage", d.Usage}, {"limitations", d.Limitations}} {
		if part.text == "" {
			return fieldError(file, "description."+part.name, "", "a text")
		}
	}
	return nil
}

// feeds gives a Feed for each subscription of the property pubsub. The limits
// are those of Pub/Sub.
func (in *inputPort) feeds(file, field string) ([]Feed, error) {
	field += ".customProperties"
	var s *pubsub
	err := in.CustomProperties.decode(file, field, "pubsub", &s, "a topic and its subscriptions")
	if err != nil || s == nil {
		return nil, err
	}
	field += ".pubsub"
	switch {
	case !isResource(s.Topic):
		return nil, fieldError(file, field+".topic", s.Topic, "the name of a topic")
	case !isResource(s.DeadLetterTopic) || s.DeadLetterTopic == s.Topic:
		return nil, fieldError(file, field+".deadLetterTopic", s.DeadLetterTopic, "the name of another topic")
	case s.MaxDeliveries < 5 || s.MaxDeliveries > 100:
		return nil, fieldError(file, field+".maxDeliveryAttempts", fmt.Sprint(s.MaxDeliveries), "5 to 100")
	case len(s.Subscriptions) == 0:
		return nil, fieldError(file, field+".subscriptions", "", "at least one")
	}
	feed := Feed{Topic: s.Topic, DeadLetterTopic: s.DeadLetterTopic, MaxDeliveries: s.MaxDeliveries}
	for _, d := range []struct {
		member, text string
		into         *time.Duration
		low, high    time.Duration
	}{
		{"retention", s.Retention, &feed.Retention, 10 * time.Minute, 31 * 24 * time.Hour},
		{"minBackoff", s.MinBackoff, &feed.MinBackoff, 0, 10 * time.Minute},
		{"maxBackoff", s.MaxBackoff, &feed.MaxBackoff, 0, 10 * time.Minute},
	} {
		if err := duration(file, field+"."+d.member, d.text, d.into, d.low, d.high); err != nil {
			return nil, err
		}
	}
	if feed.MaxBackoff < feed.MinBackoff {
		return nil, fieldError(file, field+".maxBackoff", s.MaxBackoff, "at least minBackoff, "+s.MinBackoff)
	}
	feeds := make([]Feed, len(s.Subscriptions))
	for i, sub := range s.Subscriptions {
		field := fmt.Sprintf("%s.subscriptions[%d]", field, i)
		feeds[i] = feed
		feeds[i].Subscription, feeds[i].Push = sub.Name, sub.Delivery == "push"
		switch {
		case !isResource(sub.Name) || slices.ContainsFunc(feeds[:i], func(f Feed) bool { return f.Subscription == sub.Name }):
			return nil, fieldError(file, field+".name", sub.Name, "the name of a subscription, each once")
		case sub.Delivery != "push" && sub.Delivery != "pull":
			return nil, fieldError(file, field+".delivery", sub.Delivery, "push or pull")
		}
		if err := duration(file, field+".ackDeadline", sub.AckDeadline, &feeds[i].AckDeadline, 10*time.Second, 10*time.Minute); err != nil {
			return nil, err
		}
	}
	return feeds, nil
}

func duration(file, field, text string, into *time.Duration, low, high time.Duration) error {
	d, err := time.ParseDuration(text)
	if err != nil || d < low || d > high {
		return fieldError(file, field, text, fmt.Sprintf("a duration from %s to %s", low, high))
	}
	*into = d
	return nil
}

func (l *loader) loadViews(dir string, p *Product, ports map[string]*port) error {
	files, err := fs.Glob(l.folder, dir+"/views/*.sql")
	if err != nil {
		return err
	}
	var faults []error
	for _, file := range files {
		faults = append(faults, l.loadView(file, dir, files, p, ports))
	}
	return errors.Join(faults...)
}

func (l *loader) loadView(file, dir string, files []string, p *Product, ports map[string]*port) error {
	name := strings.TrimSuffix(path.Base(file), ".sql")
	if dialect, ok := strings.CutSuffix(name, ".duckdb"); ok {
		if !slices.Contains(files, path.Join(dir, "views", dialect+".sql")) {
			return &Fault{file, "", fmt.Sprintf("no %s.sql beside it", dialect)}
		}
		return nil
	}
	if !identifier.MatchString(name) {
		return &Fault{file, "", "want a lower-case name"}
	}
	descriptor := path.Join(dir, descriptorFile)
	v := View{Schema: p.Schema, Name: name}
	out := ports[v.FullName()]
	if out == nil {
		return &Fault{file, "", v.FullName() + " is no output port of " + descriptor}
	}
	out.found, v.Version = true, out.Version
	l.fields[v.FullName()] = out.field
	if err := errors.Join(out.CustomProperties.check(descriptor, out.field+".customProperties", "tenantColumn", "kept", "consumers"),
		out.CustomProperties.decode(descriptor, out.field+".customProperties", "tenantColumn", &v.Tenant, "a column"),
		out.CustomProperties.decode(descriptor, out.field+".customProperties", "kept", &v.Kept, "a table, an hour, and columns to merge")); err != nil {
		return err
	}
	if v.Tenant != "" && !identifier.MatchString(v.Tenant) {
		return fieldError(descriptor, out.field+".customProperties.tenantColumn", v.Tenant, "a column of the view")
	}
	sql, err := fs.ReadFile(l.folder, file)
	if err != nil {
		return err
	}
	v.SQL, v.DuckDB = string(sql), string(sql)
	sql, err = fs.ReadFile(l.folder, strings.TrimSuffix(file, ".sql")+".duckdb.sql")
	switch {
	case err == nil:
		v.DuckDB = string(sql)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	p.Views = append(p.Views, v)
	return nil
}
