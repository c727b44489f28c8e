package scaffold

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

// platform is the domain of what is no domain's: the log, dead letters, the portal.
const platform = "platform"

// NewMesh makes a folder that is a mesh with no domain but the platform's, which
// are those built in.
func NewMesh(dir string) (Report, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return Report{}, fmt.Errorf("%s is not empty", dir)
	}
	f := &folder{dir: dir, before: map[string][]byte{}}
	return f.do(f.platform)
}

func (f *folder) platform() error {
	all := map[string]fs.FS{"brokers": brokers.FS, "triggers": triggers.FS, "config": config.FS, "config/sources": config.Sources}
	set, err := manifest.Load(manifest.Folder{Name: "brokers", FS: brokers.FS}, manifest.Folder{Name: "triggers", FS: triggers.FS},
		manifest.Folder{Name: "config", FS: config.FS}, manifest.Folder{Name: "config/sources", FS: config.Sources})
	if err != nil {
		return err
	}
	own := map[string]bool{}
	add := func(w manifest.Where, namespace string) {
		if namespace == platform {
			own[w.File] = true
		}
	}
	for _, o := range set.Brokers {
		add(o.Where, o.Namespace)
	}
	for _, o := range set.Triggers {
		add(o.Where, o.Namespace)
	}
	for _, o := range set.Aliases {
		add(o.Where, o.Namespace)
	}
	for _, o := range set.PingSources {
		add(o.Where, o.Namespace)
	}
	for _, o := range set.Workloads() {
		add(o.Where, o.Ref().Namespace)
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		text, err := fs.ReadFile(all[path.Dir(name)], path.Base(name))
		if err != nil {
			return err
		}
		alone, err := ofPlatform(string(text))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := f.create(name, []byte(alone)); err != nil {
			return err
		}
	}
	if err := f.render(namespaces, "namespaces.yaml", nil); err != nil {
		return err
	}
	list, err := contract.Load(products.FS)
	if err != nil {
		return err
	}
	ours := []string{platform + "/"} // what objects of this mesh are called by, from the beginning
	for _, p := range list {
		if p.Domain != platform {
			continue
		}
		ours = append(ours, p.Schema+".", p.Name)
		folder, err := fs.Sub(products.FS, p.Name)
		if err != nil {
			return err
		}
		if err := fs.WalkDir(folder, ".", func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := fs.ReadFile(folder, file)
			if err != nil {
				return err
			}
			return f.create("products/"+p.Name+"/"+file, text)
		}); err != nil {
			return err
		}
	}
	if err := f.policies(ours); err != nil {
		return err
	}
	f.Next = []string{
		"make a product: telemesh new product NAME --domain DOMAIN --kind source --dir " + f.dir,
		"run it: telemesh up --manifests " + f.dir + " --products " + filepath.Join(f.dir, "products"),
	}
	return nil
}

// policies makes the policies that are built in those of the mesh, for its teams to
// change, without the exceptions of what is not there.
func (f *folder) policies(ours []string) error {
	names, err := fs.Glob(config.Policies, "*.yaml")
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := fs.ReadFile(config.Policies, name)
		if err != nil {
			return err
		}
		alone, err := ofOurs(string(text), ours)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := f.create("config/policies/"+name, []byte(alone)); err != nil {
			return err
		}
	}
	return nil
}

// ofOurs is a policy without exceptions of objects that are called otherwise.
func ofOurs(text string, ours []string) (string, error) {
	nodes, err := documents(text)
	if err != nil {
		return "", err
	}
	list := at(nodes[0], "exceptions")
	if list == nil {
		return text, nil
	}
	var gone [][2]int // lines, from and to
	for _, e := range list.Content {
		if !slices.ContainsFunc(ours, func(begin string) bool { return strings.HasPrefix(value(e, "object"), begin) }) {
			gone = append(gone, [2]int{e.Line, lastLine(e)})
		}
	}
	if len(gone) == len(list.Content) {
		gone = slices.Insert(gone, 0, [2]int{list.Line - 1, list.Line - 1}) // exceptions:
	}
	return without(text, gone), nil
}

// ofPlatform is a manifest of the platform where there is no other domain: without
// the tokens of other Brokers, and what is asked for is asked of its own Broker.
func ofPlatform(text string) (string, error) {
	nodes, err := documents(text)
	if err != nil {
		return "", err
	}
	own := manifest.Ref{Namespace: platform, Name: platform}.String()
	var gone [][2]int // lines, from and to
	one := false      // the token of its own Broker is there
	for _, n := range nodes {
		sink := envOf(n, "K_SINK")
		if sink != nil && strings.Count(sink.Value, "/") == 4 && !strings.HasSuffix(sink.Value, "/"+own) {
			before := line(text, sink.Line)
			text = replaceLine(text, sink.Line, before[:strings.LastIndex(before, "http")]+"http://"+manifest.AliasHost+"/"+own)
			if emits := at(n, "metadata", "annotations", manifest.Emits); emits != nil {
				before := line(text, emits.Line)
				text = replaceLine(text, emits.Line, before[:strings.Index(before, ":")]+": "+mesh.RedriveRequested)
			}
		}
		tokens := at(n, "spec", "template", "spec", "volumes", "projected", "sources")
		if tokens == nil {
			continue
		}
		for _, token := range tokens.Content {
			one = one || value(token, "serviceAccountToken", "path") == own
		}
		for i, token := range tokens.Content {
			if value(token, "serviceAccountToken", "path") == own {
				continue
			}
			if !one && i == 0 {
				for _, name := range []string{"audience", "path"} {
					v := at(token, "serviceAccountToken", name)
					text = replaceLine(text, v.Line, strings.Replace(line(text, v.Line), v.Value, strings.TrimSuffix(v.Value, ref(v.Value))+own, 1))
				}
				continue
			}
			gone = append(gone, [2]int{token.Line, lastLine(token)})
		}
	}
	return without(text, gone), nil
}

// ref is NAMESPACE/NAME at the end of a path.
func ref(path string) string {
	parts := strings.Split(path, "/")
	return strings.Join(parts[len(parts)-2:], "/")
}

// envOf is the value of a variable of a Service; nil: it has none.
func envOf(service *yaml.Node, name string) *yaml.Node {
	env := at(service, "spec", "template", "spec", "containers", "env")
	if env == nil {
		return nil
	}
	for _, e := range env.Content {
		if value(e, "name") == name {
			return at(e, "value")
		}
	}
	return nil
}
