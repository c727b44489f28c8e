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
// member that it does not know, or a value that has no meaning here, is an
// error that names the file and the field.
func Load(folder fs.FS) ([]Product, error) {
	files, err := fs.Glob(folder, "*/"+descriptorFile)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("load products: no */" + descriptorFile)
	}
	l := loader{folder: folder, tables: map[string]string{}, contracts: map[string]string{}}
	products := make([]Product, 0, len(files))
	for _, file := range files {
		p, err := l.loadProduct(file)
		if err != nil {
			return nil, err
		}
		products = append(products, p)
	}
	if err := l.checkInputs(); err != nil {
		return nil, err
	}
	if err := l.checkSources(products); err != nil {
		return nil, err
	}
	return products, errors.Join(l.checkMadeFrom(products), checkKept(products))
}

// loader knows of the products that it has read what the others have to fit to.
type loader struct {
	folder    fs.FS
	tables    map[string]string // the file that describes it, by FullName
	contracts map[string]string // versions by id
	inputs    []input
}

// input is what an input port says of a contract.
type input struct{ file, field, contract, version string }

// checkMadeFrom looks for the tables that others are made from. Such a table
// has to grow with each row that says something new or is better informed:
// where knowledge has a row take another's place, or rows are dropped, its
// version would not tell.
func (l *loader) checkMadeFrom(products []Product) error {
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
					return fieldError(file, field, from, "a table of a product")
				case from == t.FullName() || slices.Contains(t.MadeFrom[:i], from):
					return fieldError(file, field, from, "each other table once")
				case column != "":
					return fieldError(file, field, from, "a table without knowledge; it has "+column)
				}
			}
			if t.Ordered && t.Retention != 0 {
				return fieldError(l.tables[t.FullName()], "slaProperties", "retention "+days(t.Retention),
					unlimited+", since other tables are made from this one: its version counts its rows")
			}
		}
	}
	return nil
}

// checkSources looks for the columns that others are declared to be made of.
func (l *loader) checkSources(products []Product) error {
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
						return fieldError(l.tables[t.FullName()], fmt.Sprintf("schema[0].properties[%d].transformSourceObjects[%d]", at, j), from,
							"a column of another table, as iot_metadata.placements.room, each once")
					}
				}
			}
		}
	}
	return nil
}

// checkInputs holds the input ports against the contracts that they name, where
// those are of a table: which port a product reads is a matter of the major version.
func (l *loader) checkInputs() error {
	for _, in := range l.inputs {
		if version, ok := l.contracts[in.contract]; ok && (grown(in.version, version) || grown(version, in.version)) {
			return fieldError(in.file, in.field+".version", in.version, "a version that fits "+version+", that of "+in.contract)
		}
	}
	return nil
}

