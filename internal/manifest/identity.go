package manifest

import (
	"cmp"
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

// tokens gives the audience of each projected token by its file in the container.
func (w *Workload) tokens() map[string]string {
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
	_, ok := w.tokens()[TokenFile(broker)]
	return ok || w.sink() == broker
}

// accounts says which workloads are not told from others by their account.
func (c *checker) accounts() {
	first := map[Ref]*Workload{}
	for _, w := range c.Workloads() {
		account, at := w.Account(), w.At("spec.template.spec.serviceAccountName")
		const fix = "give it a ServiceAccount of its own name and name that in serviceAccountName"
		switch other := first[account]; {
		case w.pod.ServiceAccountName == "":
			c.find(at, w.Object(), fix, "runs as ServiceAccount %s, as whatever names none", account)
		case other != nil:
			c.find(at, w.Object(), fix, "runs as ServiceAccount %s, as %s does", account, other.Object())
		case c.Account(account) == nil:
			c.find(at, w.Object(), fix, "ServiceAccount %s does not exist", account)
		}
		first[account] = cmp.Or(first[account], w)
	}
}

// tokens says who posts to a Broker and could not show who it is, were it asked.
func (c *checker) tokens() {
	for _, w := range c.Workloads() {
		tokens, at := w.tokens(), w.At("spec.template.spec.volumes")
		if broker := w.sink(); c.Broker(broker) != nil {
			if _, ok := tokens[TokenFile(broker)]; !ok {
				c.find(at, w.Object(), "project a serviceAccountToken of audience "+Audience(broker)+" there",
					"K_SINK is Broker %s, and there is no token for it at %s", broker, TokenFile(broker))
			}
		}
		for file, audience := range tokens {
			if rest, ok := strings.CutPrefix(file, TokenRoot+"/"); ok {
				namespace, name, _ := strings.Cut(rest, "/")
				broker := Ref{namespace, name}
				if c.Broker(broker) == nil {
					c.find(at, w.Object(), "name one of "+names(c.Brokers), "the token at %s is for Broker %s, which does not exist", file, broker)
				} else if audience != Audience(broker) {
					c.find(at, w.Object(), "make it "+Audience(broker), "the token at %s is for the audience %q, by which the Broker refuses it", file, audience)
				}
			}
		}
	}
}
