package scaffold

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/manifest"
)

// Function is what NewFunction is told.
type Function struct {
	Dir     string // of a clone of Telemesh
	Name    string // order-count
	Product string // orders
	In, Out string // types of the events that wake it, and that it replies
}

// functionData is what the templates are told.
type functionData struct {
	Function
	Module string // path of the Go module
	Word   string // package of the handler: count
	Domain string
}

// NewFunction makes a function, in a clone of Telemesh.
func NewFunction(fn Function) (Report, error) {
	f, err := open(fn.Dir)
	if err != nil {
		return Report{}, err
	}
	return f.do(func() error { return f.function(fn) })
}

// tableFile has the table of all functions.
const tableFile = "functions/functions.go"

func (f *folder) function(fn Function) error {
	mod, err := os.ReadFile(filepath.Join(f.dir, "go.mod"))
	if err != nil || !f.has(tableFile) {
		return fmt.Errorf("%s is no clone of Telemesh: it has no go.mod or no %s", f.dir, tableFile)
	}
	d := functionData{Function: fn, Module: modfile.ModulePath(mod)}
	words := strings.Split(fn.Name, "-")
	d.Word = words[len(words)-1]
	if err := errors.Join(CheckName("function", fn.Name), checkType(fn.In), checkType(fn.Out)); err != nil {
		return err
	}
	switch {
	case fn.In == fn.Out:
		return fmt.Errorf("function %s: it would wake itself: --out is --in", fn.Name)
	case f.has("functions/" + fn.Name):
		return fmt.Errorf("%s is there already", filepath.Join(f.dir, "functions", fn.Name))
	case !isPackageName(d.Word):
		return fmt.Errorf("function %s: its last word names the package of the handler: %q cannot", fn.Name, d.Word)
	}
	all, err := f.products()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(p contract.Product) bool { return p.Name == fn.Product })
	if at < 0 {
		var names []string
		for _, p := range all {
			names = append(names, p.Name)
		}
		return fmt.Errorf("there is no product %q; there are %s", fn.Product, strings.Join(names, ", "))
	}
	d.Domain = all[at].Domain
	broker := manifest.Ref{Namespace: d.Domain, Name: d.Domain}
	if from, err := f.brokersOf(fn.In); err != nil || !slices.Contains(from, broker) {
		return errors.Join(err, fmt.Errorf("function %s: events of type %s come to %s, not to Broker %s of %s", fn.Name, fn.In, list(from), broker, fn.Product))
	}
	if from, err := f.brokersOf(fn.Out); err != nil || len(from) > 0 {
		return errors.Join(err, fmt.Errorf("function %s: events of type %s are made already, and come to %s", fn.Name, fn.Out, list(from)))
	}
	folder := "functions/" + fn.Name + "/"
	for _, file := range []struct{ name, template string }{
		{folder + "main.go", "main.go.tmpl"},
		{folder + d.Word + "/" + d.Word + ".go", "word.go.tmpl"},
		{folder + d.Word + "/" + d.Word + "_test.go", "word_test.go.tmpl"},
		{folder + d.Word + "/" + d.Word + "_bench_test.go", "word_bench_test.go.tmpl"},
		{"config/" + fn.Name + ".yaml", "function.yaml"},
		{"triggers/" + fn.Name + ".yaml", "function-trigger.yaml"},
	} {
		if err := f.render(file.name, file.template, d); err != nil {
			return err
		}
	}
	if err := f.edit(tableFile, func(text string) (string, error) { return register(text, d) }); err != nil {
		return err
	}
	if err := f.edit("products/"+fn.Product+"/product.odps.yaml", func(text string) (string, error) {
		nodes, err := documents(text)
		if err != nil || len(nodes) != 1 {
			return "", errors.Join(err, errors.New("want one document"))
		}
		end, err := endOf(text, nodes[0], "outputPorts")
		if err != nil {
			return "", err
		}
		return insert(text, end, "  - name: "+fn.Out, "    type: event", "    version: 1.0.0", "    description: What "+fn.Name+" makes."), nil
	}); err != nil {
		return err
	}
	if err := f.outputs(d.Domain, fn.Out); err != nil {
		return err
	}
	if err := f.posts(d); err != nil {
		return err
	}
	if err := f.wake(); err != nil {
		return err
	}
	f.Next = append(f.Next, "write what it is to do in "+filepath.Join(f.dir, folder, d.Word, d.Word+".go")+", and try it: go test ./"+folder+"...")
	return nil
}

