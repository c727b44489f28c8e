// Package standard holds the documents of data products against the JSON
// schemas of their two standards, which those publish: ODPS v1.0.0 of a
// descriptor and ODCS v3.1.0 of a contract. They are no part of this repository.
package standard

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"sigs.k8s.io/yaml"
)

// files are the schemas by the end of the names of the documents.
var files = map[string]string{
	".odps.yaml": "odps-json-schema-v1.0.0.json",
	".odcs.yaml": "odcs-json-schema-v3.1.0.json",
}

// Schemas are the JSON schemas of the two standards.
type Schemas map[string]*jsonschema.Schema // by the end of the names of the documents

// Read finds the schemas in a folder or below it, under the names that they are
// published by.
func Read(folder string) (Schemas, error) {
	s := Schemas{}
	for suffix, name := range files {
		var found string
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() == name {
				found = path
				return fs.SkipAll
			}
			return err
		})
		if err == nil && found == "" {
			err = errors.New("it is not there")
		}
		if err == nil {
			s[suffix], err = jsonschema.NewCompiler().Compile(found)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s in %s: %w", name, folder, err)
		}
	}
	return s, nil
}

// Finding is something that a standard does not allow.
type Finding struct {
	File string
	At   string // in the document, a JSON pointer: /schema/0/properties/3; empty: the whole
	Text string
}

func (f Finding) String() string {
	if f.At == "" {
		return f.File + ": " + f.Text
	}
	return f.File + ": " + f.At + ": " + f.Text
}

// Check gives what is wrong with the documents of a folder, in the order of
// their names, and how many documents there are.
func (s Schemas) Check(folder fs.FS) (findings []Finding, documents int, err error) {
	err = fs.WalkDir(folder, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		for suffix, schema := range s {
			if !strings.HasSuffix(file, suffix) {
				continue
			}
			documents++
			text, err := fs.ReadFile(folder, file)
			if err != nil {
				return err
			}
			findings = append(findings, check(file, text, schema)...)
		}
		return nil
	})
	return findings, documents, err
}

func check(file string, text []byte, schema *jsonschema.Schema) []Finding {
	var document any
	text, err := yaml.YAMLToJSONStrict(text)
	if err == nil {
		document, err = jsonschema.UnmarshalJSON(bytes.NewReader(text))
	}
	if err != nil {
		return []Finding{{File: file, Text: err.Error()}}
	}
	err = schema.Validate(document)
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return nil
	}
	var findings, unknown []Finding
	for _, leaf := range leaves(invalid) {
		f := Finding{File: file, At: pointer(leaf.InstanceLocation), Text: reason(leaf)}
		if _, ok := leaf.ErrorKind.(*kind.FalseSchema); ok {
			f.Text = "not allowed here"
			unknown = append(unknown, f)
		} else if !slices.Contains(findings, f) {
			findings = append(findings, f)
		}
	}
	// Where an object is wrong otherwise, the schema forgets which members it knows.
	for _, f := range unknown {
		object := f.At[:strings.LastIndexByte(f.At, '/')]
		if !slices.ContainsFunc(findings, func(other Finding) bool { return other.At == object || strings.HasPrefix(other.At, object+"/") }) {
			findings = append(findings, f)
		}
	}
	return findings
}

// leaves are the errors that say what is wrong; those above them say that
// something below is. One of several forms that all do not fit is one error.
func leaves(e *jsonschema.ValidationError) []*jsonschema.ValidationError {
	switch e.ErrorKind.(type) {
	case *kind.AnyOf, *kind.OneOf:
		return []*jsonschema.ValidationError{e}
	}
	if len(e.Causes) == 0 {
		return []*jsonschema.ValidationError{e}
	}
	var all []*jsonschema.ValidationError
	for _, cause := range e.Causes {
		all = append(all, leaves(cause)...)
	}
	return all
}

// reason is what e says without where, and of forms that all do not fit why.
func reason(e *jsonschema.ValidationError) string {
	alone := jsonschema.ValidationError{SchemaURL: e.SchemaURL, ErrorKind: e.ErrorKind}
	text := strings.TrimPrefix(alone.Error(), "at '': ")
	var why []string
	for _, cause := range e.Causes {
		for _, leaf := range leaves(cause) {
			if r := reason(leaf); !slices.Contains(why, r) {
				why = append(why, r)
			}
		}
	}
	if len(why) > 0 {
		text += " (" + strings.Join(why, "; or ") + ")"
	}
	return text
}

// pointer is RFC 6901.
func pointer(location []string) string {
	var b strings.Builder
	for _, token := range location {
		b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(token))
	}
	return b.String()
}
