// Package manifests reads the topology of a mesh from its YAML: brokers/,
// triggers/ and config/.
//
// It takes what it needs and asks nothing of the rest: that the manifests are
// what a cluster accepts, and fit together, is what internal/manifest checks,
// with Knative's own types, which are too much for a function.
package manifests

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/telemesh/telemesh/internal/address"
	"github.com/telemesh/telemesh/internal/topology"
)

// Folder is a folder of manifests.
type Folder struct {
	FS       fs.FS
	Optional bool // each of its files is applied by its user
}

// Object is a manifest as JSON or YAML.
type Object struct {
	Text     []byte
	Optional bool
}

var separator = regexp.MustCompile(`(?m)^---\s*$`)

// Read reads the *.yaml files of folders, and not the folders in them.
func Read(folders ...Folder) (topology.Mesh, error) {
	var objects []Object
	for _, f := range folders {
		names, err := fs.Glob(f.FS, "*.yaml")
		if err != nil {
			return topology.Mesh{}, err
		}
		for _, name := range names {
			text, err := fs.ReadFile(f.FS, name)
			if err != nil {
				return topology.Mesh{}, fmt.Errorf("read manifest: %w", err)
			}
			for _, document := range separator.Split(string(text), -1) {
				objects = append(objects, Object{[]byte(document), f.Optional})
			}
		}
	}
	return Decode(objects)
}

type ref struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Namespace  string `json:"namespace"`
}

type destination struct {
	Ref *ref   `json:"ref"`
	URI string `json:"uri"`
}

// manifest is what is read of objects of all kinds.
type manifest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		Annotations map[string]string `json:"annotations"`
		Labels      map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		Broker    string `json:"broker"`
		BrokerRef *ref   `json:"brokerRef"`
		Filter    *struct {
			Attributes map[string]string `json:"attributes"`
		} `json:"filter"`
		Filters    []topology.Filter `json:"filters"`
		Subscriber destination       `json:"subscriber"`
		Sink       destination       `json:"sink"`
		Schedule   string            `json:"schedule"`
		Template   struct {
			Spec struct {
				ServiceAccountName string      `json:"serviceAccountName"`
				Containers         []container `json:"containers"`
			} `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
}

type container struct {
	Image string `json:"image"`
	Ports []any  `json:"ports"`
	Env   []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"env"`
}

// The annotations and the label are those of internal/manifest.
const (
	emits   = "telemesh.dev/emits"
	outputs = "telemesh.dev/outputs"
	keeps   = "telemesh.dev/keeps"
	product = "telemesh.dev/product"

	functions   = "ko://github.com/telemesh/telemesh/functions/"
	clusterHost = ".svc.cluster.local"
)

// Decode reads manifests, one each.
func Decode(objects []Object) (topology.Mesh, error) {
	var m topology.Mesh
	accounts := map[topology.Ref]string{}   // the product of each
	runs := map[topology.Ref]topology.Ref{} // the account of each function
	asks := map[topology.Ref][]asked{}      // of each function, whether a function or not
	for _, o := range objects {
		var d manifest
		if err := yaml.Unmarshal(o.Text, &d); err != nil {
			return m, fmt.Errorf("read manifest: %w", err)
		}
		at := topology.Ref{Namespace: cmp.Or(d.Metadata.Namespace, "default"), Name: d.Metadata.Name}
		group, _, _ := strings.Cut(d.APIVersion, "/")
		switch group + " " + d.Kind {
		case "v1 ServiceAccount":
			accounts[at] = d.Metadata.Labels[product]
		case "eventing.knative.dev Broker":
			m.Brokers = append(m.Brokers, topology.Broker{Ref: at, Outputs: list(d.Metadata.Annotations[outputs])})
		case "eventing.knative.dev Trigger":
			m.Triggers = append(m.Triggers, d.trigger(at, o.Optional))
		case "sources.knative.dev PingSource":
			_, to, _ := d.Spec.Sink.target(at.Namespace)
			m.Ticks = append(m.Ticks, topology.Tick{Ref: at, Schedule: d.Spec.Schedule, To: to, Optional: o.Optional})
		case "serving.knative.dev Service", "apps Deployment":
			f, all := d.function(at)
			f.Source, f.Optional = d.Kind == "Deployment", o.Optional
			runs[at] = topology.Ref{Namespace: at.Namespace, Name: cmp.Or(d.Spec.Template.Spec.ServiceAccountName, "default")}
			asks[at] = all
			m.Functions = append(m.Functions, f)
		}
	}
	m.Sort()
	for i := range m.Functions {
		f := &m.Functions[i]
		f.Product = accounts[runs[f.Ref]]
		for _, what := range asks[f.Ref] {
			other := m.Function(what.of)
			if other == nil || other == f {
				continue
			}
			if !slices.Contains(f.Asks, what.of) {
				f.Asks = append(f.Asks, what.of)
			}
			for _, table := range other.Tables {
				if strings.HasSuffix(table, "."+what.table) && !slices.Contains(f.Reads, table) {
					f.Reads = append(f.Reads, table)
				}
			}
		}
	}
	return m, nil
}