// imported are names that the files of a function have of their imports.
var imported = []string{"bytes", "cmp", "context", "event", "function", "json", "mesh", "testing", "main", "strings", "internal", "vendor", "testdata"}

func isPackageName(word string) bool {
	for _, r := range word {
		if r < 'a' || r > 'z' {
			return false
		}
	}
	return word != "" && !token.IsKeyword(word) && types.Universe.Lookup(word) == nil && !slices.Contains(imported, word)
}

func list(refs []manifest.Ref) string {
	if len(refs) == 0 {
		return "no Broker"
	}
	var names []string
	for _, r := range refs {
		names = append(names, "Broker "+r.String())
	}
	return strings.Join(names, " and ")
}

// posts has the Broker of a secured mesh take what the function replies, also when a
// dead letter is brought to it again.
func (f *folder) posts(d functionData) error {
	file := secure + "broker-" + d.Domain + ".yaml"
	if !f.has(file) {
		return nil
	}
	return f.edit(file, func(text string) (string, error) {
		nodes, err := documents(text)
		if err != nil {
			return "", err
		}
		for _, n := range nodes {
			if value(n, "metadata", "name") != "dead-letter-sink" {
				continue
			}
			types := at(n, "spec", "filters")
			if any := at(types, "any"); any != nil {
				text = addItem(text, any, "- exact: {type: "+d.Out+"}")
			} else if one := at(types, "exact", "type"); one != nil {
				text = replaceLine(text, one.Line, "    - any:", "        - exact: {type: "+one.Value+"}", "        - exact: {type: "+d.Out+"}")
			} else {
				return "", errors.New("the EventPolicy of dead-letter-sink has filters of a form that is not known here")
			}
		}
		var b bytes.Buffer
		if err := templates().ExecuteTemplate(&b, "function-policy.yaml", d); err != nil {
			return "", err
		}
		return addDocument(text, b.String()), nil
	})
}

// register puts the function into the table of all functions, where it belongs by its
// name.
func register(text string, d functionData) (string, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, tableFile, text, parser.ParseComments)
	if err != nil {
		return "", err
	}
	offset := func(p token.Pos) int { return set.Position(p).Offset }
	own := d.Module + "/functions/" + d.Name + "/" + d.Word
	importAt, taken := 0, map[string]bool{}
	for _, i := range file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return "", err
		}
		as := path[strings.LastIndexByte(path, '/')+1:]
		if i.Name != nil {
			as = i.Name.Name
		}
		taken[as] = true
		if strings.HasPrefix(path, d.Module+"/") && (importAt == 0 || path < own) {
			importAt = offset(i.End())
		}
	}
	name := d.Word
	if whole := strings.ReplaceAll(d.Name, "-", ""); taken[name] {
		name = whole
		for n := 2; taken[name]; n++ {
			name = whole + strconv.Itoa(n)
		}
	}
	var entries *ast.CompositeLit
	for _, decl := range file.Decls {
		if g, ok := decl.(*ast.GenDecl); ok && g.Tok == token.VAR {
			for _, spec := range g.Specs {
				if v, ok := spec.(*ast.ValueSpec); ok && len(v.Values) == 1 && v.Names[0].Name == "Table" {
					entries, _ = v.Values[0].(*ast.CompositeLit)
				}
			}
		}
	}
	if entries == nil || importAt == 0 {
		return "", errors.New("it has no table of functions")
	}
	entryAt := offset(entries.Rbrace)
	for _, e := range slices.Backward(entries.Elts) {
		if key, ok := e.(*ast.KeyValueExpr).Key.(*ast.BasicLit); ok && key.Value > strconv.Quote(d.Name) {
			entryAt = offset(e.Pos())
		}
	}
	spec := strconv.Quote(own)
	if name != d.Word {
		spec = name + " " + spec
	}
	text = text[:entryAt] + strconv.Quote(d.Name) + ": " + name + ".Start,\n" + text[entryAt:]
	text = text[:importAt] + "\n" + spec + text[importAt:]
	out, err := format.Source([]byte(text))
	return string(out), err
}
