package source

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/products"
)

// columns is what a mapping finds for each customer, in the order of a record.
var columns = [...]string{"customer_id", "name", "sector", "country"}

// Mapping says where the answers of a CRM hold what: by JSON pointers (RFC
// 6901), those of columns from the customer on.
type Mapping struct {
	name      string
	customers pointer
	columns   [len(columns)]pointer // nil: the CRM has none
	paging    pagingFile
	examples  []exampleFile
	file      string
}

// mappingFile is a mapping as YAML.
type mappingFile struct {
	Mapping     string             `yaml:"mapping"`
	Description string             `yaml:"description"`
	Customers   pointer            `yaml:"customers"` // the list of a page
	Columns     map[string]pointer `yaml:"columns"`
	Paging      pagingFile         `yaml:"paging"`
	Examples    []exampleFile      `yaml:"examples"`
}

// pagingFile says how to come from one page to the next one; at most one way,
// none if one answer holds all customers.
type pagingFile struct {
	Next   pointer     `yaml:"next"`   // where an answer has the address of the next page
	Link   bool        `yaml:"link"`   // its Link header has it (RFC 8288, rel=next)
	Cursor *cursorFile `yaml:"cursor"` // an answer says what the next request has to repeat
	Page   *startFile  `yaml:"page"`   // pages are numbered; the first without customers is behind the last
	Offset *startFile  `yaml:"offset"` // a page begins behind so many customers; so is its end
	Size   *sizeFile   `yaml:"size"`   // what asks for pages of a size
}

type cursorFile struct {
	At        pointer `yaml:"at"`
	Parameter string  `yaml:"parameter"`
}

type startFile struct {
	Parameter string `yaml:"parameter"`
	First     int    `yaml:"first"`
}

type sizeFile struct {
	Parameter string `yaml:"parameter"`
	Value     int    `yaml:"value"`
}

// exampleFile is an answer and what comes of it.
type exampleFile struct {
	Body      any                 `yaml:"body"`
	Link      string              `yaml:"link"` // the header
	Customers []map[string]string `yaml:"customers"`
	Next      string              `yaml:"next"`     // address of the next page, where the first one is exampleURL
	Rejected  string              `yaml:"rejected"` // part of a reason
}

const exampleURL = "https://crm.example/customers"

// pointer is a JSON pointer, taken apart. The whole document is one without
// names, which is not nil.
type pointer []string

func parsePointer(text string) (pointer, error) {
	p := pointer{}
	if text == "" {
		return p, nil
	}
	if text[0] != '/' {
		return nil, fmt.Errorf("%q is no JSON pointer (RFC 6901): /name of a member, /name/name of one in it", text)
	}
	for name := range strings.SplitSeq(text[1:], "/") {
		p = append(p, strings.NewReplacer("~1", "/", "~0", "~").Replace(name))
	}
	return p, nil
}

// UnmarshalYAML reads a JSON pointer.
func (p *pointer) UnmarshalYAML(n *yaml.Node) error {
	var text string
	err := n.Decode(&text)
	if err == nil {
		if *p, err = parsePointer(text); err != nil {
			err = fmt.Errorf("line %d: %w", n.Line, err)
		}
	}
	return err
}

func (p pointer) String() string {
	var b strings.Builder
	for _, name := range p {
		b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
	}
	return b.String()
}

