package preflight

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/telemesh/telemesh/functions/telemetry-ingest/ingest"
	"github.com/telemesh/telemesh/internal/manifest"
)

// setting is a Secret or a ConfigMap that a pod of the manifests names.
type setting struct {
	gvk             schema.GroupVersionKind
	namespace, name string
	keys            []string // that the pod does not start without
	optional        bool     // the pod starts without the whole
	user            string   // Service iot/telemetry-ingest
	where           manifest.Where
}

func (s setting) String() string { return label(s.gvk, s.namespace, s.name) }

// workload is a pod of the manifests.
type workload struct {
	*manifest.Workload
	gvk schema.GroupVersionKind
	pod *corev1.PodSpec
	// annotations of the object, and labels.
	annotations, labels map[string]string
}

func workloads(set manifest.Set) []workload {
	var all []workload
	for _, s := range set.Services {
		all = append(all, workload{&s.Workload, kindFunction, &s.Spec.Template.Spec.PodSpec, s.Annotations, s.Labels})
	}
	for _, d := range set.Deployments {
		all = append(all, workload{&d.Workload, kindDeployment, &d.Spec.Template.Spec, d.Annotations, d.Labels})
	}
	return all
}

// settings gives what the pods name, once for each pod and object.
func settings(set manifest.Set) []setting {
	var all []setting
	for _, w := range workloads(set) {
		own := map[string]*setting{}
		note := func(gvk schema.GroupVersionKind, name, key string, optional *bool) {
			if name == "" {
				return
			}
			s := own[gvk.Kind+name]
			if s == nil {
				s = &setting{gvk: gvk, namespace: w.Ref().Namespace, name: name, optional: true, user: w.Object(), where: w.Where}
				own[gvk.Kind+name] = s
			}
			if optional == nil || !*optional {
				s.optional = false
				if key != "" && !slices.Contains(s.keys, key) {
					s.keys = append(s.keys, key)
				}
			}
		}
		for _, c := range slices.Concat(w.pod.InitContainers, w.pod.Containers) {
			for _, from := range c.EnvFrom {
				if r := from.SecretRef; r != nil {
					note(kindSecret, r.Name, "", r.Optional)
				}
				if r := from.ConfigMapRef; r != nil {
					note(kindConfigMap, r.Name, "", r.Optional)
				}
			}
			for _, env := range c.Env {
				if env.ValueFrom == nil {
					continue
				}
				if r := env.ValueFrom.SecretKeyRef; r != nil {
					note(kindSecret, r.Name, r.Key, r.Optional)
				}
				if r := env.ValueFrom.ConfigMapKeyRef; r != nil {
					note(kindConfigMap, r.Name, r.Key, r.Optional)
				}
			}
		}
		for _, v := range w.pod.Volumes {
			if s := v.Secret; s != nil {
				note(kindSecret, s.SecretName, "", s.Optional)
			}
			if m := v.ConfigMap; m != nil {
				note(kindConfigMap, m.Name, "", m.Optional)
			}
			if v.Projected == nil {
				continue
			}
			for _, p := range v.Projected.Sources {
				if p.Secret != nil {
					note(kindSecret, p.Secret.Name, "", p.Secret.Optional)
				}
				if p.ConfigMap != nil {
					note(kindConfigMap, p.ConfigMap.Name, "", p.ConfigMap.Optional)
				}
			}
		}
		for _, s := range own {
			all = append(all, *s)
		}
	}
	slices.SortFunc(all, func(a, b setting) int {
		return cmp.Or(cmp.Compare(a.String(), b.String()), cmp.Compare(a.user, b.user))
	})
	return all
}

// settings says which Secrets and ConfigMaps are missing without which a pod does
// not start.
func (j *judge) settings() {
	type fault struct {
		setting
		lacks string
	}
	var order []string
	users := map[string][]string{}
	faults := map[string]fault{}
	for _, s := range settings(j.set) {
		if !j.wanted(s.where) || s.optional {
			continue
		}
		u, err := j.c.get(s.gvk, s.namespace, s.name)
		if err != nil {
			continue
		}
		f := fault{s, ""}
		if u != nil {
			var without []string
			for _, k := range s.keys {
				if !hasKey(u.Object, k) {
					without = append(without, k)
				}
			}
			if without == nil {
				continue
			}
			f.lacks = strings.Join(without, ", ")
		}
		at := s.String() + f.lacks
		if _, ok := faults[at]; !ok {
			order = append(order, at)
			faults[at] = f
		}
		users[at] = append(users[at], s.user)
	}
	for _, at := range order {
		f := faults[at]
		says := "not there: " + several(users[at], shownObjects) + " cannot start"
		do := create(f.setting)
		if f.lacks != "" {
			says = "has no key " + f.lacks + ": " + several(users[at], shownObjects) + " cannot start"
			do = fmt.Sprintf("kubectl edit %s %s -n %s", strings.ToLower(f.gvk.Kind), f.name, f.namespace)
		}
		j.say(Missing, "settings", []string{f.String()}, says, do)
	}
	j.untold()
	j.tokens()
}

