package scaffold

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/contract"
)

// column is a column of a new table.
type column struct {
	Name     string
	Type     contract.Type
	Key      bool
	Required bool
	Time     bool   // partitions the table
	From     string // as YAML has it; empty: the member of its name
	Purpose  string

	Provenance bool
	Position   int  // in the key, from 1
	Everywhere bool // all samples have it
	Known      bool // a member of the data themselves, another one in each sample
}

// Logical is the logicalType that goes with the type.
func (c column) Logical() string {
	return map[contract.Type]string{
		contract.String: "string", contract.Float64: "number", contract.Int64: "integer",
		contract.Bool: "boolean", contract.Timestamp: "timestamp", contract.JSON: "object",
	}[c.Type]
}

// typeNames are the types as --columns takes them.
var typeNames = map[string]contract.Type{
	"string": contract.String, "float64": contract.Float64, "int64": contract.Int64,
	"bool": contract.Bool, "timestamp": contract.Timestamp, "json": contract.JSON,
}

// parseColumns reads NAME TYPE [key] [required], separated by commas.
func parseColumns(text string) (columns []column, err error) {
	for _, part := range strings.Split(text, ",") {
		words := strings.Fields(part)
		if len(words) < 2 || !identifier.MatchString(words[0]) || typeNames[strings.ToLower(words[1])] == "" {
			return nil, fmt.Errorf("column %q: want NAME TYPE [key] [required], TYPE one of string, float64, int64, bool, timestamp and json", strings.TrimSpace(part))
		}
		c := column{Name: words[0], Type: typeNames[strings.ToLower(words[1])]}
		for _, word := range words[2:] {
			switch word {
			case "key":
				c.Key, c.Required = true, true
			case "required":
				c.Required = true
			default:
				return nil, fmt.Errorf("column %s: %q is neither key nor required", c.Name, word)
			}
		}
		switch {
		case slices.ContainsFunc(columns, func(other column) bool { return other.Name == c.Name }):
			return nil, fmt.Errorf("column %s: there are two of that name", c.Name)
		case slices.Contains(added, c.Name):
			return nil, fmt.Errorf("column %s: leave it out, or call it something else: a column of this name is added", c.Name)
		case slices.Contains(reserved, c.Name):
			return nil, fmt.Errorf("column %s: call it something else: it is a word of SQL, and no name without quotes", c.Name)
		}
		columns = append(columns, c)
	}
	return columns, nil
}

var identifier = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// added are columns that tables get besides their own.
var added = []string{contract.RecordedAt, contract.Deleted, "event_source", "event_id"}

// reserved are words that are names in neither GoogleSQL nor DuckDB's SQL without
// quotes.
var reserved = []string{
	"all", "and", "any", "array", "as", "asc", "between", "by", "case", "cast", "collate", "create", "cross", "cube", "current", "default",
	"desc", "distinct", "else", "end", "enum", "except", "exists", "extract", "false", "fetch", "following", "for", "from", "full", "group",
	"grouping", "groups", "hash", "having", "if", "ignore", "in", "inner", "intersect", "interval", "into", "is", "join", "lateral", "left",
	"like", "limit", "lookup", "merge", "natural", "new", "no", "not", "null", "nulls", "of", "on", "or", "order", "outer", "over",
	"partition", "preceding", "proto", "qualify", "range", "recursive", "respect", "right", "rollup", "rows", "select", "set", "some",
	"struct", "table", "tablesample", "then", "to", "treat", "true", "unbounded", "union", "unnest", "using", "when", "where", "window",
	"with", "within",
	"analyze", "both", "check", "column", "constraint", "describe", "do", "foreign", "grant", "initially", "leading", "offset", "only",
	"pivot", "primary", "references", "returning", "show", "summarize", "symmetric", "trailing", "unique", "unpivot", "user",
}

// found is what samples say of one place in their data.
type found struct {
	pointer string
	tokens  []string
	types   map[contract.Type]bool
	units   map[string]bool // of numbers that may be instants
	n       int             // of samples that have a value there
	values  map[string]bool
}

