package contract

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Load reads all products of a folder, ordered by name. It reads strictly: a
// member that it does not know, or a value that has no meaning here, is an
// error that names the file and the field.
func Load(folder fs.FS) ([]Product, error) {
	files, err := fs.Glob(folder, "*/product.odps.yaml")
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("load products: no */product.odps.yaml")
	}
	products := make([]Product, 0, len(files))
	contracts := map[string]string{}
	for _, file := range files {
		p, err := loadProduct(folder, file, contracts)
		if err != nil {
			return nil, err
		}
		products = append(products, p)
	}
	return products, checkMadeFrom(products, contracts)
}

// checkMadeFrom looks for the tables that others are made from. Such a table
// has to grow with each row that says something new or is better informed:
// where knowledge has a row take another's place, its version would not tell.
func checkMadeFrom(products []Product, contracts map[string]string) error {
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
				file, field := contracts[t.FullName()], fmt.Sprintf("schema[0].customProperties.madeFrom[%d]", i)
				switch column, ok := knowledge[from]; {
				case !ok:
					return fieldError(file, field, from, "a table of a product")
				case from == t.FullName() || slices.Contains(t.MadeFrom[:i], from):
					return fieldError(file, field, from, "each other table once")
				case column != "":
					return fieldError(file, field, from, "a table without knowledge; it has "+column)
				}
			}
		}
	}
	return nil
}

// The documents hold what the two standards have and Telemesh uses.

type descriptor struct {
	APIVersion       string           `json:"apiVersion"`
	Kind             string           `json:"kind"`
	ID               string           `json:"id"`
	Name             string           `json:"name"`
	Version          string           `json:"version"`
	Status           string           `json:"status"`
	Domain           string           `json:"domain"`
	Description      description      `json:"description"`
	CustomProperties customProperties `json:"customProperties"`
	InputPorts       []port           `json:"inputPorts"`
	OutputPorts      []port           `json:"outputPorts"`
	Team             team             `json:"team"`
}

type description struct {
	Purpose     string `json:"purpose"`
	Usage       string `json:"usage"`
	Limitations string `json:"limitations"`
}

type port struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Version     string `json:"version"`
	ContractID  string `json:"contractId"`
	Description string `json:"description"`
}

type team struct {
	Name string `json:"name"`
}

type dataContract struct {
	APIVersion    string         `json:"apiVersion"`
	Kind          string         `json:"kind"`
	ID            string         `json:"id"`
	Name          string         `json:"name"`
	Version       string         `json:"version"`
	Status        string         `json:"status"`
	Domain        string         `json:"domain"`
	DataProduct   string         `json:"dataProduct"`
	Description   description    `json:"description"`
	Schema        []schemaObject `json:"schema"`
	SLAProperties []sla          `json:"slaProperties"`
	Team          team           `json:"team"`
}

type schemaObject struct {
	Name             string           `json:"name"`
	PhysicalName     string           `json:"physicalName"`
	PhysicalType     string           `json:"physicalType"`
	LogicalType      string           `json:"logicalType"`
	Description      string           `json:"description"`
	Granularity      string           `json:"dataGranularityDescription"`
	CustomProperties customProperties `json:"customProperties"`
	Quality          []quality        `json:"quality"`
	Properties       []property       `json:"properties"`
}

type property struct {
	Name                 string           `json:"name"`
	LogicalType          string           `json:"logicalType"`
	PhysicalType         Type             `json:"physicalType"`
	PrimaryKey           bool             `json:"primaryKey"`
	PrimaryKeyPosition   int              `json:"primaryKeyPosition"`
	Partitioned          bool             `json:"partitioned"`
	PartitionKeyPosition int              `json:"partitionKeyPosition"`
	Required             bool             `json:"required"`
	Classification       string           `json:"classification"`
	Description          string           `json:"description"`
	Quality              []quality        `json:"quality"`
	CustomProperties     customProperties `json:"customProperties"`
}

type quality struct {
	Type        string         `json:"type"`
	Metric      string         `json:"metric"`
	Query       string         `json:"query"`
	Arguments   map[string]any `json:"arguments"`
	MustBe      *float64       `json:"mustBe"`
	Dimension   string         `json:"dimension"`
	Description string         `json:"description"`
}

type sla struct {
	Property    string `json:"property"`
	Value       any    `json:"value"`
	Unit        string `json:"unit"`
	Element     string `json:"element"`
	Driver      string `json:"driver"`
	Description string `json:"description"`
}

type customProperties []struct {
	Property string `json:"property"`
	Value    any    `json:"value"`
}

// flag is false where the property is missing; ok says whether it is a boolean.
func (c customProperties) flag(name string) (value, ok bool) {
	switch v := c.get(name).(type) {
	case nil:
		return false, true
	case bool:
		return v, true
	}
	return false, false
}

