// Package scaffold writes the parts of a mesh: a folder with the platform's own
// (NewMesh), products (NewProduct), functions (NewFunction), and who reads a port
// (Subscribe).
//
// What it writes looks like what stands beside it, and is whole: where a Broker, an
// account or a type has to be named in other files as well, it is. Nothing is
// overwritten: a file that is there is an error, a file that has to say more keeps
// what it says, comments too. After an error the folder is as it was.
package scaffold

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/template"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/manifest"
)

// Report is what was done.
type Report struct {
	Created []string // files, by their names in the folder
	Changed []string
	Next    []string // what is left to do
}

// folder is a mesh that is written to: brokers/, triggers/, config/, products/.
type folder struct {
	Report
	dir    string
	before map[string][]byte // files as they were; nil: they were not there
}

// open gives the folder of a mesh.
func open(dir string) (*folder, error) {
	for _, name := range []string{"brokers", "triggers", "config", "products"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("%s is no folder of a mesh: %w", dir, err)
		}
	}
	return &folder{dir: dir, before: map[string][]byte{}}, nil
}

// do has f changed, or leaves it as it was.
func (f *folder) do(change func() error) (Report, error) {
	err := change()
	if err == nil {
		err = f.check()
	}
	if err != nil {
		return Report{}, errors.Join(err, f.undo())
	}
	slices.Sort(f.Created)
	slices.Sort(f.Changed)
	return f.Report, nil
}

// check reads what was written.
func (f *folder) check() error {
	_, err := f.products()
	_, also := f.manifests()
	return errors.Join(err, also)
}

func (f *folder) products() ([]contract.Product, error) {
	folder := os.DirFS(filepath.Join(f.dir, "products"))
	if files, err := fs.Glob(folder, "*/product.odps.yaml"); err != nil || len(files) == 0 {
		return nil, err
	}
	return contract.Load(folder)
}

func (f *folder) manifests() (manifest.Set, error) { return manifest.Load(manifest.Dir(f.dir)...) }

func (f *folder) undo() error {
	var errs []error
	for name, text := range f.before {
		file := filepath.Join(f.dir, name)
		if text != nil {
			errs = append(errs, os.WriteFile(file, text, 0o644))
			continue
		}
		errs = append(errs, os.Remove(file))
		for dir := filepath.Dir(file); dir != f.dir && os.Remove(dir) == nil; {
			dir = filepath.Dir(dir)
		}
	}
	return errors.Join(errs...)
}

// create writes a file that is not there.
func (f *folder) create(name string, text []byte) error {
	file := filepath.Join(f.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already", file)
	}
	if err != nil {
		return err
	}
	f.before[name] = nil
	f.Created = append(f.Created, name)
	_, err = out.Write(text)
	return errors.Join(err, out.Close())
}

// has says whether a file is there.
func (f *folder) has(name string) bool {
	_, err := os.Stat(filepath.Join(f.dir, name))
	return err == nil
}

// edit changes the text of a file.
func (f *folder) edit(name string, change func(text string) (string, error)) error {
	file := filepath.Join(f.dir, filepath.FromSlash(name))
	before, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	after, err := change(string(before))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if after == string(before) {
		return nil
	}
	if _, ok := f.before[name]; !ok {
		f.before[name] = before
		f.Changed = append(f.Changed, name)
	}
	return os.WriteFile(file, []byte(after), 0o644)
}

//go:embed templates
var files embed.FS

// templates are read by who writes something, and by no other command.
var templates = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("").Delims("<<", ">>").Funcs(template.FuncMap{"quote": quote, "title": title}).ParseFS(files, "templates/*"))
})

// render creates a file of a template.
func (f *folder) render(name, template string, data any) error {
	var b bytes.Buffer
	if err := templates().ExecuteTemplate(&b, template, data); err != nil {
		return err
	}
	return f.create(name, b.Bytes())
}

// quote is a text as a value in YAML, in quotes where it would be read as something
// else.
func quote(s string) string {
	if plain.MatchString(s) && !slices.Contains(words, strings.ToLower(s)) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// words are those that YAML takes for something else than text.
var words = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

var plain = regexp.MustCompile(`^[A-Za-z/_][A-Za-z0-9/_. ,()-]*$`)

// title is a name as the beginning of a sentence.
func title(s string) string {
	s = strings.NewReplacer("-", " ", "_", " ").Replace(s)
	return strings.ToUpper(s[:1]) + s[1:]
}

// kebab is what a product, a function or a domain is called; attributes and topics
// allow as much.
var kebab = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// maxName keeps what Kubernetes makes of a name, as NAME-sink-00001-deployment,
// within its 63 characters.
const maxName = 40

// CheckName says whether something can be called so.
func CheckName(what, name string) error {
	switch {
	case !kebab.MatchString(name) || len(name) > maxName:
		return fmt.Errorf("%s %q: want lower-case words joined by -, at most %d characters", what, name, maxName)
	case slices.Contains(words, name):
		return fmt.Errorf("%s %q: call it something else: YAML takes it for no text", what, name)
	}
	return nil
}

var eventType = regexp.MustCompile(`^[a-z0-9]+(\.[a-z0-9_-]+)+\.v[1-9][0-9]*$`)

func checkType(name string) error {
	if !eventType.MatchString(name) {
		return fmt.Errorf("event type %q: want lower-case words joined by dots, the last of them the version: dev.telemesh.readings.counted.v1", name)
	}
	return nil
}

// base is the name of a file without what kind it is.
func base(file, suffix string) string {
	return strings.TrimSuffix(path.Base(filepath.ToSlash(file)), suffix)
}
