package manifest

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Who a workload is: its ServiceAccount, and the tokens by which it shows that to
// Brokers.

// TokenRoot is the folder in which a pod has a token for each Broker that it posts
// to, as NAMESPACE/NAME.
const TokenRoot = "/oidc"

// TokenFile is where a pod has its token for a Broker.
func TokenFile(broker Ref) string { return path.Join(TokenRoot, broker.Namespace, broker.Name) }

// Audience is what a token must be made for that a Broker takes.
// knative.dev/eventing/pkg/auth.GetAudience
func Audience(broker Ref) string {
	return strings.ToLower("eventing.knative.dev/broker/" + broker.String())
}

// Subject is how an account is named in a token and in an EventPolicy.
func Subject(account Ref) string {
	return "system:serviceaccount:" + account.Namespace + ":" + account.Name
}

// Tokens gives the audience of each projected token by its file in the container.
func (w *Workload) Tokens() map[string]string {
	tokens := map[string]string{}
	volumes := map[string][]corev1.VolumeProjection{}
	for _, v := range w.pod.Volumes {
		if v.Projected != nil {
			volumes[v.Name] = v.Projected.Sources
		}
	}
	for _, mount := range w.container().VolumeMounts {
		for _, source := range volumes[mount.Name] {
			if t := source.ServiceAccountToken; t != nil && mount.SubPath == "" {
				tokens[path.Join(mount.MountPath, t.Path)] = t.Audience
			}
		}
	}
	return tokens
}

// PostsTo says whether it posts to a Broker: by K_SINK, or because it has a token for
// it.
func (w *Workload) PostsTo(broker Ref) bool {
	_, ok := w.Tokens()[TokenFile(broker)]
	return ok || w.Sink() == broker
}
