package scaffold

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/policy"
)

func TestInfer(t *testing.T) {
	got, err := infer(map[string][]byte{
		"a": []byte(`{"id": 1, "order": {"id": "x", "placedAt": "2026-01-01T00:00:00Z"}, "at": 1767225600000, "n": 1, "mixed": "text", "list": [1], "ok": true, "from": "here", "empty": {}, "a/b~c": 1}`),
		"b": []byte(`{"id": 2, "order": {"id": "y", "placedAt": "2026-01-02T00:00:00+01:00"}, "at": 1767225600001, "n": 1.5, "mixed": 7, "list": null, "from": null, "more": -1, "orderURL": "x", "IDs": 3}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range got {
		line := c.Name + " " + string(c.Type) + " " + c.From
		if c.Everywhere {
			line += " everywhere"
		}
		lines = append(lines, line)
	}
	if diff := cmp.Diff([]string{
		"id INT64 /id everywhere",
		"order_id STRING /order/id everywhere", // two members are called id
		"placed_at TIMESTAMP /order/placedAt everywhere",
		"at TIMESTAMP {pointer: /at, unit: ms} everywhere",
		"n FLOAT64 /n everywhere",
		"mixed STRING /mixed everywhere",
		"list JSON /list",
		"ok BOOL /ok",
		"value_from STRING /from", // a word of SQL
		"empty JSON /empty",
		"a_b_c INT64 /a~1b~0c",
		"more INT64 /more",
		"order_url STRING /orderURL",
		"ids INT64 /IDs",
	}, lines); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"a":`} {
		if _, err := infer(map[string][]byte{"a": []byte(bad)}); err == nil {
			t.Errorf("infer(%s) gives no error", bad)
		}
	}
}

func TestElements(t *testing.T) {
	samples := map[string][]byte{"a": []byte(`{"x": {"list": [{"n": 1}, {"n": 2}]}}`)}
	got, err := elements(samples, "/x/list")
	if err != nil || len(got) != 2 || string(got["a/x/list/1"]) != `{"n": 2}` {
		t.Errorf("elements = %q, %v", got, err)
	}
	for _, pointer := range []string{"/x", "/y", "/x/list/n"} {
		if _, err := elements(samples, pointer); err == nil {
			t.Errorf("elements at %s: no error", pointer)
		}
	}
}

func TestSamples(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.json": `{"n": 1}`, "b.ndjson": "{\"n\": 2}\n{\"n\": 3}\n", "c.json": `[{"n": 4}, {"n": 5}]`, "d.txt": "no JSON"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, want := range map[string]string{
		dir:                            `{"n": 1} {"n": 2} {"n": 3} {"n": 4} {"n": 5}`,
		filepath.Join(dir, "b.ndjson"): `{"n": 2} {"n": 3}`,
		filepath.Join(dir, "*.txt"):    "",
		filepath.Join(dir, "e*"):       "",
	} {
		got, err := samples(pattern)
		var texts []string
		for _, name := range sortedKeys(got) {
			texts = append(texts, string(got[name]))
		}
		if strings.Join(texts, " ") != want || (err == nil) != (want != "") {
			t.Errorf("samples(%s) = %s, %v, want %s", pattern, texts, err, want)
		}
	}
}

// Rows that have the same key are one row. What samples do not show to be a key is none.
func TestKeys(t *testing.T) {
	for _, test := range []struct {
		samples []string
		rowsAt  string
		want    string
	}{
		{[]string{`{"id": 1, "v": 2}`, `{"id": 2, "v": 2}`}, "", "id"},
		{[]string{`{"id": 1, "v": 2}`, `{"id": 1, "v": 3}`}, "", "event_source event_id"},
		{[]string{`{"customer": {"id": 1}, "amount": 5}`}, "", "event_source event_id"},
		{[]string{`{"readingID": 1, "hash": "a"}`}, "", "reading_id"},
		{[]string{`{"uuid": "a", "other": {"uuid": "b"}}`}, "", "uuid"},
		{[]string{`{"list": [{"hash": "a"}, {"hash": "b"}]}`}, "/list", "value_hash"},
		{[]string{`{"list": [{"v": 1}, {"v": 2}]}`}, "/list", ""}, // each event has several
		{[]string{`{"list": [{"id": 1}, {"id": 1}]}`}, "/list", ""},
	} {
		dir := t.TempDir()
		for i, text := range test.samples {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		d := data{Product: Product{Name: "readings", Like: dir, RowsAt: test.rowsAt}, Schema: "readings"}
		err := d.setColumns()
		if got := strings.Join(d.Key, " "); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("key of %s = %q, %v, want %q", test.samples, got, err, test.want)
		}
	}
}

// A domain is there when its Broker is, in whatever file.
func TestDomainInAnyFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	if _, err := NewMesh(dir); err != nil {
		t.Fatal(err)
	}
	p := Product{Dir: dir, Name: "orders", Domain: "sales", Kind: "source", Columns: "order_id string key"}
	if _, err := NewProduct(p); err != nil {
		t.Fatal(err)
	}
	all := filepath.Join(dir, "brokers", "all.yaml")
	if err := os.Rename(filepath.Join(dir, "brokers", "sales.yaml"), all); err != nil {
		t.Fatal(err)
	}
	p.Name = "returns"
	if _, err := NewProduct(p); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(all); err != nil || !strings.Contains(string(text), "dev.telemesh.returns.received.v1") {
		t.Errorf("its Broker does not name the new type: %v\n%s", err, text)
	}
	// The file of the name has no Broker.
	p.Name, p.Domain = "late", "broker-ingress"
	if _, err := NewProduct(p); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("NewProduct of domain %s = %v, want an error", p.Domain, err)
	}
}

func TestParseColumns(t *testing.T) {
	for _, bad := range []string{"", "a", "a text", "A string", "a string, a int64", "a string primary"} {
		if _, err := parseColumns(bad); err == nil {
			t.Errorf("parseColumns(%q) gives no error", bad)
		}
	}
}

const descriptor = `# Of the crm-team.
name: customers
outputPorts:
  - name: a # the table
    type: table
    # Said of a.
    description: >-
      In more than
      one line.

  - name: b
    type: event
    customProperties:
      - {property: tenantAttribute, value: tenantid}
    description: Events.
  - name: c
    customProperties:
      - property: consumers
        value:
          - {name: first, since: '2026-01-01', version: 1.0.0}
# The end.
team:
  name: crm-team
`

// A consumer is added, and every line that was there stays.
func TestAddConsumer(t *testing.T) {
	reader := contract.Reader{Name: "report", Since: "2026-11-21", Version: "1.0.0"}
	for _, port := range []string{"a", "b", "c"} {
		got, err := addConsumer(descriptor, port, reader)
		if err != nil {
			t.Fatal(err)
		}
		rest := strings.Split(got, "\n")
		for _, line := range strings.Split(descriptor, "\n") {
			at := -1
			for i := range rest {
				if rest[i] == line {
					at = i
					break
				}
			}
			if at < 0 {
				t.Fatalf("%s: line %q is gone:\n%s", port, line, got)
			}
			rest = rest[at+1:]
		}
		var d struct {
			OutputPorts []struct {
				Name             string
				CustomProperties []struct {
					Property string
					Value    yaml.Node
				} `yaml:"customProperties"`
			} `yaml:"outputPorts"`
		}
		if err := yaml.Unmarshal([]byte(got), &d); err != nil {
			t.Fatalf("%s: %v\n%s", port, err, got)
		}
		found := 0
		for _, p := range d.OutputPorts {
			for _, property := range p.CustomProperties {
				if property.Property != "consumers" {
					continue
				}
				var readers []contract.Reader
				if err := property.Value.Decode(&readers); err != nil {
					t.Fatal(err)
				}
				for _, r := range readers {
					if r == reader && p.Name == port {
						found++
					} else if r == reader {
						t.Errorf("%s: stands with port %s", port, p.Name)
					}
				}
			}
		}
		if found != 1 {
			t.Errorf("%s: %d consumers, want one:\n%s", port, found, got)
		}
		again, err := addConsumer(got, port, contract.Reader{Name: "report", Since: "2027-01-01", Version: "1.0.0"})
		if err != nil || again != got {
			t.Errorf("%s: recorded twice: %v\n%s", port, err, again)
		}
		// Who reads another version now says so by subscribing again.
		later, err := addConsumer(got, port, contract.Reader{Name: "report", Since: "2027-01-01", Version: "2.0.0"})
		if want := strings.Replace(got, "{name: report, since: '2026-11-21', version: 1.0.0}", "{name: report, since: '2026-11-21', version: 2.0.0}", 1); err != nil || later != want || want == got {
			t.Errorf("%s: of another version: %v\n%s", port, err, later)
		}
	}
	if _, err := addConsumer(descriptor, "d", reader); err == nil {
		t.Error("a port that is not there: no error")
	}
}

// tree is all files of a folder.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			out[file] = "folder"
			return nil
		}
		text, err := os.ReadFile(file)
		out[file] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// After an error the folder is as it was, whatever was written by then.
