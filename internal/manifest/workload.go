package manifest

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Workload is what a Service and a Deployment have in common: a pod that runs a
// function, and where it stands.
type Workload struct {
	Where

	// Env is the environment of its container. It lacks the variables that
	// Secrets and the cluster fill in; Missing names those that must be set.
	Env     map[string]string
	Missing []string

	Emits      []string // types of the events that its function makes
	Attributes []string // of the annotation of this name

	kind     string
	ref      Ref
	optional []string // variables that Secrets and ConfigMaps may fill in, or not
	pod      *corev1.PodSpec
}

// Ref is its name.
func (w *Workload) Ref() Ref { return w.ref }

// Object names it in messages: "Service iot/tenant-enrich".
func (w *Workload) Object() string { return w.kind + " " + w.ref.String() }

// functions is where the images of functions come from, in the notation of ko.
const functions = "ko://github.com/telemesh/telemesh/functions/"

// Function is the folder below functions/ that its image is built from, or ""
// if it is built from something else.
func (w *Workload) Function() string {
	name, ok := strings.CutPrefix(w.container().Image, functions)
	if !ok || strings.Contains(name, "/") {
		return ""
	}
	return name
}

// Elsewhere says whether what a variable holds is not in the manifests: a Secret has it, or
// a ConfigMap of the cluster.
func (w *Workload) Elsewhere(variable string) bool {
	return slices.Contains(w.Missing, variable) || slices.Contains(w.optional, variable)
}

// Account is the ServiceAccount that its pods run as.
func (w *Workload) Account() Ref {
	return Ref{w.ref.Namespace, cmp.Or(w.pod.ServiceAccountName, "default")}
}

// Sink is the Broker that it posts to, the zero Ref if it has no K_SINK or another.
func (w *Workload) Sink() Ref {
	u, err := url.Parse(w.Env["K_SINK"])
	if err != nil || w.Env["K_SINK"] == "" {
		return Ref{}
	}
	return TargetOf(u).Broker
}

// container is the only one, as validation has made sure unless there are
// sidecars; then it is the one with a port, or the first.
func (w *Workload) container() *corev1.Container { return &w.pod.Containers[w.index()] }

func (w *Workload) index() int {
	return max(0, slices.IndexFunc(w.pod.Containers, func(c corev1.Container) bool { return len(c.Ports) > 0 }))
}

// AtImage is the place of the image of its container.
func (w *Workload) AtImage() Where {
	return w.At(fmt.Sprintf("spec.template.spec.containers[%d].image", w.index()))
}
