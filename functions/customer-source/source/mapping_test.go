package source

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Their examples are tried when they are read.
func TestMappingsDoWhatTheirExamplesSay(t *testing.T) {
	names := Mappings()
	if diff := cmp.Diff([]string{"crm", "hubspot"}, names); diff != "" {
		t.Errorf("Mappings (-want +got):\n%s", diff)
	}
	for _, name := range names {
		m, err := ReadMapping(name)
		if err != nil {
			t.Error(err)
		} else if m.name != name {
			t.Errorf("mapping %s stands in %s", m.name, m.file)
		}
	}
}

func TestMappingThatIsWrong(t *testing.T) {
	const good = `
mapping: own
customers: /list
columns: {customer_id: /id, name: /name}
paging: {next: /next}
examples: [{body: {list: [{id: 1, name: X}], next: "?p=2"}, customers: [{customer_id: "1", name: X}], next: "https://crm.example/customers?p=2"}]
`
	if _, err := readMapping("own.yaml", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"no YAML", "paging: {", "paging: [", "own.yaml: yaml: line 4: "},
		{"unknown field", "mapping:", "maping:", "line 2: field maping not found"},
		{"no name", "mapping: own", "", "own.yaml: mapping: is missing"},
		{"no list", "customers: /list", "", "own.yaml: customers: is missing"},
		{"no pointer", "/list", "list", `line 3: "list" is no JSON pointer`},
		{"unknown column", "name: /name}", "nmae: /name}", `own.yaml: columns: "nmae" is not one of customer_id, name, sector, country`},
		{"column missing", "customer_id: /id, ", "", "own.yaml: columns: customer_id and name have to be there"},
		{"two ways", "{next: /next}", "{next: /next, link: true}", "own.yaml: paging: has 2 of next, link"},
		{"cursor without parameter", "{next: /next}", "{cursor: {at: /next}}", "own.yaml: paging: cursor: needs at"},
		{"page without parameter", "{next: /next}", "{page: {first: 1}}", "own.yaml: paging: needs parameter"},
		{"size without value", "{next: /next}", "{next: /next, size: {parameter: n}}", "own.yaml: paging: size: needs parameter"},
		{"no example", good[strings.Index(good, "examples:"):], "", "own.yaml: examples: there is none"},
		{"another name", "name: X}]", "name: Y}]", `examples[0]: customers[0]: name is "X", not "Y"`},
		{"another next page", "?p=2\"}]", "?p=3\"}]", `examples[0]: next is "https://crm.example/customers?p=2", not "https://crm.example/customers?p=3"`},
		{"another number", "customers: [{customer_id: \"1\", name: X}], ", "", "examples[0]: gives 1 customers, not 0"},
		{"refused", "id: 1, ", "", `examples[0]: example: row 1: column "customer_id": empty`},
		{"not rejected", "customers: [{customer_id: \"1\", name: X}], ", "rejected: no name, ", `examples[0]: is not rejected for "no name" but for ""`},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := good
			if i := strings.LastIndex(text, c.old); i < 0 {
				t.Fatalf("%q is not in the mapping", c.old)
			} else {
				text = text[:i] + c.new + text[i+len(c.old):]
			}
			_, err := readMapping("own.yaml", []byte(text))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "own.yaml") {
				t.Errorf("readMapping = %v, want %q of own.yaml", err, c.want)
			}
		})
	}
}