// logical is the logicalType that goes with each physicalType.
var logical = map[Type]string{
	String: "string", Float64: "number", Int64: "integer", Bool: "boolean", Timestamp: "timestamp", JSON: "object",
}

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
		return p, fmt.Errorf("%s: id %q and name %q: want the name of the folder, %s", file, d.ID, d.Name, dir)
	case !identifier.MatchString(p.Schema):
		return p, fieldError(file, "name", d.Name, "lower-case words joined by -")
	case p.Schema == "telemesh" || strings.HasSuffix(p.Schema, InternalSuffix):
		return p, fieldError(file, "name", d.Name, "a name that is neither telemesh nor ends in -internal: its datasets would be those of the platform or of another product")
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

	for i, in := range d.InputPorts {
		field := fmt.Sprintf("inputPorts[%d]", i)
		switch {
		case in.Name == "":
			return p, fieldError(file, field+".name", "", "a name")
		case !isVersion(in.Version):
			return p, fieldError(file, field+".version", in.Version, "a version as 1.0.0")
		case in.ContractID == "":
			return p, fieldError(file, field+".contractId", "", "the id of a contract or the type of an event")
		}
		l.inputs = append(l.inputs, input{file, field, in.ContractID, in.Version})
		p.Inputs = append(p.Inputs, in.ContractID)
		feeds, err := in.feeds(file, field)
		if err != nil {
			return p, err
		}
		p.Feeds = append(p.Feeds, feeds...)
	}

	ports := map[string]*port{} // those that are a table or a view
	for i, out := range d.OutputPorts {
		field := fmt.Sprintf("outputPorts[%d]", i)
		switch {
		case !isVersion(out.Version):
			return p, fieldError(file, field+".version", out.Version, "a version as 1.0.0")
		case ports[out.Name] != nil || slices.Contains(p.Events, out.Name):
			return p, fieldError(file, field+".name", out.Name, "each name once")
		case out.Type == "table" && out.CustomProperties != nil:
			return p, fieldError(file, field+".customProperties", fmt.Sprint(out.CustomProperties), "none but of a view or of events: a contract says what its table is")
		case out.Type == "event":
			p.Events = append(p.Events, out.Name)
		case out.Type == "table" && out.ContractID == "":
			return p, fieldError(file, field+".contractId", "", "the id of the table's contract")
		case out.Type == "table" || out.Type == "view":
			ports[out.Name] = &port{outputPort: out, field: field}
		default:
			return p, fieldError(file, field+".type", out.Type, "event, table or view")
		}
		port := Port{Name: out.Name, Type: out.Type, Version: out.Version, Purpose: out.Description}
		if out.Type == "event" {
			field += ".customProperties"
			if err := errors.Join(out.CustomProperties.check(file, field, "tenantAttribute"),
				out.CustomProperties.decode(file, field, "tenantAttribute", &port.Tenant, "an attribute")); err != nil {
				return p, err
			}
			if port.Tenant != "" && !attribute.MatchString(port.Tenant) {
				return p, fieldError(file, field+".tenantAttribute", port.Tenant, "the name of an attribute of events")
			}
		}
		p.Ports = append(p.Ports, port)
	}

	files, err := fs.Glob(l.folder, dir+"/*"+contractSuffix)
	if err != nil {
		return p, err
	}
	for _, from := range files {
		t, id, err := l.loadTable(from, &p)
		if err != nil {
			return p, err
		}
		if other, ok := l.tables[t.FullName()]; ok {
			return p, fmt.Errorf("%s: table %s is also that of %s", from, t.FullName(), other)
		}
		l.tables[t.FullName()] = from
		l.contracts[id] = t.Version
		if t.port() {
			out := ports[t.FullName()]
			switch {
			case out == nil || out.ContractID != id:
				return p, fmt.Errorf("%s: id %q: no output port %s of %s has this contractId", from, id, t.FullName(), file)
			case out.Version != t.Version:
				return p, fieldError(file, out.field+".version", out.Version, t.Version+", the version of "+from)
			}
			out.found = true
		}
		p.Tables = append(p.Tables, t)
	}
	if err := l.loadViews(dir, &p, ports); err != nil {
		return p, err
	}
	for _, out := range d.OutputPorts {
		if port := ports[out.Name]; port != nil && !port.found {
			return p, fmt.Errorf("%s: output port %s: no contract and no view of that name in %s", file, out.Name, dir)
		}
	}
	return p, nil
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
	if err := in.CustomProperties.check(file, field, "pubsub"); err != nil {
		return nil, err
	}
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
	for _, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".sql")
		if dialect, ok := strings.CutSuffix(name, ".duckdb"); ok {
			if !slices.Contains(files, path.Join(dir, "views", dialect+".sql")) {
				return fmt.Errorf("%s: no %s.sql beside it", file, dialect)
			}
			continue
		}
		if !identifier.MatchString(name) {
			return fmt.Errorf("%s: want a lower-case name", file)
		}
		v := View{Schema: p.Schema, Name: name}
		out := ports[v.FullName()]
		if out == nil {
			return fmt.Errorf("%s: %s is no output port of %s", file, v.FullName(), path.Join(dir, descriptorFile))
		}
		out.found, v.Version = true, out.Version
		if err := errors.Join(out.CustomProperties.check(descriptorFile, out.field+".customProperties", "tenantColumn", "kept"),
			out.CustomProperties.decode(descriptorFile, out.field+".customProperties", "tenantColumn", &v.Tenant, "a column"),
			out.CustomProperties.decode(descriptorFile, out.field+".customProperties", "kept", &v.Kept, "a table, an hour, and columns to merge")); err != nil {
			return fmt.Errorf("%s/%w", dir, err)
		}
		if v.Tenant != "" && !identifier.MatchString(v.Tenant) {
			return fieldError(path.Join(dir, descriptorFile), out.field+".customProperties.tenantColumn", v.Tenant, "a column of the view")
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
	}
	return nil
}