// untold names sources that are applied and are told nothing of what to fetch:
// they may start without, and fetch nothing.
func (j *judge) untold() {
	names := map[string][]string{} // of a source: what might tell it
	told := map[string]bool{}
	for _, s := range settings(j.set) {
		if !s.where.OptIn() || !j.wanted(s.where) {
			continue
		}
		u, err := j.c.get(s.gvk, s.namespace, s.name)
		if !s.optional || u != nil || err != nil {
			told[s.user] = true // or said above, or not shown
		}
		names[s.user] = append(names[s.user], s.String())
	}
	for _, user := range slices.Sorted(maps.Keys(names)) {
		if !told[user] {
			j.say(Missing, "settings", []string{user}, "is told by nothing what to fetch, as by "+several(names[user], shownObjects)+": it fetches nothing", "the head of its file in config/sources says how")
		}
	}
}

// create is the command that makes what a pod needs.
func create(s setting) string {
	kind := "configmap"
	if s.gvk == kindSecret {
		kind = "secret generic"
	}
	command := fmt.Sprintf("kubectl create %s %s -n %s", kind, s.name, s.namespace)
	for _, k := range s.keys {
		command += " --from-literal=" + k + "=…"
	}
	if len(s.keys) == 0 {
		command += " --from-file=…"
	}
	return command
}

func hasKey(object map[string]any, key string) bool {
	for _, field := range []string{"data", "stringData", "binaryData"} {
		if data, ok := object[field].(map[string]any); ok {
			if _, ok := data[key]; ok {
				return true
			}
		}
	}
	return false
}

// tokens judges who may send to telemetry-ingest.
func (j *judge) tokens() {
	const variable, received = "INGEST_TOKENS", "dev.telemesh.telemetry.received.v1"
	other := "" // another way by which messages come in
	for _, w := range workloads(j.set) {
		if w.OptIn() && j.wanted(w.Where) && strings.Contains(w.annotations[manifest.Emits], received) {
			other = w.Object()
		}
	}
	for _, w := range workloads(j.set) {
		ref := secretKey(w.pod, variable)
		if ref == nil || !j.wanted(w.Where) {
			continue
		}
		namespace := w.Ref().Namespace
		object := []string{label(kindSecret, namespace, ref.Name)}
		command := fmt.Sprintf("TOKEN=$(openssl rand -hex 24); kubectl create secret generic %s -n %s --from-literal=%s=\"gateway:$(printf %%s \"$TOKEN\" | sha256sum | cut -d ' ' -f 1)\"", ref.Name, namespace, ref.Key)
		anew := fmt.Sprintf("kubectl delete secret %s -n %s; %s", ref.Name, namespace, command)
		u, err := j.c.get(kindSecret, namespace, ref.Name)
		if err != nil {
			continue
		}
		level := Missing
		if other != "" {
			level = Warning
		}
		if u == nil {
			j.say(level, "senders", object, "not there: "+w.Ref().Name+" refuses every sender", command)
			continue
		}
		secret, err := as[corev1.Secret](u)
		if err != nil {
			j.say(Unknown, "senders", object, err.Error(), "")
			continue
		}
		names, err := ingest.Senders(string(secret.Data[ref.Key]))
		switch {
		case err != nil:
			j.say(Failing, "senders", object, fmt.Sprintf("key %s: %v; %s cannot start", ref.Key, err, w.Ref().Name), anew)
		case len(names) == 0:
			j.say(level, "senders", object, "has nothing in its key "+ref.Key+": "+w.Ref().Name+" refuses every sender", anew)
		default:
			j.say(OK, "senders", object, counted(len(names), "sender")+" may send: "+strings.Join(names, ", "), "")
		}
	}
}

// secretKey is where a variable comes from.
func secretKey(pod *corev1.PodSpec, variable string) *corev1.SecretKeySelector {
	for _, c := range pod.Containers {
		for _, env := range c.Env {
			if env.Name == variable && env.ValueFrom != nil {
				return env.ValueFrom.SecretKeyRef
			}
		}
	}
	return nil
}