func TestErrorsLeaveNothingBehind(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	if _, err := NewMesh(dir); err != nil {
		t.Fatal(err)
	}
	source := Product{Dir: dir, Name: "orders", Domain: "sales", Kind: "source", Columns: "id string key"}
	if _, err := NewProduct(source); err != nil {
		t.Fatal(err)
	}
	// Written at last, and in the way.
	if err := os.WriteFile(filepath.Join(dir, "triggers", "returns-sink.yaml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	view := filepath.Join(t.TempDir(), "late.sql")
	if err := os.WriteFile(view, []byte("SELECT id FROM orders.orders"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	with := func(change func(*Product)) Product {
		p := source
		p.Name, p.Domain = "returns", "service"
		change(&p)
		return p
	}
	for want, p := range map[string]Product{
		"orders is there already":      source,
		"returns-sink.yaml is there":   with(func(p *Product) {}),
		"one of --columns and --like":  with(func(p *Product) { p.Like = "testdata" }),
		"there is no file":             with(func(p *Product) { p.Columns, p.Like = "", "nowhere" }),
		"name columns by --key":        with(func(p *Product) { p.Columns = "a string" }),
		"want source or consumer":      with(func(p *Product) { p.Kind = "sink" }),
		"want lower-case words":        with(func(p *Product) { p.Domain = "Service" }),
		"of which domain":              with(func(p *Product) { p.Domain = "" }),
		"the last of them the version": with(func(p *Product) { p.Event = "returned" }),
		"another product's events":     with(func(p *Product) { p.Event = "dev.telemesh.orders.received.v1" }),
		"reads no port":                with(func(p *Product) { p.View = view }),
		"name it by --in":              with(func(p *Product) { p.Kind = "consumer" }),
		"those of a view":              with(func(p *Product) { p.Kind, p.In = "consumer", []string{"orders.orders"} }),
		"no such file": with(func(p *Product) {
			p.Kind, p.In, p.Columns, p.View = "consumer", []string{"orders.orders"}, "", "nowhere.sql"
		}),
		"leave it out, or call it":          with(func(p *Product) { p.Columns += ", event_id string" }),
		"it is a word of sql":               with(func(p *Product) { p.Columns += ", order int64" }),
		"select is a word of sql":           with(func(p *Product) { p.Name = "select" }),
		"duckdb has schemas of its own":     with(func(p *Product) { p.Name = "pg-catalog" }),
		"yaml takes it for no text":         with(func(p *Product) { p.Name = "y" }),
		"its dataset would be that":         with(func(p *Product) { p.Name = "orders-internal" }),
		"at most 40 characters":             with(func(p *Product) { p.Name = strings.Repeat("a", 41) }),
		"there is no output port orders.it": with(func(p *Product) { p.Kind, p.In = "consumer", []string{"orders.it"} }),
	} {
		if _, err := NewProduct(p); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
			t.Errorf("NewProduct = %v, want an error with %q", err, want)
		}
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Fatalf("%s: the folder changed:\n%s", want, diff)
		}
	}
	if _, err := NewMesh(dir); err == nil {
		t.Error("NewMesh in a folder that is not empty: no error")
	}
}

func TestPackageNames(t *testing.T) {
	for _, word := range []string{"", "go", "type", "string", "new", "json", "b2", "Join"} {
		if isPackageName(word) {
			t.Errorf("a package can be called %q", word)
		}
	}
	if !isPackageName("join") {
		t.Error("no package can be called join")
	}
}

// A mesh has policies of its own, which say nothing of what it has not.
func TestPoliciesOfMesh(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	if _, err := NewMesh(dir); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "config", "policies")
	all, faults, err := policy.Load(folder, os.DirFS(folder))
	if err != nil || len(faults) > 0 {
		t.Fatal(faults, err)
	}
	builtIn, _, err := policy.Load("", config.Policies)
	if err != nil || len(all) != len(builtIn) {
		t.Fatalf("%d policies, %v, want %d", len(all), err, len(builtIn))
	}
	var excepted []string
	for i, p := range all {
		if len(p.Cases) != len(builtIn[i].Cases) || p.Why != builtIn[i].Why {
			t.Errorf("policy %s is another one than that built in", p.Name)
		}
		for _, e := range p.Exceptions {
			excepted = append(excepted, p.Name+" "+e.Object)
		}
	}
	if diff := cmp.Diff([]string{"confidential-rows-have-a-tenant event_log.events", "service-stays-inside platform/portal"}, excepted); diff != "" {
		t.Errorf("exceptions (-want +got)\n%s", diff)
	}
}

func TestRegister(t *testing.T) {
	const before = `// Package functions is the table.
package functions

import (
	"embed"

	"example.org/mesh/functions/a-join/join"
	"example.org/mesh/functions/z-sink/sink"
	"example.org/mesh/internal/function"
)

// Table is the functions.
var Table = map[string]function.Start{
	"a-join": join.Start, // the first
	"z-sink": sink.Start,
}

var _ embed.FS
`
	for _, test := range []struct {
		name, word string
		want       []string
	}{
		{"m-count", "count", []string{`"a-join":  join.Start, // the first` + "\n\t" + `"m-count": count.Start,` + "\n\t" + `"z-sink":  sink.Start,`, `	"example.org/mesh/functions/m-count/count"`}},
		{"join", "join", []string{`"join":   join2.Start,`, `	join2 "example.org/mesh/functions/join/join"`}},
		{"zz-join", "join", []string{`"zz-join": zzjoin.Start,` + "\n}", `	zzjoin "example.org/mesh/functions/zz-join/join"`}},
		{"a-aim", "aim", []string{`Start{` + "\n\t" + `"a-aim":  aim.Start,`}},
	} {
		got, err := register(before, functionData{Function: Function{Name: test.name}, Module: "example.org/mesh", Word: test.word})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", test.name, want, got)
			}
		}
	}
	if _, err := register("package functions\n", functionData{}); err == nil {
		t.Error("a file without a table: no error")
	}
}
