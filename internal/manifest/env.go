package manifest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// resolveEnv does what a kubelet does with the environment of a container.
func (w *Workload) resolveEnv(configMaps map[Ref]*corev1.ConfigMap) error {
	const env = "spec.template.spec.containers[0].env"
	c := w.container()
	w.Env = map[string]string{}
	configMap := func(field, name string, optional *bool) (map[string]string, error) {
		m := configMaps[Ref{w.ref.Namespace, name}]
		if m == nil && (optional == nil || !*optional) {
			return nil, refused(w.At(field), w.Object(), "ConfigMap %s/%s is not in the manifests: add it, or mark it optional",
				w.ref.Namespace, name)
		}
		if m == nil {
			return nil, nil
		}
		return m.Data, nil
	}
	for i, from := range c.EnvFrom {
		if from.ConfigMapRef == nil {
			continue // which variables a Secret holds is not known here
		}
		data, err := configMap(fmt.Sprintf("%sFrom[%d]", env, i), from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		if err != nil {
			return err
		}
		for k, v := range data {
			w.Env[from.Prefix+k] = v
		}
	}
	for i, v := range c.Env {
		field := fmt.Sprintf("%s[%d]", env, i)
		switch from := v.ValueFrom; {
		case from == nil:
			w.Env[v.Name] = expand(v.Value, w.Env)
		case from.ConfigMapKeyRef != nil:
			ref := from.ConfigMapKeyRef
			optional := ref.Optional != nil && *ref.Optional
			if optional {
				w.optional = append(w.optional, v.Name)
			} else if (w.kind == "Deployment" || w.OptIn()) && configMaps[Ref{w.ref.Namespace, ref.Name}] == nil {
				w.Missing = append(w.Missing, v.Name) // what a source fetches from is its user's to say
				continue
			}
			data, err := configMap(field, ref.Name, ref.Optional)
			if err != nil {
				return err
			}
			value, ok := data[ref.Key]
			if !ok && !optional {
				return refused(w.At(field), w.Object(), "ConfigMap %s/%s has no key %q", w.ref.Namespace, ref.Name, ref.Key)
			}
			if ok {
				w.Env[v.Name] = value
			}
		case from.SecretKeyRef != nil && from.SecretKeyRef.Optional != nil && *from.SecretKeyRef.Optional:
			w.optional = append(w.optional, v.Name)
		default: // a Secret, or what only a pod knows of itself
			w.Missing = append(w.Missing, v.Name)
		}
	}
	return nil
}

var reference = regexp.MustCompile(`\$\$|\$\([A-Za-z_][A-Za-z0-9_.-]*\)`)

// expand replaces $(NAME) by the value of a variable defined before; one that
// is not defined stays as it is, and $$ is a dollar sign.
func expand(value string, env map[string]string) string {
	return reference.ReplaceAllStringFunc(value, func(m string) string {
		if m == "$$" {
			return "$"
		}
		if v, ok := env[m[2:len(m)-1]]; ok {
			return v
		}
		return m
	})
}

// Environ is Env with overrides put in, and the names that still have no
// value.
func (w *Workload) Environ(overrides map[string]string) (env map[string]string, missing []string) {
	env = maps.Clone(w.Env)
	maps.Copy(env, overrides)
	for _, name := range w.Missing {
		if _, ok := overrides[name]; !ok {
			missing = append(missing, name)
		}
	}
	return env, missing
}

// OptedIn says whether a source has been told what to fetch: of the variables
// that are left to its user, those that it needs have values or, if it needs
// none, at least one has. missing are those without.
func (w *Workload) OptedIn(overrides map[string]string) (ok bool, missing []string) {
	env, missing := w.Environ(overrides)
	if len(w.Missing) > 0 || len(w.optional) == 0 {
		return missing == nil, missing
	}
	has := func(name string) bool { _, ok := env[name]; return ok }
	return slices.ContainsFunc(w.optional, has), w.optional
}
