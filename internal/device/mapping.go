package device

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/internal/formula"
	"github.com/telemesh/telemesh/internal/mesh"
)

// Mapping says how JSON messages of a form that no reader knows are read. Its
// parts are expressions in CEL, https://cel.dev; the README beside the mappings
// of products/iot-telemetry explains it to those who write one. A mapping is a
// reader like those of the table: it is chosen by the same rules, and a message
// that fits it and another one is rejected.
//
// Any number of Parsers may share a Mapping. Its expressions are compiled when
// the first message has its members: that takes longer than a function takes
// to start.
type Mapping struct {
	Name string

	file     string
	has      [][]string // members, each by the names on the way to it
	parts    parts
	terms    map[string]term // of units, by metric
	examples []example

	compile func() error // once
}

// parts are the expressions of a mapping, nil where it has none.
type parts struct {
	when, each, device, time, metrics, attributes *expression
}

// mappingFile is a mapping as YAML.
type mappingFile struct {
	Mapping     string            `yaml:"mapping"`
	Description string            `yaml:"description"`
	Has         []string          `yaml:"has"`
	When        yaml.Node         `yaml:"when"`
	Each        yaml.Node         `yaml:"each"`
	Device      yaml.Node         `yaml:"device"`
	Time        yaml.Node         `yaml:"time"`
	Metrics     yaml.Node         `yaml:"metrics"`
	Units       map[string]string `yaml:"units"`
	Attributes  yaml.Node         `yaml:"attributes"`
	Examples    []exampleFile     `yaml:"examples"`
}

// ReadMappings reads the mappings of a folder, *.yaml, in the order of the
// files' names. An error names file and line; name is what the folder is called
// in it. Whether the expressions are CEL and do what they should is for
// CheckMappings to say.
func ReadMappings(folder fs.FS, name string) ([]*Mapping, error) {
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		return nil, fmt.Errorf("read mappings of %s: %w", name, err)
	}
	var mappings []*Mapping
	var errs []error
	for _, entry := range entries {
		if ext := path.Ext(entry.Name()); ext != ".yaml" && ext != ".yml" {
			continue
		}
		text, err := fs.ReadFile(folder, entry.Name())
		if err != nil {
			errs = append(errs, fmt.Errorf("read mappings of %s: %w", name, err))
			continue
		}
		m, err := readMapping(filepath.Join(name, entry.Name()), text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		mappings = append(mappings, m)
	}
	return mappings, errors.Join(append(errs, Distinct(mappings))...)
}

// Distinct says which mappings have the name of an earlier one.
func Distinct(mappings []*Mapping) error {
	var errs []error
	files := map[string]string{}
	for _, m := range mappings {
		if other, taken := files[m.Name]; taken {
			errs = append(errs, fmt.Errorf("%s:1: mapping %s: %s has this name already", m.file, m.Name, other))
		}
		files[m.Name] = m.file
	}
	return errors.Join(errs...)
}

var (
	mappingName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	yamlLine    = regexp.MustCompile(`^(?:yaml: )?line (\d+): `)
)