// infer makes columns of samples of the data of events: of what is in objects a
// column each, of a list one of JSON. Nothing is required: samples do not tell what
// will be missing.
func infer(samples map[string][]byte) ([]column, error) {
	places := map[string]*found{}
	var order []string
	for _, name := range sortedKeys(samples) {
		data := jsontext.Value(samples[name])
		if !data.IsValid() {
			return nil, fmt.Errorf("%s is no JSON", name)
		}
		if data.Kind() != '{' {
			return nil, fmt.Errorf("%s is no JSON object: a sample is the data of an event", name)
		}
		if err := look(data, nil, func(tokens []string, value jsontext.Value) {
			pointer := pointerOf(tokens)
			p := places[pointer]
			if p == nil {
				p = &found{pointer: pointer, tokens: slices.Clone(tokens), types: map[contract.Type]bool{}, units: map[string]bool{}, values: map[string]bool{}}
				places[pointer] = p
				order = append(order, pointer)
			}
			if value.Kind() == 'n' {
				return
			}
			p.n++
			p.values[string(value)] = true
			t, unit := typeOf(tokens[len(tokens)-1], value)
			p.types[t] = true
			if t == contract.Timestamp {
				p.units[unit] = true
			}
		}); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(order) == 0 {
		return nil, errors.New("the samples have no members")
	}
	names := map[string]int{} // how often a last member is one
	for _, pointer := range order {
		names[columnName(places[pointer].tokens, 1)]++
	}
	var columns []column
	for _, pointer := range order {
		p := places[pointer]
		c := column{
			Name: columnName(p.tokens, 1), Type: p.typ(), Everywhere: p.n == len(samples), From: quoteFlow(pointer),
			Purpose: "As " + pointer + " of the data says.", Known: len(p.tokens) == 1 && len(p.values) == len(samples),
		}
		taken := func() bool { return slices.Contains(reserved, c.Name) || slices.Contains(added, c.Name) }
		for n := 2; n <= len(p.tokens) && (names[c.Name] > 1 || taken()); n++ {
			c.Name = columnName(p.tokens, n)
		}
		if taken() || !identifier.MatchString(c.Name) {
			c.Name = "value_" + strings.TrimLeft(c.Name, "_0123456789")
		}
		for base, n := c.Name, 2; slices.ContainsFunc(columns, func(other column) bool { return other.Name == c.Name }); n++ {
			c.Name = base + "_" + strconv.Itoa(n)
		}
		if c.Type == contract.Timestamp && !p.units["s"] && len(p.units) == 1 {
			for unit := range p.units {
				if unit != "" {
					c.From = "{pointer: " + c.From + ", unit: " + unit + "}"
				}
			}
		}
		columns = append(columns, c)
	}
	return columns, nil
}

// typ is the type that takes all values.
func (p *found) typ() contract.Type {
	switch {
	case p.types[contract.JSON]:
		return contract.JSON
	case len(p.types) == 1 && len(p.units) <= 1:
		for t := range p.types {
			return t
		}
	case len(p.types) == 2 && p.types[contract.Int64] && p.types[contract.Float64]:
		return contract.Float64
	}
	return contract.String // takes numbers and truth values as they are written
}

// elements gives the elements of the lists that stand at a JSON Pointer in samples, by
// the names of these; pointer empty: the samples.
func elements(samples map[string][]byte, pointer string) (map[string][]byte, error) {
	if pointer == "" {
		return samples, nil
	}
	out := map[string][]byte{}
	for name, text := range samples {
		var list []jsontext.Value
		value := jsontext.Value(text)
		for token := range jsontext.Pointer(pointer).Tokens() {
			var members map[string]jsontext.Value
			if err := json.Unmarshal(value, &members); err != nil {
				return nil, fmt.Errorf("%s: there is no %s", name, pointer)
			}
			value = members[token]
		}
		if err := json.Unmarshal(value, &list); err != nil || len(list) == 0 {
			return nil, fmt.Errorf("%s: there is no list %s with elements", name, pointer)
		}
		for i, element := range list {
			out[fmt.Sprintf("%s%s/%d", name, pointer, i)] = element
		}
	}
	return out, nil
}

func look(value jsontext.Value, at []string, see func([]string, jsontext.Value)) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(value))
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != '}' {
		token, err := d.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		part, err := d.ReadValue()
		if err != nil {
			return err
		}
		tokens := append(at[:len(at):len(at)], name)
		if part = part.Clone(); part.Kind() == '{' && string(part) != "{}" {
			if err := look(part, tokens, see); err != nil {
				return err
			}
			continue
		}
		see(tokens, part)
	}
	return nil
}

