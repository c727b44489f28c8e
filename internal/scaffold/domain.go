package scaffold

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/internal/manifest"
)

const (
	namespaces = "config/000-namespaces.yaml"
	letters    = "config/dead-letter-sink.yaml"
	secure     = "config/overlays/secure/"
	kafka      = "config/overlays/kafka/"
)

// domain makes the namespace and the Broker of a domain where they are missing, and
// names them wherever Brokers are named.
func (f *folder) domain(name string) error {
	if err := CheckName("domain", name); err != nil {
		return err
	}
	set, err := f.manifests()
	if err != nil || set.Broker(manifest.Ref{Namespace: name, Name: name}) != nil {
		return err
	}
	data := map[string]string{"Domain": name}
	made := map[string]string{
		"brokers/" + name + ".yaml":                      "broker.yaml",
		"triggers/event-log-" + name + ".yaml":           "event-log.yaml",
		"triggers/dead-letter-redrive-" + name + ".yaml": "dead-letter-redrive.yaml",
	}
	if f.has(kafka) {
		made[kafka+name+".yaml"] = "broker-kafka.yaml"
	}
	if f.has(secure) {
		made[secure+"broker-"+name+".yaml"] = "broker-secure.yaml"
	}
	for file, template := range made {
		if err := f.render(file, template, data); err != nil {
			return err
		}
	}
	if err := f.edit(namespaces, func(text string) (string, error) {
		nodes, err := documents(text)
		if err != nil || slices.ContainsFunc(nodes, func(n *yaml.Node) bool { return value(n, "metadata", "name") == name }) {
			return text, err
		}
		return addDocument(text, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n", name)), nil
	}); err != nil {
		return err
	}
	// Who brings letters again shows a token of each Broker.
	if err := f.edit(letters, func(text string) (string, error) {
		nodes, err := documents(text)
		if err != nil {
			return "", err
		}
		for _, n := range nodes {
			if list := at(n, "spec", "template", "spec", "volumes", "projected", "sources"); list != nil {
				return addItem(text, list,
					"- serviceAccountToken:",
					"    audience: eventing.knative.dev/broker/"+name+"/"+name,
					"    path: "+name+"/"+name), nil
			}
		}
		return "", errors.New("there are no tokens of Brokers")
	}); err != nil {
		return err
	}
	for _, opens := range []string{"default", "dns", "knative"} {
		if err := f.network(opens, name, ""); err != nil {
			return err
		}
	}
	f.Next = append(f.Next, "on a cluster: make in namespace "+name+" what the others have there, as the ConfigMap warehouse")
	return nil
}

// network has the policies of secure let a Service of a namespace through to what
// file network-OPENS is about; service empty: all that there are.
func (f *folder) network(opens, namespace, service string) error {
	file := secure + "network-" + opens + ".yaml"
	if !f.has(file) {
		return nil
	}
	return f.edit(file, func(text string) (string, error) {
		nodes, err := documents(text)
		if err != nil {
			return "", err
		}
		for _, n := range nodes {
			if value(n, "metadata", "name") != opens || value(n, "metadata", "namespace") != namespace {
				continue
			}
			if service == "" {
				return text, nil
			}
			if list := at(n, "spec", "podSelector", "matchExpressions", "values"); list != nil {
				return addSorted(text, list, service)
			}
			one := at(n, "spec", "podSelector", "matchLabels", "serving.knative.dev/service")
			if one == nil {
				return "", fmt.Errorf("NetworkPolicy %s/%s selects pods in a way that is not known here", namespace, opens)
			}
			return replaceLine(text, one.Line, among(one.Value, service)...), nil
		}
		texts := chunks(text)
		for i, n := range nodes {
			if value(n, "metadata", "name") != opens {
				continue
			}
			made := strings.Replace(bare(texts[i]), "\n  namespace: "+value(n, "metadata", "namespace")+"\n", "\n  namespace: "+namespace+"\n", 1)
			if service != "" {
				from, to := strings.Index(made, "    match"), strings.Index(made, "  policyTypes:")
				made = made[:from] + "    matchLabels: {serving.knative.dev/service: " + service + "}\n" + made[to:]
			}
			return addDocument(text, made), nil
		}
		return "", fmt.Errorf("there is no NetworkPolicy %s to be made like", opens)
	})
}

// among is a selector of several Services.
func among(services ...string) []string {
	slices.Sort(services)
	return []string{
		"    matchExpressions:",
		"      - key: serving.knative.dev/service",
		"        operator: In",
		"        values: [" + strings.Join(services, ", ") + "]",
	}
}

// outputs has a Broker name a type that comes from outside, or that others may read.
func (f *folder) outputs(domain, eventType string) error {
	set, err := f.manifests()
	if err != nil {
		return err
	}
	broker := set.Broker(manifest.Ref{Namespace: domain, Name: domain})
	own, err := filepath.Rel(f.dir, broker.File)
	if err != nil {
		return err
	}
	for _, file := range []string{filepath.ToSlash(own), kafka + domain + ".yaml"} {
		if !f.has(file) {
			continue
		}
		if err := f.edit(file, func(text string) (string, error) {
			nodes, err := documents(text)
			if err != nil {
				return "", err
			}
			for _, n := range nodes {
				types := at(n, "metadata", "annotations", manifest.Outputs)
				if value(n, "metadata", "namespace") != domain || types == nil || slices.Contains(manifest.List(types.Value), eventType) {
					continue
				}
				return replaceLine(text, types.Line, strings.TrimRight(line(text, types.Line), " ")+","+eventType), nil
			}
			return text, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// wake has those that wake what their events lead to name what these lead to now.
func (f *folder) wake() error {
	set, err := f.manifests()
	if err != nil {
		return err
	}
	for _, w := range set.Workloads() {
		text, ok := w.Env["WAKE"]
		if !ok {
			continue
		}
		known := manifest.List(text)
		for _, ref := range set.Downstream(w) {
			url := "http://" + ref.Name + "." + ref.Namespace + ".svc.cluster.local"
			if slices.Contains(known, url) || len(known) == 0 {
				continue
			}
			file, err := filepath.Rel(f.dir, w.File)
			if err != nil {
				return err
			}
			last := known[len(known)-1] + `"`
			if err := f.edit(filepath.ToSlash(file), func(text string) (string, error) {
				i := strings.Index(text, last)
				if i < 0 {
					return "", fmt.Errorf("WAKE of %s does not end in %s", w.Object(), last)
				}
				indent := text[strings.LastIndexByte(text[:i], '\n')+1 : i]
				return text[:i+len(last)-1] + ",\\\n" + indent + url + text[i+len(last)-1:], nil
			}); err != nil {
				return err
			}
			known = append(known, url)
		}
	}
	return nil
}

// brokersOf gives the Brokers that events of a type come to.
func (f *folder) brokersOf(eventType string) ([]manifest.Ref, error) {
	set, err := f.manifests()
	if err != nil {
		return nil, err
	}
	var found []manifest.Ref
	for _, b := range set.Brokers {
		if slices.Contains(manifest.List(b.Annotations[manifest.Outputs]), eventType) {
			found = append(found, b.Ref())
		}
	}
	for _, w := range set.Workloads() {
		if !slices.Contains(w.Emits, eventType) {
			continue
		}
		if set.Broker(w.Sink()) != nil && !slices.Contains(found, w.Sink()) {
			found = append(found, w.Sink())
		}
		for _, t := range set.Triggers { // a reply
			if target, err := manifest.Resolve(t.Spec.Subscriber, t.Namespace); err == nil && target.Service == w.Ref() && !slices.Contains(found, t.BrokerOf()) {
				found = append(found, t.BrokerOf())
			}
		}
	}
	return found, nil
}