// in gives what p points to in v, nil if there is nothing.
func (p pointer) in(v any) any {
	for _, name := range p {
		switch of := v.(type) {
		case map[string]any:
			v = of[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(of) || strconv.Itoa(i) != name {
				return nil
			}
			v = of[i]
		default:
			return nil
		}
	}
	return v
}

// ReadMapping reads the mapping of that name of the data product customers, or
// the one in the file of that path, and tries it on its examples. An error
// names the file.
func ReadMapping(name string) (*Mapping, error) {
	if !strings.ContainsAny(name, `./\`) {
		file := "customers/mappings/" + name + ".yaml"
		if text, err := products.FS.ReadFile(file); err == nil {
			return readMapping("products/"+file, text)
		}
		return nil, fmt.Errorf("there is no mapping %q: choose one of %s, or give the path of a file", name, strings.Join(Mappings(), ", "))
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return readMapping(name, text)
}

// Mappings is the names of the mappings of the data product customers.
func Mappings() []string {
	entries, err := products.FS.ReadDir("customers/mappings")
	if err != nil {
		panic(err) // the folder is embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

func readMapping(file string, text []byte) (*Mapping, error) {
	var f mappingFile
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&f); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	m := &Mapping{name: f.Mapping, file: file, customers: f.Customers, paging: f.Paging, examples: f.Examples}
	wrong := func(format string, args ...any) (*Mapping, error) {
		return nil, fmt.Errorf("%s: %w", file, fmt.Errorf(format, args...))
	}
	for name, at := range f.Columns {
		i := slices.Index(columns[:], name)
		if i < 0 {
			return wrong("columns: %q is not one of %s", name, strings.Join(columns[:], ", "))
		}
		m.columns[i] = at
	}
	ways := 0
	for _, there := range []bool{f.Paging.Next != nil, f.Paging.Link, f.Paging.Cursor != nil, f.Paging.Page != nil, f.Paging.Offset != nil} {
		if there {
			ways++
		}
	}
	switch p := f.Paging; {
	case f.Mapping == "":
		return wrong("mapping: is missing: it names the mapping")
	case f.Customers == nil:
		return wrong(`customers: is missing: it points to the list of customers; "" where the answer is the list`)
	case m.columns[0] == nil || m.columns[1] == nil:
		return wrong("columns: customer_id and name have to be there")
	case ways > 1:
		return wrong("paging: has %d of next, link, cursor, page and offset: there is one way to the next page", ways)
	case p.Cursor != nil && (p.Cursor.Parameter == "" || p.Cursor.At == nil):
		return wrong("paging: cursor: needs at, where the answer has it, and parameter, what the request calls it")
	case p.Page != nil && p.Page.Parameter == "", p.Offset != nil && p.Offset.Parameter == "":
		return wrong("paging: needs parameter: what the request calls it")
	case p.Size != nil && (p.Size.Parameter == "" || p.Size.Value < 1):
		return wrong("paging: size: needs parameter and a value from 1")
	case len(f.Examples) == 0:
		return wrong("examples: there is none: the mapping is tried on them")
	}
	return m, m.check()
}

// record is what an answer says of a customer, for each column a cell of a
// sheet.Grid.
type record [len(columns)]any

// grid gives records as a sheet, whose rows are numbered from 1.
func grid(name string, records []record) sheet.Grid {
	header := sheet.Row{}
	for _, column := range columns {
		header.Cells = append(header.Cells, column)
	}
	g := sheet.Grid{Name: name, Rows: append(make([]sheet.Row, 0, 1+len(records)), header)}
	for i, r := range records {
		row := sheet.Row{Number: i + 1, Cells: r[:]}
		if r == (record{}) { // a sheet has empty rows, a list has not: it would look deleted
			row.Broken = "it has none of the columns"
		}
		g.Rows = append(g.Rows, row)
	}
	return g
}

// page is one answer of a CRM.
type page struct {
	records []record
	next    *url.URL // nil: it is the last one
}

// first is the address of the first page.
func (m *Mapping) first(u *url.URL) *url.URL {
	query := url.Values{}
	if s := m.paging.Size; s != nil {
		query.Set(s.Parameter, strconv.Itoa(s.Value))
	}
	for _, s := range []*startFile{m.paging.Page, m.paging.Offset} {
		if s != nil {
			query.Set(s.Parameter, strconv.Itoa(s.First))
		}
	}
	return with(u, query)
}

// with gives u with parameters in place of its own of the same name.
func with(u *url.URL, parameters url.Values) *url.URL {
	if len(parameters) == 0 {
		return u
	}
	out, query := *u, u.Query()
	for name, values := range parameters {
		query[name] = values
	}
	out.RawQuery = query.Encode()
	return &out
}

// read reads the answer from address at.
func (m *Mapping) read(at *url.URL, header http.Header, body []byte) (*page, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber() // an id of 17 digits is no float64
	var answer any
	err := decoder.Decode(&answer)
	if err == nil {
		if _, more := decoder.Token(); more != io.EOF {
			err = errors.New("there is something behind its end")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the answer is no JSON: %w", err)
	}
	list, ok := m.customers.in(answer).([]any)
	if !ok {
		return nil, fmt.Errorf("the answer has no list at %s: mapping %s does not fit it", cmp.Or(m.customers.String(), "its top"), m.name)
	}
	p := &page{records: make([]record, len(list))}
	for i, customer := range list {
		for c, at := range m.columns {
			if at != nil {
				p.records[i][c] = cell(at.in(customer))
			}
		}
	}
	p.next, err = m.next(at, header, answer, len(list))
	return p, err
}

// other is a JSON value that is no cell: no sheet takes it. It is what it is
// called, for the finding; its content may be anything.
type other string

// cell gives a JSON value as a cell.
func cell(v any) any {
	switch v := v.(type) {
	case json.Number:
		return v.String()
	case []any:
		return other("a list")
	case map[string]any:
		return other("an object")
	}
	return v
}

// next gives the address of the page behind the one at.
func (m *Mapping) next(at *url.URL, header http.Header, answer any, length int) (*url.URL, error) {
	text := func(p pointer) (string, error) {
		switch v := cell(p.in(answer)).(type) {
		case nil:
			return "", nil
		case string:
			return v, nil
		default:
			return "", fmt.Errorf("the answer's %s, which tells the next page, is neither text nor number", p)
		}
	}
	number := func(s *startFile, plus int) (*url.URL, error) {
		if length == 0 {
			return nil, nil
		}
		now, err := strconv.Atoi(at.Query().Get(s.Parameter))
		return with(at, url.Values{s.Parameter: {strconv.Itoa(now + plus)}}), err
	}
	switch p := m.paging; {
	case p.Next != nil:
		link, err := text(p.Next)
		if err != nil {
			return nil, err
		}
		return follow(at, link)
	case p.Link:
		link, err := linkNext(header.Values("Link"))
		if err != nil {
			return nil, err
		}
		return follow(at, link)
	case p.Cursor != nil:
		cursor, err := text(p.Cursor.At)
		if err != nil || cursor == "" {
			return nil, err
		}
		return with(at, url.Values{p.Cursor.Parameter: {cursor}}), nil
	case p.Page != nil:
		return number(p.Page, 1)
	case p.Offset != nil:
		// Not by the size that was asked for: a CRM may give less.
		return number(p.Offset, length)
	}
	return nil, nil
}

// follow resolves a link, which must not leave the place that the credentials
// are meant for.
func follow(at *url.URL, link string) (*url.URL, error) {
	if link == "" {
		return nil, nil
	}
	to, err := url.Parse(link)
	if err != nil {
		return nil, errors.New("the link to the next page is no URL") // which the error would quote, with its secrets
	}
	to = at.ResolveReference(to)
	to.User, to.Fragment = nil, ""
	if !samePlace(at, to) {
		return nil, fmt.Errorf("the link to the next page leads to %s://%s: what is read of %s://%s is not asked for there", to.Scheme, to.Host, at.Scheme, at.Host)
	}
	return to, nil
}

func samePlace(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

// linkNext gives the target of the first link with the relation next in Link
// headers, "" if there is none (RFC 8288, section 3).
func linkNext(headers []string) (string, error) {
	rest := strings.Join(headers, ", ")
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			return "", nil
		}
		target, parameters, ok := strings.Cut(rest, ">")
		if !ok || !strings.HasPrefix(target, "<") {
			return "", errors.New("the header Link is no list of links as of RFC 8288")
		}
		var next bool
		rest = parameters
		for first := true; ; {
			rest = strings.TrimLeft(rest, " \t")
			if !strings.HasPrefix(rest, ";") {
				break
			}
			var name, value string
			name, value, rest = parameter(rest[1:])
			if name == "rel" && first { // of several the first counts: section 3.3
				first = false
				next = slices.ContainsFunc(strings.Fields(value), func(rel string) bool { return strings.EqualFold(rel, "next") })
			}
		}
		if rest != "" && rest[0] != ',' {
			return "", errors.New("the header Link is no list of links as of RFC 8288")
		}
		if next {
			return target[1:], nil
		}
	}
}

// parameter reads name=value, the value a token or in quotes.
func parameter(s string) (name, value, rest string) {
	s = strings.TrimLeft(s, " \t")
	end := strings.IndexAny(s, "=;, \t")
	if end < 0 {
		return strings.ToLower(s), "", ""
	}
	name, rest = strings.ToLower(s[:end]), strings.TrimLeft(s[end:], " \t")
	if !strings.HasPrefix(rest, "=") {
		return name, "", rest
	}
	rest = strings.TrimLeft(rest[1:], " \t")
	if !strings.HasPrefix(rest, `"`) {
		if end = strings.IndexAny(rest, ";, \t"); end < 0 {
			end = len(rest)
		}
		return name, rest[:end], rest[end:]
	}
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch {
		case rest[i] == '"':
			return name, b.String(), rest[i+1:]
		case rest[i] == '\\' && i+1 < len(rest):
			i++
		}
		b.WriteByte(rest[i])
	}
	return name, b.String(), ""
}

