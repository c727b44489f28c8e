package scaffold

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/manifest"
)

// Product is what NewProduct is told.
type Product struct {
	Dir     string // of the mesh
	Name    string // transactions
	Domain  string // finance
	Kind    string // source or consumer
	Owner   string // team; empty: DOMAIN-team
	Purpose string
	Event   string   // type of the events that bring the rows; empty: dev.telemesh.NAME.received.v1, with dots for -
	Columns string   // NAME TYPE [key] [required], …; empty: Like tells
	Like    string   // file, folder or pattern of samples of the data of such events
	RowsAt  string   // JSON Pointer to the list of rows in the data; empty: the data are one row, or have them in rows
	Key     string   // columns of the key, separated by commas; empty: what looks like one, or the id of the event
	In      []string // output ports that a consumer reads
	View    string   // file with the query of a consumer's view; empty: all columns of In
}

// data is what the templates are told.
type data struct {
	Product
	Table, Schema string
	Columns       []column
	Key           []string // of the table
	Time          string   // column that the levels are of
	Partitioned   bool
	Inputs        []port
	Aligned       string
	View, Tenant  string // name of the view, and the column of it that says whose a row is
	Namespace     string // where the Trigger stands
	Broker        string
	Rows          string
}

// port is an output port that is read.
type port struct {
	Name, Contract, Version string
	table                   *contract.Table
	columns                 []string
	tenant                  string
}

// NewProduct makes a product: a source-aligned one has a table that events fill; a
// consumer-aligned one a view of the tables that it reads, or a table that the events
// of a port fill.
func NewProduct(p Product) (Report, error) {
	f, err := open(p.Dir)
	if err != nil {
		return Report{}, err
	}
	return f.do(func() error { return f.product(p) })
}

func (f *folder) product(p Product) error {
	if err := CheckName("product", p.Name); err != nil {
		return err
	}
	switch schema := strings.ReplaceAll(p.Name, "-", "_"); {
	case p.Name == "telemesh" || strings.HasSuffix(p.Name, "-internal"):
		return fmt.Errorf("product %q: its dataset would be that of the platform or of another product", p.Name)
	case slices.Contains(reserved, schema):
		return fmt.Errorf("product %q: call it something else: %s is a word of SQL, and no name of a schema without quotes", p.Name, schema)
	}
	if f.has("products/" + p.Name) {
		return fmt.Errorf("%s is there already", filepath.Join(f.dir, "products", p.Name))
	}
	if p.Domain == "" {
		return fmt.Errorf("product %s: of which domain?", p.Name)
	}
	p.Owner = cmp.Or(p.Owner, p.Domain+"-team")
	if p.Purpose = strings.TrimSpace(p.Purpose); p.Purpose != "" && !strings.HasSuffix(p.Purpose, ".") {
		p.Purpose += "."
	}
	d := data{Product: p, Schema: strings.ReplaceAll(p.Name, "-", "_"), Namespace: p.Domain, Broker: p.Domain}
	d.Table = d.Schema
	all, err := f.products()
	if err != nil {
		return err
	}
	if err := f.domain(p.Domain); err != nil {
		return err
	}
	switch p.Kind {
	case "source":
		d.Aligned = "source-aligned"
		if len(p.In) > 0 || p.View != "" {
			return fmt.Errorf("product %s: a source-aligned product reads no port: --in and --view are of kind consumer", p.Name)
		}
		d.Event = cmp.Or(p.Event, "dev.telemesh."+strings.ReplaceAll(p.Name, "-", ".")+".received.v1")
		if err := checkType(d.Event); err != nil {
			return err
		}
		if brokers, err := f.brokersOf(d.Event); err != nil || len(brokers) > 0 {
			return cmp.Or(err, fmt.Errorf("event type %s comes to Broker %v already: another product's events", d.Event, brokers))
		}
		if err := f.outputs(p.Domain, d.Event); err != nil {
			return err
		}
		d.Inputs = []port{{Name: p.Name + "-events", Contract: d.Event, Version: "1.0.0"}}
		return f.table(d)
	case "consumer":
		d.Aligned = "consumer-aligned"
		if len(p.In) == 0 {
			return fmt.Errorf("product %s: a consumer-aligned product reads a port: name it by --in", p.Name)
		}
		return f.consumer(d, all)
	}
	return fmt.Errorf("product %s: kind %q: want source or consumer", p.Name, p.Kind)
}