func readMapping(file string, text []byte) (*Mapping, error) {
	var f mappingFile
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&f); err != nil {
		return nil, yamlErrors(file, err)
	}
	at := func(line int, format string, args ...any) error {
		return fmt.Errorf("%s:%d: %w", file, max(line, 1), fmt.Errorf(format, args...))
	}
	m := &Mapping{Name: f.Mapping, file: file, terms: map[string]term{}}
	m.compile = sync.OnceValue(m.build)
	switch {
	case !mappingName.MatchString(f.Mapping):
		return nil, at(1, "mapping: %q is no name of a format: lower-case words joined by -, as in acme-window", f.Mapping)
	case slices.ContainsFunc(append([]*reader{&plain, &topicValue}, table()...), func(r *reader) bool { return r.format == f.Mapping }):
		return nil, at(1, "mapping: there is a reader %s: choose another name", f.Mapping)
	case len(f.Has) == 0:
		return nil, at(1, "has: names no member: the message is recognized by those that it always has")
	case f.Metrics.IsZero():
		return nil, at(1, "metrics: is missing: it says what the message measures")
	case len(f.Examples) == 0:
		return nil, at(1, "examples: there is none: `telemesh check` tries the mapping on them")
	}
	for _, has := range f.Has {
		way := strings.Split(has, ".")
		if slices.Contains(way, "") {
			return nil, at(1, "has: %q is no member: names joined by ., as in deviceInfo.deviceId", has)
		}
		m.has = append(m.has, way)
	}
	for name, unit := range f.Units {
		m.terms[name] = term{unit: unit}
	}
	for _, part := range []struct {
		field string
		node  *yaml.Node
		to    **expression
		kinds []types.Kind
	}{
		{"when", &f.When, &m.parts.when, []types.Kind{types.BoolKind}},
		{"each", &f.Each, &m.parts.each, []types.Kind{types.ListKind}},
		{"device", &f.Device, &m.parts.device, []types.Kind{types.StringKind, types.DoubleKind, types.IntKind, types.UintKind, types.NullTypeKind}},
		{"time", &f.Time, &m.parts.time, []types.Kind{types.StringKind, types.DoubleKind, types.IntKind, types.UintKind, types.TimestampKind, types.NullTypeKind}},
		{"metrics", &f.Metrics, &m.parts.metrics, []types.Kind{types.MapKind, types.ListKind}},
		{"attributes", &f.Attributes, &m.parts.attributes, []types.Kind{types.MapKind}},
	} {
		if part.node.IsZero() {
			continue
		}
		if part.node.Kind != yaml.ScalarNode {
			return nil, at(part.node.Line, "%s: is no text: it holds an expression in CEL, with | or in quotes where YAML would take it for something else", part.field)
		}
		*part.to = &expression{field: part.field, text: part.node.Value, kinds: part.kinds, file: file, line: part.node.Line, each: !f.Each.IsZero() && part.field != "each" && part.field != "when"}
		if part.node.Style&yaml.LiteralStyle != 0 {
			(*part.to).line++ // the text begins below the |
			(*part.to).lines = true
		}
	}
	for i := range f.Examples {
		e, err := f.Examples[i].read(file)
		if err != nil {
			return nil, fmt.Errorf("%w (examples[%d])", err, i)
		}
		m.examples = append(m.examples, e)
	}
	return m, nil
}

// yamlErrors names the file and the line as other errors do.
func yamlErrors(file string, err error) error {
	var several *yaml.TypeError
	if !errors.As(err, &several) {
		several = &yaml.TypeError{Errors: []string{err.Error()}}
	}
	var errs []error
	for _, e := range several.Errors {
		line := "1"
		if found := yamlLine.FindStringSubmatch(e); found != nil {
			line, e = found[1], e[len(found[0]):]
		}
		e = strings.ReplaceAll(strings.ReplaceAll(e, " in type device.mappingFile", " in a mapping"), " in type device.exampleFile", " in an example")
		errs = append(errs, fmt.Errorf("%s:%s: %s", file, line, strings.TrimPrefix(e, "yaml: ")))
	}
	return errors.Join(errs...)
}

// Compile says which expressions are no CEL.
func (m *Mapping) Compile() error { return errors.Join(m.findings(m.compile())...) }

// build compiles the expressions.
func (m *Mapping) build() error {
	var errs []error
	for _, e := range []*expression{m.parts.when, m.parts.each, m.parts.device, m.parts.time, m.parts.metrics, m.parts.attributes} {
		if e != nil {
			errs = append(errs, e.compile())
		}
	}
	return errors.Join(errs...)
}

// reader is the mapping as p's reader.
func (m *Mapping) reader(p *Parser) *reader {
	return &reader{
		format: m.Name,
		marks:  []string{m.has[0][0]}, // the object has all of them or is another's
		shaped: func(d *document, i int32) bool {
			for _, way := range m.has {
				if d.at(i, way...) == 0 {
					return false
				}
			}
			if m.parts.when == nil {
				return true
			}
			holds, err := m.when(&scope{p: p, d: d, root: i})
			return holds || err != nil // read will say it
		},
		read: func(p *Parser, i int32) error { return m.read(p, i) },
	}
}

