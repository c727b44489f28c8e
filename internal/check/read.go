package check

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/contract/standard"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/manifest"
)

// Source is where a mesh stands.
type Source struct {
	Manifests []manifest.Folder
	Overlays  []manifest.Folder
	Products  manifest.Folder  // without FS: the manifests alone are looked at
	Functions []string         // as Mesh has them
	Schemas   standard.Schemas // to hold the documents of the products against; nil: they are not
}

// Read reads a mesh. What cannot be read is what Run finds first, and whatever hangs on
// it is not looked at.
func Read(s Source) Mesh {
	m := Mesh{Functions: s.Functions, documents: documents{s.Products, map[string]*yaml.Node{}}}
	var err error
	if m.Manifests, err = manifest.Load(s.Manifests...); err != nil {
		m.unread = append(m.unread, refused(err)...)
	} else {
		for _, folder := range s.Overlays {
			over, err := manifest.Overlaid(s.Manifests, folder)
			if err != nil {
				m.unread = append(m.unread, refused(err)...)
				continue
			}
			m.Overlays = append(m.Overlays, over)
		}
	}
	if s.Products.FS == nil {
		return m
	}
	if s.Schemas != nil {
		m.unread = append(m.unread, m.invalid(s.Schemas)...)
	}
	if m.Products, err = contract.Load(s.Products.FS); err != nil {
		m.unread = append(m.unread, m.faults(err)...)
		return m
	}
	if m.Lineage, err = lineage.New(m.Products); err != nil {
		m.unread = append(m.unread, m.untraced(err))
	}
	return m
}

// each gives the errors that are joined in one.
func each(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, one := range joined.Unwrap() {
		all = append(all, each(one)...)
	}
	return all
}

// refused gives what is wrong with manifests by themselves.
func refused(err error) (findings []Finding) {
	for _, err := range each(err) {
		f := rules["manifest-invalid"].finding("manifest-invalid")
		f.Object, f.Problem, f.Do = "manifests", err.Error(), "correct it: a cluster would refuse it, too"
		var fault *manifest.Fault
		if errors.As(err, &fault) {
			f.Where = Where{fault.File, fault.Line}
			f.Problem = fault.Err.Error()
			if fault.Object != "" {
				f.Object = fault.Object
			}
			if problem, do, ok := strings.Cut(f.Problem, ": "); ok && (strings.HasPrefix(do, "remove") || strings.HasPrefix(do, "correct") || strings.HasPrefix(do, "add")) {
				f.Problem, f.Do = problem, do
			}
		}
		findings = append(findings, f)
	}
	return findings
}

// named are the rules that the fields of a document have of their own.
var named = []struct {
	field *regexp.Regexp
	rule  string
}{
	{regexp.MustCompile(`^team\.name$`), "owner-missing"},
	{regexp.MustCompile(`^slaProperties`), "level-invalid"},
	{regexp.MustCompile(`^inputPorts\[\d+\]\.version$`), "input-unsatisfied"},
	{regexp.MustCompile(`(^|\.)quality(\[|$)`), "quality-invalid"},
}

// faults gives what is wrong with documents by themselves.
func (m Mesh) faults(err error) (findings []Finding) {
	for _, err := range each(err) {
		var fault *contract.Fault
		if !errors.As(err, &fault) {
			f := rules["document-invalid"].finding("document-invalid")
			f.Where, f.Object, f.Problem, f.Do = Where{File: m.documents.Name}, "products", err.Error(), "correct it"
			findings = append(findings, f)
			continue
		}
		rule := "document-invalid"
		for _, n := range named {
			if n.field.MatchString(fault.Field) {
				rule = n.rule
			}
		}
		f := rules[rule].finding(rule)
		f.Where, f.Object, f.Problem, f.Do = m.Document(fault.File, fault.Field), "product "+filepath.Dir(fault.File), fault.Text, "correct it"
		if strings.Contains(fault.File, "/views/") {
			f.Object = "view of product " + strings.Split(fault.File, "/")[0]
		}
		if unknown := unknownMember.FindStringSubmatch(fault.Text); unknown != nil {
			f.Line = m.documents.line(fault.File, func(n *yaml.Node) int { return keyLine(n, unknown[1]) })
			f.Problem, f.Do = fmt.Sprintf("unknown member %q", unknown[1]), "correct its name, or remove it"
		} else if at := yamlLine.FindStringSubmatch(fault.Text); at != nil && f.Line == 0 {
			f.Line, _ = strconv.Atoi(at[1])
		} else if problem, want, ok := strings.Cut(fault.Text, ", want "); ok {
			f.Problem, f.Do = "field "+fault.Field+": "+problem, "make it "+want
			if problem == `""` {
				f.Problem, f.Do = "field "+fault.Field+" is missing, or something in it", "add "+want
			}
		} else if want, ok := strings.CutPrefix(fault.Text, "want "); ok {
			f.Problem, f.Do = "field "+fault.Field+" has none of what it needs, or too much", "give it "+want
		}
		findings = append(findings, f)
	}
	return findings
}