// table makes the table of a product, which a Service of warehouse-sink fills.
func (f *folder) table(d data) error {
	if err := d.setColumns(); err != nil {
		return err
	}
	folder := "products/" + d.Name + "/"
	for _, file := range []struct{ name, template string }{
		{folder + "product.odps.yaml", "product.odps.yaml"},
		{folder + d.Table + ".odcs.yaml", "table.odcs.yaml"},
		{"config/" + d.Name + "-sink.yaml", "sink.yaml"},
		{"triggers/" + d.Name + "-sink.yaml", "sink-trigger.yaml"},
	} {
		if err := f.render(file.name, file.template, d); err != nil {
			return err
		}
	}
	if err := f.network("warehouse", d.Domain, d.Name+"-sink"); err != nil {
		return err
	}
	if err := f.wake(); err != nil {
		return err
	}
	f.Next = append(f.Next,
		"a row is known by "+strings.Join(d.Key, ", ")+", and another one with the same takes its place: primaryKey of the contract says so",
		"read "+filepath.Join(f.dir, folder)+" and say there what the columns mean, how they are classified and who may read them",
		fmt.Sprintf("send events of type %s to Broker %s/%s", d.Event, d.Broker, d.Namespace),
	)
	return nil
}

func (d *data) setColumns() error {
	switch {
	case (d.Product.Columns == "") == (d.Like == ""):
		return fmt.Errorf("product %s: columns are told by one of --columns and --like", d.Name)
	case d.Like != "":
		texts, err := samples(d.Like)
		if err != nil {
			return err
		}
		if texts, err = elements(texts, d.RowsAt); err != nil {
			return err
		}
		if d.Columns, err = infer(texts); err != nil {
			return err
		}
		d.Rows = "One event."
		if d.RowsAt != "" {
			d.Rows = "One element of " + d.RowsAt + " in the data of an event."
		}
	default:
		var err error
		if d.Columns, err = parseColumns(d.Product.Columns); err != nil {
			return err
		}
		d.Rows = "One element of " + cmp.Or(d.RowsAt, "/rows") + " in the data of an event."
		for i := range d.Columns {
			if c := &d.Columns[i]; d.RowsAt != "" {
				c.From = "/" + c.Name
			}
		}
	}
	if err := d.setKey(); err != nil {
		return err
	}
	for i := range d.Columns {
		c := &d.Columns[i]
		if c.Type == contract.Timestamp && d.Time == "" && (c.Required || c.Everywhere) {
			c.Time, c.Required, d.Time, d.Partitioned = true, true, c.Name, true
		}
		c.Purpose = cmp.Or(c.Purpose, title(c.Name)+".")
	}
	if (d.Like != "" || d.RowsAt != "") && !slices.Contains(d.Key, byID.Name) {
		for _, c := range []column{bySource, byID} {
			c.Provenance = true
			d.Columns = append(d.Columns, c)
		}
	}
	d.Columns = append(d.Columns, column{Name: contract.RecordedAt, Type: contract.Timestamp, Required: true, Purpose: "When this row was written. The warehouse sets it."})
	d.Time = cmp.Or(d.Time, contract.RecordedAt)
	return nil
}

// bySource and byID are the columns that tell one event from another.
var (
	bySource = column{Name: "event_source", Type: contract.String, From: "{attribute: source}", Purpose: "Who sent the event that brought the row."}
	byID     = column{Name: "event_id", Type: contract.String, From: "{attribute: id}", Purpose: "The event that brought the row."}
)

// setKey says what tells one row from another.
func (d *data) setKey() error {
	var wanted []string
	if d.Product.Key != "" {
		for _, name := range strings.Split(d.Product.Key, ",") {
			wanted = append(wanted, strings.TrimSpace(name))
		}
	}
	for _, c := range d.Columns {
		if len(wanted) == 0 && c.Key {
			d.Key = append(d.Key, c.Name)
		}
	}
	if len(wanted) == 0 && len(d.Key) == 0 {
		// A part of the data has an id of its own, as the customer of an order: it is
		// not looked for there.
		for _, name := range []string{"id", strings.TrimSuffix(d.Schema, "s") + "_id", "uuid", "hash", "key"} {
			at := slices.IndexFunc(d.Columns, func(c column) bool {
				return (c.Name == name || c.From == "/"+name) && (c.Known && c.Everywhere || c.Required) && (c.Type == contract.String || c.Type == contract.Int64)
			})
			if at >= 0 && len(wanted) == 0 {
				wanted = []string{d.Columns[at].Name}
			}
		}
		switch {
		case len(wanted) > 0:
		case d.Like != "" && d.RowsAt == "":
			d.Columns = append([]column{bySource, byID}, d.Columns...)
			wanted = []string{bySource.Name, byID.Name}
		default:
			return fmt.Errorf("product %s: what tells one row from another? Name columns by --key", d.Name)
		}
	}
	for _, name := range wanted {
		at := slices.IndexFunc(d.Columns, func(c column) bool { return c.Name == name })
		if at < 0 {
			var names []string
			for _, c := range d.Columns {
				names = append(names, c.Name)
			}
			return fmt.Errorf("key %s: there is no such column; there are %s", name, strings.Join(names, ", "))
		}
		d.Key = append(d.Key, name)
	}
	for i := range d.Columns {
		if at := slices.Index(d.Key, d.Columns[i].Name); at >= 0 {
			d.Columns[i].Key, d.Columns[i].Required, d.Columns[i].Position = true, true, at+1
		}
	}
	return nil
}

