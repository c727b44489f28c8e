package device

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/internal/mesh"
)

// exampleFile is a message and what comes of it.
type exampleFile struct {
	Payload    yaml.Node         `yaml:"payload"`
	Device     string            `yaml:"device"`
	Attributes map[string]string `yaml:"attributes"`
	ReceivedAt string            `yaml:"received_at"`
	Readings   []readingFile     `yaml:"readings"`
	Rejected   string            `yaml:"rejected"`
}

type readingFile struct {
	Device     string    `yaml:"device"`
	Time       string    `yaml:"time"`
	Metric     string    `yaml:"metric"`
	Value      yaml.Node `yaml:"value"`
	Unit       string    `yaml:"unit"`
	Attributes yaml.Node `yaml:"attributes"`
}

type example struct {
	line     int
	message  mesh.Message
	readings []wanted
	rejected string
}

type wanted struct {
	line       int
	reading    mesh.Reading
	attributes bool // are told
}

// exampleReceived is when the message of an example is received that does not
// say it.
const exampleReceived = "2026-01-01T00:00:00Z"

func (f *exampleFile) read(file string) (example, error) {
	e := example{line: f.Payload.Line, rejected: f.Rejected}
	at := func(line int, format string, args ...any) (example, error) {
		return e, fmt.Errorf("%s:%d: %w", file, max(line, 1), fmt.Errorf(format, args...))
	}
	switch {
	case f.Payload.IsZero():
		return at(1, "payload: is missing")
	case (f.Rejected == "") == (len(f.Readings) == 0):
		return at(e.line, "an example has either readings or rejected, a part of the cause")
	}
	payload, err := appendYAML(nil, &f.Payload)
	if f.Payload.Kind == yaml.ScalarNode && f.Payload.Tag == "!!str" {
		payload = []byte(f.Payload.Value)
	}
	if err != nil {
		return at(e.line, "payload: %w", err)
	}
	received, err := time.Parse(time.RFC3339Nano, cmp.Or(f.ReceivedAt, exampleReceived))
	if err != nil {
		return at(e.line, "received_at: %q is no time as in %s", f.ReceivedAt, exampleReceived)
	}
	e.message = mesh.Message{
		ID: "example", Source: "/example", DeviceID: f.Device,
		Attributes: f.Attributes, Payload: payload, ReceivedAt: mesh.At(received),
	}
	for _, r := range f.Readings {
		w := wanted{line: cmp.Or(r.Value.Line, e.line), attributes: !r.Attributes.IsZero()}
		observed, err := time.Parse(time.RFC3339Nano, r.Time)
		if err != nil {
			return at(w.line, "readings: time: %q is no time as in %s", r.Time, exampleReceived)
		}
		w.reading = mesh.Reading{DeviceID: r.Device, ObservedAt: mesh.At(observed), Metric: r.Metric, Unit: r.Unit}
		switch r.Value.ShortTag() {
		case "!!int", "!!float":
			if w.reading.Value, err = strconv.ParseFloat(r.Value.Value, 64); err != nil {
				return at(w.line, "readings: value: %q is no number", r.Value.Value)
			}
		case "!!bool":
			w.reading.Kind = mesh.Boolean
			if r.Value.Value == "true" {
				w.reading.Value = 1
			}
		case "!!str", "!!timestamp":
			w.reading.Kind, w.reading.ValueString = mesh.Text, r.Value.Value
		default:
			return at(w.line, "readings: value: has to be a number, a boolean or a string")
		}
		if w.attributes {
			attributes, err := appendYAML(nil, &r.Attributes)
			if err != nil {
				return at(w.line, "readings: attributes: %w", err)
			}
			w.reading.Attributes = string(attributes)
		}
		e.readings = append(e.readings, w)
	}
	return e, nil
}