// check says which examples come out differently from what they say.
func (m *Mapping) check() error {
	u, err := url.Parse(exampleURL)
	if err != nil {
		return err
	}
	var errs []error
	for i := range m.examples {
		if err := m.try(u, &m.examples[i]); err != nil {
			errs = append(errs, fmt.Errorf("%s: examples[%d]: %w", m.file, i, err))
		}
	}
	return errors.Join(errs...)
}

func (m *Mapping) try(u *url.URL, e *exampleFile) error {
	body, err := json.Marshal(e.Body)
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	header := http.Header{}
	if e.Link != "" {
		header.Set("Link", e.Link)
	}
	p, err := m.read(m.first(u), header, body)
	var found []string
	if err != nil {
		found = append(found, err.Error())
	} else {
		customers, err := sheet.Customers.Read(grid("example", p.records))
		if err != nil {
			return err
		}
		for _, f := range customers.Findings {
			found = append(found, sheet.Describe(f))
		}
	}
	switch said := strings.Join(found, "; "); {
	case e.Rejected != "" && !strings.Contains(said, e.Rejected):
		return fmt.Errorf("is not rejected for %q but for %q", e.Rejected, said)
	case e.Rejected != "":
		return nil
	case said != "":
		return errors.New(said)
	case len(p.records) != len(e.Customers):
		return fmt.Errorf("gives %d customers, not %d", len(p.records), len(e.Customers))
	}
	for i, r := range p.records {
		for c, name := range columns {
			got := ""
			if r[c] != nil {
				got = fmt.Sprint(r[c])
			}
			if want := e.Customers[i][name]; got != want {
				return fmt.Errorf("customers[%d]: %s is %q, not %q", i, name, got, want)
			}
		}
	}
	var next string
	if p.next != nil {
		next = p.next.String()
	}
	if next != e.Next {
		return fmt.Errorf("next is %q, not %q", next, e.Next)
	}
	return nil
}