func (c customProperties) get(name string) any {
	for _, p := range c {
		if p.Property == name {
			return p.Value
		}
	}
	return nil
}

// logical is the logicalType that goes with each physicalType.
var logical = map[Type]string{
	String: "string", Float64: "number", Int64: "integer", Bool: "boolean", Timestamp: "timestamp", JSON: "object",
}

var identifier = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// loadProduct adds to contracts which file describes each of the tables.
func loadProduct(folder fs.FS, file string, contracts map[string]string) (Product, error) {
	var d descriptor
	if err := read(folder, file, &d); err != nil {
		return Product{}, err
	}
	dir := path.Dir(file)
	p := Product{Name: d.Name, Domain: d.Domain, Schema: strings.ReplaceAll(d.Name, "-", "_"), Owner: d.Team.Name}
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
	case d.Domain == "":
		return p, fieldError(file, "domain", "", "a domain")
	case p.Owner == "":
		return p, fieldError(file, "team.name", "", "the team that owns the product")
	}

	ports := map[string]bool{} // tables of the descriptor; true: has its contract or file
	ids := map[string]string{} // of the contracts that the descriptor names
	for i, out := range d.OutputPorts {
		switch field := fmt.Sprintf("outputPorts[%d]", i); {
		case out.Type == "event":
			p.Events = append(p.Events, out.Name)
		case out.Type == "table" && out.ContractID == "":
			return p, fieldError(file, field+".contractId", "", "the id of the table's contract")
		case out.Type == "table" || out.Type == "view":
			ports[out.Name] = false
			ids[out.Name] = out.ContractID
		default:
			return p, fieldError(file, field+".type", out.Type, "event, table or view")
		}
	}

	files, err := fs.Glob(folder, dir+"/*.odcs.yaml")
	if err != nil {
		return p, err
	}
	for _, file := range files {
		t, id, err := loadTable(folder, file, &p)
		if err != nil {
			return p, err
		}
		if other, ok := contracts[t.FullName()]; ok {
			return p, fmt.Errorf("%s: table %s is also that of %s", file, t.FullName(), other)
		}
		contracts[t.FullName()] = file
		if t.Schema == p.Schema {
			if ids[t.FullName()] != id {
				return p, fmt.Errorf("%s: id %q: no output port %s of %s has this contractId",
					file, id, t.FullName(), path.Join(dir, "product.odps.yaml"))
			}
			ports[t.FullName()] = true
		}
		p.Tables = append(p.Tables, t)
	}
	if err := loadViews(folder, dir, &p, ports); err != nil {
		return p, err
	}
	for name, found := range ports {
		if !found {
			return p, fmt.Errorf("%s: output port %s: no contract and no view of that name in %s", file, name, dir)
		}
	}
	return p, nil
}