// RFC 6901, section 5.
func TestPointer(t *testing.T) {
	doc := map[string]any{"foo": []any{"bar", "baz"}, "": "empty", "a/b": "slash", "m~n": "tilde", "~1": "both", "o": map[string]any{"p": "deep"}}
	for text, want := range map[string]any{
		"/foo/0": "bar", "/foo/1": "baz", "/": "empty", "/a~1b": "slash", "/m~0n": "tilde", "/~01": "both", "/o/p": "deep",
		"/foo/2": nil, "/foo/01": nil, "/foo/-": nil, "/foo/-1": nil, "/foo/bar": nil, "/no/no": nil, "/o/p/q": nil,
	} {
		p, err := parsePointer(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := p.in(doc); got != want {
			t.Errorf("%s gives %v, want %v", text, got, want)
		}
		if got := p.String(); got != text {
			t.Errorf("%s is written as %s", text, got)
		}
	}
	if whole, err := parsePointer(""); err != nil || whole == nil || whole.in("x") != "x" {
		t.Errorf("the whole document: %v, %v", whole, err)
	}
}

func TestLinkNext(t *testing.T) {
	for _, c := range []struct {
		headers []string
		want    string
	}{
		{nil, ""},
		{[]string{""}, ""},
		{[]string{`<a>; rel="next"`}, "a"},
		{[]string{`<a>;rel=next`}, "a"},
		{[]string{`<a>; REL = Next`}, "a"},
		{[]string{`<a>; rel="prev", <b>; rel="next", <c>; rel="next"`}, "b"},
		{[]string{`<a>; rel=prev`, `<b>; rel=next`}, "b"},
		{[]string{`<a,b;c>; title="x, <y>; rel=\"next\""; rel="prev"`}, ""},
		{[]string{`<a,b;c>; title="x, <y>; rel=\"prev\""; rel="last next"`}, "a,b;c"},
		{[]string{`<a>; rel="prev"; rel="next"`}, ""}, // the first rel counts
		{[]string{`<a>; rel="nextish"`}, ""},
		{[]string{`<a>; flag; rel=next`}, "a"},
		{[]string{`<a>; rel="next`}, "a"},
		{[]string{`, <a>; rel=next ,`}, "a"},
		{[]string{`<a>`}, ""},
	} {
		if got, err := linkNext(c.headers); err != nil || got != c.want {
			t.Errorf("linkNext(%q) = %q, %v, want %q", c.headers, got, err, c.want)
		}
	}
	for _, header := range []string{`a; rel=next`, `<a; rel=next`, `<a> b`, ` >`} {
		if got, err := linkNext([]string{header}); err == nil {
			t.Errorf("linkNext(%q) = %q, want an error", header, got)
		}
	}
}

// Whatever a CRM answers is read or refused, and the next page is one of it.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"list": [{"id": 1, "name": "X"}], "next": "?p=2"}`), `<?p=2>; rel="next"`)
	f.Add([]byte(`{"list": [{"id": {}, "name": [1e400]}, null], "next": 1}`), `<//x>; rel=next; a="\`)
	f.Add([]byte(`{"list": []} {}`), `<`)
	f.Add([]byte(`{"list": [], "next": "https://user:password@crm.example/"}`), ``)
	at, err := url.Parse(exampleURL)
	if err != nil {
		f.Fatal(err)
	}
	var mappings []*Mapping
	for _, paging := range []pagingFile{
		{Next: pointer{"next"}}, {Link: true}, {Cursor: &cursorFile{pointer{"next"}, "p"}},
		{Page: &startFile{"p", 1}}, {Offset: &startFile{"p", 0}},
	} {
		m := &Mapping{customers: pointer{"list"}, paging: paging}
		m.columns[0], m.columns[1] = pointer{"id"}, pointer{"name"}
		mappings = append(mappings, m)
	}
	f.Fuzz(func(t *testing.T, body []byte, link string) {
		for _, m := range mappings {
			p, err := m.read(m.first(at), http.Header{"Link": {link}}, body)
			if err == nil && p.next != nil && (!samePlace(at, p.next) || p.next.User != nil) {
				t.Errorf("next = %s", p.next)
			}
		}
	})
}

// What the README shows is a mapping that does what its examples say.
func TestReadmeShowsAMapping(t *testing.T) {
	text, err := os.ReadFile("../../../products/customers/mappings/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "```yaml\n")
	block, _, ok := strings.Cut(block, "```")
	if !ok {
		t.Fatal("the README shows no mapping")
	}
	if _, err := readMapping("README.md", []byte(block)); err != nil {
		t.Error(err)
	}
}