func (m *Mapping) when(s *scope) (bool, error) {
	if err := m.compile(); err != nil {
		return false, err
	}
	v, err := s.evaluate(m.parts.when)
	if err != nil {
		return false, err
	}
	holds, ok := v.(types.Bool)
	if !ok {
		return false, m.parts.when.is(v, "true or false")
	}
	return bool(holds), nil
}

// read reads object i of p.doc.
func (m *Mapping) read(p *Parser, i int32) error {
	if err := m.compile(); err != nil {
		return err
	}
	s := &scope{p: p, d: p.doc, root: i}
	if m.parts.when != nil && p.m.Format == "" {
		if _, err := m.when(s); err != nil {
			return err
		}
	}
	if m.parts.each == nil {
		return m.object(s)
	}
	v, err := s.evaluate(m.parts.each)
	if err != nil {
		return err
	}
	list, ok := v.(traits.Lister)
	if !ok {
		return m.parts.each.is(v, "a list")
	}
	for at := range int(list.Size().(types.Int)) {
		if at > 0 {
			p.finish()
			p.begin()
		}
		readings, skipped := len(p.out), p.skipped
		s.it = list.Get(types.Int(at))
		if err := m.object(s); err != nil {
			return fmt.Errorf("element %d of each: %w", at, err)
		}
		if len(p.out) == readings && p.skipped == skipped {
			p.skipped++
		}
	}
	return nil
}

// object reads what has its device and time in common.
func (m *Mapping) object(s *scope) error {
	p := s.p
	p.due++
	p.terms = m.terms
	device, err := s.device(m.parts.device)
	if err != nil {
		return err
	}
	if err := p.device(device); err != nil {
		return err
	}
	if err := s.time(m.parts.time); err != nil {
		return err
	}
	if e := m.parts.attributes; e != nil {
		v, err := s.evaluate(e)
		if err != nil {
			return err
		}
		if err := s.attributes(e, v); err != nil {
			return err
		}
	}
	v, err := s.evaluate(m.parts.metrics)
	if err != nil {
		return err
	}
	if list, ok := v.(traits.Lister); ok {
		for at := range int(list.Size().(types.Int)) {
			if err := s.metric(m.parts.metrics, list.Get(types.Int(at))); err != nil {
				return err
			}
		}
		return nil
	}
	if _, ok := v.(traits.Mapper); !ok {
		return m.parts.metrics.is(v, "a map or a list")
	}
	return s.put(m.parts.metrics, nil, v)
}

// device gives the device that e says, "" if it says none.
func (s *scope) device(e *expression) (string, error) {
	if e == nil {
		return "", nil
	}
	v, err := s.evaluate(e)
	if err != nil {
		return "", err
	}
	switch v := v.(type) {
	case types.String:
		return string(v), nil
	case types.Double, types.Int, types.Uint:
		return string(appendNumber(nil, v)), nil
	case types.Null:
		return "", nil
	}
	return "", e.is(v, "a string or a number")
}

// time takes the time that e says, else that of the transport.
func (s *scope) time(e *expression) error {
	if e == nil {
		return s.p.untimed()
	}
	v, err := s.evaluate(e)
	if err != nil {
		return err
	}
	var text []byte
	switch v := v.(type) {
	case types.Timestamp:
		at := mesh.At(v.Time)
		if !InRange(at) {
			return e.cause(fmt.Errorf("%s is not in the years 1970 to 2261", at))
		}
		s.p.observed(at)
		return nil
	case types.String:
		text = []byte(v)
	case types.Double, types.Int, types.Uint:
		text = appendNumber(nil, v)
	case types.Null:
	default:
		return e.is(v, "a string, a number or a timestamp")
	}
	at, set, err := parseTime(text, s.p.zone)
	switch {
	case err != nil:
		return e.cause(err)
	case set:
		s.p.observed(at)
		return nil
	}
	return s.p.untimed()
}