// appendYAML writes YAML as JSON, members in their order and numbers as they
// are written.
func appendYAML(b []byte, n *yaml.Node) ([]byte, error) {
	var err error
	switch n.Kind {
	case yaml.AliasNode:
		return appendYAML(b, n.Alias)
	case yaml.MappingNode:
		b = append(b, '{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = jsontext.AppendQuote(b, n.Content[i].Value); err != nil {
				return b, err
			}
			if b, err = appendYAML(append(b, ':'), n.Content[i+1]); err != nil {
				return b, err
			}
		}
		return append(b, '}'), nil
	case yaml.SequenceNode:
		b = append(b, '[')
		for i, c := range n.Content {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendYAML(b, c); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	}
	switch n.ShortTag() {
	case "!!null":
		return append(b, "null"...), nil
	case "!!bool", "!!int", "!!float":
		if !json.Valid([]byte(n.Value)) {
			return b, fmt.Errorf("line %d: %s is no JSON", n.Line, n.Value)
		}
		return append(b, n.Value...), nil
	}
	return jsontext.AppendQuote(b, n.Value)
}

// CheckMappings says which expressions of mappings are no CEL, and which of
// their examples come out differently from what they say, read with all
// mappings there are: also those that another reader might take.
func CheckMappings(dictionary *Dictionary, mappings []*Mapping) []error {
	var findings []error
	for _, m := range mappings {
		if err := m.compile(); err != nil {
			findings = append(findings, m.findings(err)...)
			continue
		}
		for i := range m.examples {
			p := NewParser(dictionary, mappings...)
			findings = append(findings, m.try(p, &m.examples[i])...)
		}
	}
	return findings
}

// findings are errors of expressions with their places in front.
func (m *Mapping) findings(err error) []error {
	var findings []error
	if err == nil {
		return nil
	}
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range several.Unwrap() {
			findings = append(findings, m.findings(e)...)
		}
		return findings
	}
	if e := (*expressionError)(nil); errors.As(err, &e) {
		return []error{fmt.Errorf("%s: mapping %s: %s: %w", e.place, m.Name, e.field, e.err)}
	}
	return []error{fmt.Errorf("%s:1: mapping %s: %w", m.file, m.Name, err)}
}

func (m *Mapping) try(p *Parser, e *example) []error {
	at := func(line int, format string, args ...any) error {
		return fmt.Errorf("%s:%d: mapping %s: %w", m.file, line, m.Name, fmt.Errorf(format, args...))
	}
	readings, _, err := p.Parse(nil, &e.message)
	var cause *Error
	switch {
	case errors.As(err, &cause) && e.rejected != "" && cause.Reader == m.Name && strings.Contains(cause.Error(), e.rejected):
		return nil
	case errors.As(err, &cause) && e.rejected != "":
		return []error{at(e.line, "the example is rejected by %q: %w, not by the mapping for %q", cause.Reader, err, e.rejected)}
	case err != nil:
		return []error{at(e.line, "the example is rejected: %w", err)}
	case p.reader.format != m.Name:
		return []error{at(e.line, "the example is read as %s: see has and when", p.reader.format)}
	case e.rejected != "":
		return []error{at(e.line, "the example gives %d readings and is not rejected for %q", len(readings), e.rejected)}
	}
	var findings []error
	for _, w := range e.readings {
		same := func(r mesh.Reading) bool {
			return readingText(&r, w.attributes) == readingText(&w.reading, w.attributes)
		}
		if i := slices.IndexFunc(readings, same); i >= 0 {
			readings = slices.Delete(readings, i, i+1)
			continue
		}
		findings = append(findings, at(w.line, "the example does not give %s", readingText(&w.reading, w.attributes)))
	}
	for i := range readings {
		findings = append(findings, at(e.line, "the example gives besides %s", readingText(&readings[i], true)))
	}
	return findings
}

// readingText is a reading as an example writes it.
func readingText(r *mesh.Reading, attributes bool) string {
	value := strconv.FormatFloat(r.Value, 'g', -1, 64)
	switch r.Kind {
	case mesh.Boolean:
		value = strconv.FormatBool(r.Value == 1)
	case mesh.Text:
		value = strconv.Quote(r.ValueString)
	}
	s := fmt.Sprintf("{device: %s, time: %s, metric: %s, value: %s", r.DeviceID, r.ObservedAt, r.Metric, value)
	if r.Unit != "" {
		s += ", unit: " + strconv.Quote(r.Unit)
	}
	if attributes && r.Attributes != "" && r.Attributes != "{}" {
		v := jsontext.Value(r.Attributes)
		if v.Canonicalize() == nil {
			s += ", attributes: " + string(v)
		}
	}
	return s + "}"
}