func pointerOf(tokens []string) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(t))
	}
	return b.String()
}

// columnName makes a name of the last n members: device_id of deviceID, too.
func columnName(tokens []string, n int) string {
	var b strings.Builder
	before := '_'
	for _, r := range strings.Join(tokens[max(0, len(tokens)-n):], "_") {
		upper := r >= 'A' && r <= 'Z'
		if upper && before != '_' && (before < 'A' || before > 'Z') {
			b.WriteByte('_')
		}
		before = r
		switch {
		case upper:
			b.WriteRune(r - 'A' + 'a')
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		default:
			b.WriteByte('_')
		}
	}
	return b.String()
}

var timeName = regexp.MustCompile(`(?i)(^|_)(time|timestamp|ts|date|at)$|[a-z](Time|Timestamp|At|Date)$`)

// typeOf is the type of a value, and the unit of a number that is an instant of the
// years 2001 to 2100 by its name and size.
func typeOf(name string, value jsontext.Value) (t contract.Type, unit string) {
	switch value.Kind() {
	case 't', 'f':
		return contract.Bool, ""
	case '"':
		text, _ := jsontext.AppendUnquote(nil, value)
		if _, err := time.Parse(time.RFC3339Nano, string(text)); err == nil {
			return contract.Timestamp, ""
		}
		return contract.String, ""
	case '0':
		f, err := strconv.ParseFloat(string(value), 64)
		if err == nil && timeName.MatchString(name) {
			for unit, per := range map[string]float64{"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9} {
				if f >= 1e9*per && f < 4.2e9*per {
					return contract.Timestamp, unit
				}
			}
		}
		if _, err := strconv.ParseInt(string(value), 10, 64); err == nil {
			return contract.Int64, ""
		}
		return contract.Float64, ""
	}
	return contract.JSON, ""
}

// quoteFlow is a text as a value in a flow of YAML.
func quoteFlow(s string) string {
	if strings.ContainsAny(s, ",:{}[]#&*!|>'\"%@` ") {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return s
}

// samples reads the files of a pattern or a folder. A file has one sample, several one
// behind the other, as NDJSON, or a list of them.
func samples(pattern string) (map[string][]byte, error) {
	patterns := []string{pattern}
	if info, err := os.Stat(pattern); err == nil && info.IsDir() {
		patterns = []string{filepath.Join(pattern, "*.json"), filepath.Join(pattern, "*.ndjson"), filepath.Join(pattern, "*.jsonl")}
	}
	out := map[string][]byte{}
	for _, p := range patterns {
		names, err := filepath.Glob(p)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if err := read(name, out); err != nil {
				return nil, err
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there is no file %s, or nothing in it", pattern)
	}
	return out, nil
}

// read adds the samples of a file, by its name and their place in it.
func read(name string, to map[string][]byte) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(text))
	for i := 0; ; i++ {
		value, err := d.ReadValue()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s is no JSON: %w", name, err)
		}
		list := []jsontext.Value{value.Clone()}
		if value.Kind() == '[' {
			list = nil
			if err := json.Unmarshal(value, &list); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		for j, sample := range list {
			to[fmt.Sprintf("%s, sample %d.%d", name, i+1, j+1)] = sample
		}
	}
}

func sortedKeys(m map[string][]byte) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