func (d *manifest) trigger(at topology.Ref, optional bool) topology.Trigger {
	t := topology.Trigger{
		Ref: at, Broker: topology.Ref{Namespace: at.Namespace, Name: d.Spec.Broker},
		Filters: d.Spec.Filters, Keeps: d.Metadata.Annotations[keeps], Optional: optional,
	}
	if r := d.Spec.BrokerRef; r != nil {
		t.Broker = topology.Ref{Namespace: cmp.Or(r.Namespace, at.Namespace), Name: r.Name}
	}
	if d.Spec.Filter != nil && len(d.Spec.Filters) == 0 {
		for _, name := range slices.Sorted(maps.Keys(d.Spec.Filter.Attributes)) {
			t.Filters = append(t.Filters, topology.Attribute(name, d.Spec.Filter.Attributes[name]))
		}
	}
	t.Service, t.To, t.URL = d.Spec.Subscriber.target(at.Namespace)
	t.Address = d.Spec.Subscriber.address(at.Namespace)
	return t
}

// address gives that of a destination; empty: it has none.
func (d destination) address(namespace string) string {
	to, err := url.Parse(d.URI)
	if err != nil {
		return ""
	}
	if r := d.Ref; r != nil {
		base := address.OfService(cmp.Or(r.Namespace, namespace), r.Name)
		if r.Kind == "Broker" {
			base = address.OfBroker(cmp.Or(r.Namespace, namespace), r.Name)
		}
		to = base.ResolveReference(to)
	}
	if to.Host == "" {
		return ""
	}
	return to.String()
}

// target gives what a destination is: a Service, a Broker, or an address.
func (d destination) target(namespace string) (service, broker topology.Ref, other string) {
	if r := d.Ref; r != nil {
		to := topology.Ref{Namespace: cmp.Or(r.Namespace, namespace), Name: r.Name}
		if r.Kind == "Broker" {
			return service, to, ""
		}
		return to, broker, ""
	}
	service, broker = hosted(d.URI)
	if service != (topology.Ref{}) || broker != (topology.Ref{}) {
		return service, broker, ""
	}
	return service, broker, d.URI
}

// hosted gives the Service or the Broker that an address of the cluster is.
func hosted(at string) (service, broker topology.Ref) {
	u, err := url.Parse(at)
	if err != nil {
		return service, broker
	}
	if strings.HasSuffix(u.Hostname(), clusterHost) && strings.Contains(u.Hostname(), "broker-ingress.") {
		if to, ok := topology.ParseRef(strings.Trim(u.Path, "/")); ok {
			broker = to
		}
		return service, broker
	}
	names, ok := strings.CutSuffix(u.Hostname(), clusterHost)
	if name, namespace, dotted := strings.Cut(names, "."); ok && dotted && !strings.Contains(namespace, ".") {
		service = topology.Ref{Namespace: namespace, Name: name}
	}
	return service, broker
}

// asked is a Service that something is asked of, and what: the end of the path,
// which is the name of a table where output-port serves it.
type asked struct {
	of    topology.Ref
	table string
}

// function reads a workload, and the Services that its environment names. What
// wakes others along with its events asks nothing of them.
func (d *manifest) function(at topology.Ref) (f topology.Function, asks []asked) {
	f = topology.Function{Ref: at, Emits: list(d.Metadata.Annotations[emits])}
	if len(d.Spec.Template.Spec.Containers) == 0 {
		return f, nil
	}
	c := d.Spec.Template.Spec.Containers[0]
	for _, other := range d.Spec.Template.Spec.Containers {
		if len(other.Ports) > 0 {
			c = other
			break
		}
	}
	if folder, ok := strings.CutPrefix(c.Image, functions); ok && path.Base(folder) == folder {
		f.Image = folder
	}
	for _, v := range c.Env {
		switch v.Name {
		case "WAKE":
		case "K_SINK":
			_, f.Posts = hosted(v.Value)
		case "TABLES":
			f.Tables = list(v.Value)
		default:
			if service, _ := hosted(v.Value); service != (topology.Ref{}) {
				asks = append(asks, asked{service, path.Base(v.Value)})
			}
		}
	}
	return f, asks
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}