func loadTable(folder fs.FS, file string, p *Product) (t Table, id string, err error) {
	var c dataContract
	if err := read(folder, file, &c); err != nil {
		return t, "", err
	}
	switch {
	case c.APIVersion != "v3.1.0":
		return t, "", fieldError(file, "apiVersion", c.APIVersion, "v3.1.0")
	case c.Kind != "DataContract":
		return t, "", fieldError(file, "kind", c.Kind, "DataContract")
	case c.ID == "":
		return t, "", fieldError(file, "id", "", "an id")
	case c.Status == "":
		return t, "", fieldError(file, "status", "", "a status")
	case c.DataProduct != p.Name:
		return t, "", fieldError(file, "dataProduct", c.DataProduct, p.Name)
	case c.Domain != p.Domain:
		return t, "", fieldError(file, "domain", c.Domain, p.Domain)
	case len(c.Schema) != 1:
		return t, "", fmt.Errorf("%s: field schema: %d objects, want one", file, len(c.Schema))
	}
	s := c.Schema[0]
	schema, name, _ := strings.Cut(s.PhysicalName, ".")
	if name != s.Name || !identifier.MatchString(name) || schema != p.Schema && schema != p.Schema+internalSuffix {
		return t, "", fieldError(file, "schema[0].physicalName", s.PhysicalName,
			fmt.Sprintf("%s.%s or %s%s.%[2]s", p.Schema, s.Name, p.Schema, internalSuffix))
	}
	t = Table{Schema: schema, Name: name}
	for property, to := range map[string]*bool{"tombstones": &t.Tombstones, "appendOnly": &t.AppendOnly} {
		var ok bool
		if *to, ok = s.CustomProperties.flag(property); !ok {
			return t, "", fieldError(file, "schema[0].customProperties."+property, fmt.Sprint(s.CustomProperties.get(property)), "true or false")
		}
	}
	if made := s.CustomProperties.get("madeFrom"); made != nil {
		list, _ := made.([]any)
		for _, one := range list {
			name, _ := one.(string)
			t.MadeFrom = append(t.MadeFrom, name)
		}
		if len(list) == 0 || slices.Contains(t.MadeFrom, "") {
			return t, "", fieldError(file, "schema[0].customProperties.madeFrom", fmt.Sprint(made), "a list of tables")
		}
	}
	type position struct {
		column string
		at     int
	}
	var key []position
	for i, c := range s.Properties {
		field := fmt.Sprintf("schema[0].properties[%d]", i)
		want, ok := logical[c.PhysicalType]
		switch {
		case !identifier.MatchString(c.Name) || c.Name == Deleted:
			return t, "", fieldError(file, field+".name", c.Name, "a lower-case name")
		case !ok:
			return t, "", fieldError(file, field+".physicalType", string(c.PhysicalType),
				"STRING, FLOAT64, INT64, BOOL, TIMESTAMP or JSON")
		case c.LogicalType != want:
			return t, "", fieldError(file, field+".logicalType", c.LogicalType, want)
		case c.PrimaryKey && !c.Required:
			return t, "", fieldError(file, field+".required", "false", "true, since "+c.Name+" is part of the key")
		case c.Partitioned && c.PhysicalType != Timestamp:
			return t, "", fieldError(file, field+".partitioned", "true", "false, since the type is not TIMESTAMP")
		case c.Partitioned && t.Time != "":
			return t, "", fieldError(file, field+".partitioned", "true", "one column that partitions; "+t.Time+" does")
		case slices.ContainsFunc(t.Columns, func(other Column) bool { return other.Name == c.Name }):
			return t, "", fieldError(file, field+".name", c.Name, "each name once")
		}
		if c.PrimaryKey {
			key = append(key, position{c.Name, c.PrimaryKeyPosition})
		}
		if c.Partitioned {
			t.Time = c.Name
		}
		column := Column{Name: c.Name, Type: c.PhysicalType, Required: c.Required}
		knowledge := false
		for property, to := range map[string]*bool{"provenance": &column.Provenance, "knowledge": &knowledge} {
			var ok bool
			if *to, ok = c.CustomProperties.flag(property); !ok {
				return t, "", fieldError(file, field+".customProperties."+property, fmt.Sprint(c.CustomProperties.get(property)), "true or false")
			}
		}
		if knowledge {
			if t.Knowledge != "" || c.PhysicalType != Int64 || !c.Required || c.PrimaryKey || column.Provenance || t.MadeFrom == nil {
				return t, "", fieldError(file, field+".customProperties.knowledge", "true",
					"one required column of type INT64, neither key nor provenance, of a table with madeFrom")
			}
			t.Knowledge = c.Name
		}
		t.Columns = append(t.Columns, column)
	}
	if len(key) == 0 {
		return t, "", fmt.Errorf("%s: field schema[0].properties: no primaryKey", file)
	}
	slices.SortFunc(key, func(a, b position) int { return cmp.Compare(a.at, b.at) })
	for _, k := range key {
		t.Key = append(t.Key, k.column)
	}
	switch field := "schema[0].customProperties.appendOnly"; {
	case !t.AppendOnly:
	case !slices.Contains(t.Key, t.Time):
		// What is known of the rows that are there is kept by the time.
		return t, "", fieldError(file, field, "true", "a column that partitions as part of the key")
	case t.Tombstones || t.Knowledge != "" || s.CustomProperties.get("order") != nil:
		return t, "", fieldError(file, field, "true", "neither order, tombstones nor knowledge: nothing takes a row's place")
	}
	switch order := s.CustomProperties.get("order"); order {
	case nil:
	case Revision, Version:
		t.Order = order.(string)
		at := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == t.Order })
		if at < 0 || t.Knowledge == t.Order || t.Columns[at].Type != Int64 || !t.Columns[at].Required {
			return t, "", fieldError(file, "schema[0].customProperties.order", t.Order, "a required column of type INT64")
		}
	default:
		return t, "", fieldError(file, "schema[0].customProperties.order", fmt.Sprint(order), "revision or version")
	}
	return t, c.ID, nil
}

func loadViews(folder fs.FS, dir string, p *Product, ports map[string]bool) error {
	files, err := fs.Glob(folder, dir+"/views/*.sql")
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
		if _, ok := ports[v.Schema+"."+v.Name]; !ok {
			return fmt.Errorf("%s: %s.%s is no output port of %s", file, v.Schema, v.Name, path.Join(dir, "product.odps.yaml"))
		}
		ports[v.Schema+"."+v.Name] = true
		sql, err := fs.ReadFile(folder, file)
		if err != nil {
			return err
		}
		v.SQL, v.DuckDB = string(sql), string(sql)
		sql, err = fs.ReadFile(folder, strings.TrimSuffix(file, ".sql")+".duckdb.sql")
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

func read(folder fs.FS, file string, into any) error {
	b, err := fs.ReadFile(folder, file)
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(b, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func fieldError(file, field, got, want string) error {
	return fmt.Errorf("%s: field %s: %q, want %s", file, field, got, want)
}