var (
	unknownMember = regexp.MustCompile(`unknown field "([^"]*)"`)
	yamlLine      = regexp.MustCompile(`\bline (\d+)`)
	noInternal    = regexp.MustCompile(`there is no table (([a-z0-9_]+)_internal\.[a-z0-9_]+)`)
	sqlPlace      = regexp.MustCompile(`([a-z0-9_]+)\.([a-z0-9_]+):(\d+):\d+:? ?(.*)`)
)

// invalid gives what the standards do not allow.
func (m Mesh) invalid(schemas standard.Schemas) (findings []Finding) {
	all, _, err := schemas.Check(m.documents.FS)
	if err != nil {
		all = append(all, standard.Finding{File: ".", Text: err.Error()})
	}
	for _, one := range all {
		f := rules["standard-broken"].finding("standard-broken")
		f.Where, f.Object = m.Document(one.File, field(one.At)), "product "+filepath.Dir(one.File)
		f.Problem, f.Do = strings.TrimPrefix(one.At+": "+one.Text, ": "), "make it as the standard has it"
		findings = append(findings, f)
	}
	return findings
}

// field writes a JSON pointer as a field: /schema/0/name is schema[0].name.
func field(pointer string) string {
	var b strings.Builder
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if _, err := strconv.Atoi(token); err == nil {
			b.WriteString("[" + token + "]")
		} else {
			b.WriteString("." + token)
		}
	}
	return strings.TrimPrefix(b.String(), ".")
}

// untraced says which view cannot be followed to what it is made of.
func (m Mesh) untraced(err error) Finding {
	f := rules["view-unreadable"].finding("view-unreadable")
	f.Where, f.Object, f.Problem, f.Do = Where{File: m.documents.Name}, "views", err.Error(), "correct the SQL"
	if at := sqlPlace.FindStringSubmatch(err.Error()); at != nil {
		f.Object = "view " + at[1] + "." + at[2]
		line, _ := strconv.Atoi(at[3])
		if at[4] != "" {
			f.Problem = at[4]
		}
		if internal := noInternal.FindStringSubmatch(at[4]); internal != nil { // versions are kept there, without a contract
			object := f.Object
			f = rules["reads-internal"].finding("reads-internal")
			f.Object, f.Problem = object, "reads "+internal[1]+", which is no output port"
			f.Do = "read an output port of " + strings.ReplaceAll(internal[2], "_", "-")
		}
		f.Where = m.view(at[1], at[2], line)
	}
	return f
}

// documents are the files of the products.
type documents struct {
	manifest.Folder
	read map[string]*yaml.Node
}

// Document is the place of a field of a document of the products, given as
// schema[0].properties[3].name; the file is in the folder of the products:
// iot-telemetry/readings.odcs.yaml. A field that is not there is where its parent is.
func (m Mesh) Document(file, field string) Where {
	return Where{filepath.Join(m.documents.Name, file), m.documents.line(file, func(n *yaml.Node) int {
		if field == "" {
			return 0
		}
		return manifest.LineOf(n, field)
	})}
}

func (d documents) line(file string, of func(*yaml.Node) int) int {
	node, ok := d.read[file]
	if !ok {
		text, err := fs.ReadFile(d.FS, file)
		node = &yaml.Node{}
		if err != nil || yaml.Unmarshal(text, node) != nil || node.Kind == 0 {
			node = nil
		}
		d.read[file] = node
	}
	if node == nil {
		return 0
	}
	return of(node)
}

// keyLine is where a key stands first.
func keyLine(n *yaml.Node, key string) int {
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && child.Value == key {
			return child.Line
		}
		if line := keyLine(child, key); line > 0 {
			return line
		}
	}
	return 0
}

// view is the place of a view.
func (m Mesh) view(schema, name string, line int) Where {
	return Where{filepath.Join(m.documents.Name, strings.ReplaceAll(schema, "_", "-"), "views", name+".sql"), line}
}