// attributes gives the readings of the object the attributes of v.
func (s *scope) attributes(e *expression, v ref.Val) error {
	if _, none := v.(types.Null); none {
		return nil
	}
	if _, ok := v.(traits.Mapper); !ok {
		return e.is(v, "a map")
	}
	return members(e, v, func(name string, v ref.Val) error {
		if _, none := v.(types.Null); none {
			return nil
		}
		raw, err := s.appendJSON(e, nil, v)
		if err == nil {
			s.p.attributeJSON([]byte(name), raw)
		}
		return err
	})
}

// metric reads an element of a list of metrics.
func (s *scope) metric(e *expression, v ref.Val) error {
	m, ok := v.(traits.Mapper)
	if !ok {
		return e.is(v, `a list of {"metric", "value", "unit"}`)
	}
	field := func(name string) ref.Val {
		if v, ok := m.Find(types.String(name)); ok {
			return formula.Unwrap(v)
		}
		return types.NullValue
	}
	name, ok := field("metric").(types.String)
	if !ok {
		return e.cause(fmt.Errorf(`"metric" is %s, not a string`, formula.Called(field("metric"))))
	}
	switch unit := field("unit").(type) {
	case types.String:
		return s.quantity(e, []byte(name), field("value"), ucum(string(unit)))
	case types.Null:
		return s.put(e, []byte(name), field("value"))
	default:
		return e.cause(fmt.Errorf(`"unit" of %s is %s, not a string`, quote(string(name)), formula.Called(unit)))
	}
}

// put reads value v of a name below p.path as member reads JSON.
func (s *scope) put(e *expression, name []byte, v ref.Val) error {
	p := s.p
	outer := p.push(name)
	defer func() { p.path = p.path[:outer] }()
	switch v := v.(type) {
	case *jsonObject:
		p.path = p.path[:outer]
		return p.member(v.i, name)
	case traits.Mapper:
		if value, ok := v.Find(types.String("value")); ok && len(p.path) > 0 && v.Size() == types.Int(2) {
			if unit, ok := v.Find(types.String("unit")); ok && unit.Type() == types.StringType && formula.IsNumber(formula.Unwrap(value)) {
				return s.scalar(e, formula.Unwrap(value), ucum(string(unit.(types.String))))
			}
		}
		return members(e, v, func(name string, v ref.Val) error { return s.put(e, []byte(name), v) })
	case traits.Lister:
		for i := range int(v.Size().(types.Int)) {
			if err := s.put(e, strconv.AppendInt(nil, int64(i), 10), formula.Unwrap(v.Get(types.Int(i)))); err != nil {
				return err
			}
		}
		return nil
	default:
		return s.scalar(e, v, "")
	}
}

// quantity reads value v, whose unit is told.
func (s *scope) quantity(e *expression, name []byte, v ref.Val, unit string) error {
	outer := s.p.push(name)
	defer func() { s.p.path = s.p.path[:outer] }()
	return s.scalar(e, v, unit)
}

// scalar adds value v, which has the name p.path, as a reading.
func (s *scope) scalar(e *expression, v ref.Val, unit string) error {
	p := s.p
	var r mesh.Reading
	switch v := v.(type) {
	case types.Null:
		p.skipped++
		return nil
	case types.Double, types.Int, types.Uint:
		if !isFinite(v) || !setNumber(&r, appendNumber(nil, v)) {
			p.skipped++
			return nil
		}
	case types.Bool:
		r.Kind = mesh.Boolean
		if v {
			r.Value = 1
		}
	case types.String:
		r.Kind, r.ValueString = mesh.Text, string(v)
	default:
		return e.cause(fmt.Errorf("%s is %s, which is no value of a metric: make a number, a boolean or a string of it", quote(p.path), formula.Called(v)))
	}
	if len(p.path) == 0 {
		p.skipped++
		return nil
	}
	n, err := p.known(p.path)
	if err != nil {
		return e.cause(err)
	}
	if t, ok := p.terms[n.text]; ok && unit == "" {
		unit = t.unit
	}
	if err := p.add(r, n, n, unit); err != nil {
		return e.cause(err)
	}
	return nil
}