// consumer makes a product that reads ports of others.
func (f *folder) consumer(d data, all []contract.Product) error {
	var events []string
	for _, name := range d.In {
		in, event, err := find(all, name)
		if err != nil {
			return err
		}
		if event {
			events = append(events, name)
		}
		d.Inputs = append(d.Inputs, in)
	}
	if len(events) == 0 {
		return f.view(d)
	}
	if len(d.In) > 1 || d.Product.View != "" {
		return fmt.Errorf("product %s: a port of events fills a table, and is read alone: make a product for each", d.Name)
	}
	if d.Product.Event != "" && d.Product.Event != events[0] {
		return fmt.Errorf("product %s: the events are those of the port, %s", d.Name, events[0])
	}
	d.Event = events[0]
	brokers, err := f.brokersOf(d.Event)
	if err != nil {
		return err
	}
	if len(brokers) == 0 {
		return fmt.Errorf("port %s: no Broker has its events", d.Event)
	}
	at := max(0, slices.Index(brokers, manifest.Ref{Namespace: d.Domain, Name: d.Domain}))
	d.Namespace, d.Broker = brokers[at].Namespace, brokers[at].Name
	return f.table(d)
}

// find gives an output port by its name, and says whether it is of events.
func find(all []contract.Product, name string) (in port, event bool, err error) {
	var names []string
	for i := range all {
		p := &all[i]
		for _, out := range p.Ports {
			names = append(names, out.Name)
			if out.Name != name {
				continue
			}
			in = port{Name: strings.NewReplacer(".", "-", "_", "-").Replace(name), Contract: name, Version: out.Version}
			for j := range p.Tables {
				t := &p.Tables[j]
				if t.FullName() != name {
					continue
				}
				in.Name, in.Contract, in.table, in.tenant = strings.ReplaceAll(t.Name, "_", "-"), t.ID, t, t.Tenant
				for _, c := range t.Columns {
					in.columns = append(in.columns, c.Name)
				}
			}
			for _, v := range p.Views {
				if v.FullName() == name {
					in.tenant = v.Tenant
				}
			}
			return in, out.Type == "event", nil
		}
	}
	return in, false, fmt.Errorf("there is no output port %s; there are %s", name, strings.Join(names, ", "))
}

// view makes a product of one view.
func (f *folder) view(d data) error {
	folder := "products/" + d.Name + "/"
	if d.Product.Columns+d.Like+d.Product.Event+d.RowsAt != "" {
		return fmt.Errorf("product %s: its rows are those of a view: --columns, --like, --rows and --event are of tables", d.Name)
	}
	d.View = d.Schema
	texts := map[string][]byte{}
	if d.Product.View != "" {
		file := strings.TrimSuffix(d.Product.View, ".duckdb.sql")
		file = strings.TrimSuffix(file, ".sql")
		d.View = strings.ReplaceAll(base(file, ""), "-", "_")
		for _, suffix := range []string{".sql", ".duckdb.sql"} {
			text, err := os.ReadFile(file + suffix)
			if os.IsNotExist(err) && suffix != ".sql" {
				continue
			}
			if err != nil {
				return err
			}
			texts[suffix] = text
		}
		if !identifier.MatchString(d.View) {
			return fmt.Errorf("view %q: name the file in lower-case words joined by _", d.View)
		}
	} else {
		if len(d.In) > 1 {
			return fmt.Errorf("product %s: how several ports become one is told by a query: name its file by --view", d.Name)
		}
		columns := "*"
		if in := d.Inputs[0]; in.columns != nil {
			columns = strings.Join(in.columns, ", ")
		}
		texts[".sql"] = fmt.Appendf(nil, "SELECT %s\nFROM %s\n", columns, d.In[0])
	}
	for _, in := range d.Inputs {
		if in.tenant != "" {
			d.Tenant = in.tenant
		}
	}
	if err := f.render(folder+"product.odps.yaml", "product.odps.yaml", d); err != nil {
		return err
	}
	for suffix, text := range texts {
		if err := f.create(folder+"views/"+d.View+suffix, text); err != nil {
			return err
		}
	}
	f.Next = append(f.Next, "read "+filepath.Join(f.dir, folder)+" and say there what its rows are for")
	return nil
}
