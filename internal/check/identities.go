package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"knative.dev/pkg/kmeta"

	"github.com/telemesh/telemesh/internal/manifest"
)

// accounts says which workloads are not told from others by their account.
func (c *checker) accounts() {
	first := map[manifest.Ref]*manifest.Workload{}
	for _, w := range c.Workloads() {
		account, at := w.Account(), w.At("spec.template.spec.serviceAccountName")
		const fix = "give it a ServiceAccount of its own name and name that in serviceAccountName"
		switch other := first[account]; {
		case account.Name == "default":
			c.find(at, w.Object(), "account-shared", fix, "runs as ServiceAccount %s, as whatever names none", account)
		case other != nil:
			c.find(at, w.Object(), "account-shared", fix, "runs as ServiceAccount %s, as %s does", account, other.Object())
		case c.Account(account) == nil:
			c.find(at, w.Object(), "account-missing", fix, "ServiceAccount %s does not exist", account)
		}
		first[account] = cmp.Or(first[account], w)
	}
}

// tokens says who posts to a Broker and could not show who it is, were it asked.
func (c *checker) tokens() {
	for _, w := range c.Workloads() {
		tokens, at := w.Tokens(), w.At("spec.template.spec.volumes")
		if broker := w.Sink(); c.Broker(broker) != nil {
			if _, ok := tokens[manifest.TokenFile(broker)]; !ok {
				c.find(at, w.Object(), "token-missing", "project a serviceAccountToken of audience "+manifest.Audience(broker)+" there",
					"K_SINK is Broker %s, and there is no token for it at %s", broker, manifest.TokenFile(broker))
			}
		}
		for file, audience := range tokens {
			if rest, ok := strings.CutPrefix(file, manifest.TokenRoot+"/"); ok {
				namespace, name, _ := strings.Cut(rest, "/")
				broker := manifest.Ref{Namespace: namespace, Name: name}
				if c.Broker(broker) == nil {
					c.find(at, w.Object(), "broker-missing", "name one of "+names(c.Brokers), "the token at %s is for Broker %s, which does not exist", file, broker)
				} else if audience != manifest.Audience(broker) {
					c.find(at, w.Object(), "token-audience", "make it "+manifest.Audience(broker), "the token at %s is for the audience %q, by which the Broker refuses it", file, audience)
				}
			}
		}
	}
}

// policies says which policies name what is not there, and whom those of a Broker
// keep out that posts to it.
func (c *checker) policies() {
	for _, p := range c.EventPolicies {
		object := "EventPolicy " + p.Ref().String()
		for i, to := range p.Spec.To {
			if to.Ref != nil && to.Ref.Kind == "Broker" && c.Broker(manifest.Ref{Namespace: p.Namespace, Name: to.Ref.Name}) == nil {
				c.find(p.At(fmt.Sprintf("spec.to[%d].ref.name", i)), object, "policy-unknown", "name one of "+names(c.Brokers),
					"Broker %s/%s does not exist", p.Namespace, to.Ref.Name)
			}
		}
		for i, from := range p.Spec.From {
			at := p.At(fmt.Sprintf("spec.from[%d]", i))
			if from.Ref != nil {
				ref := manifest.Ref{Namespace: from.Ref.Namespace, Name: from.Ref.Name}
				if ref.Namespace == "" {
					ref.Namespace = p.Namespace
				}
				switch {
				case from.Ref.Kind == "Trigger" && c.Trigger(ref) == nil, from.Ref.Kind == "PingSource" && c.PingSource(ref) == nil:
					c.find(at, object, "policy-unknown", "correct the name, or remove the entry", "%s %s does not exist", from.Ref.Kind, ref)
				}
				continue
			}
			names, ok := strings.CutPrefix(*from.Sub, "system:serviceaccount:")
			namespace, name, _ := strings.Cut(names, ":")
			if ok && !strings.Contains(names, "*") && !c.known(manifest.Ref{Namespace: namespace, Name: name}) {
				c.find(at, object, "account-missing", "correct the name, or remove the entry", "ServiceAccount %s/%s does not exist", namespace, name)
			}
		}
	}
	for _, b := range c.Brokers {
		var over []*manifest.EventPolicy
		for _, p := range c.EventPolicies {
			if p.Over(b) {
				over = append(over, p)
			}
		}
		if len(over) == 0 {
			continue
		}
		for _, w := range c.Workloads() {
			if w.PostsTo(b.Ref()) && !slices.ContainsFunc(over, func(p *manifest.EventPolicy) bool { return p.Admits(w.Account()) }) {
				c.find(over[0].At("spec.from"), "EventPolicy "+over[0].Ref().String(), "policy-shuts-out", "add sub: "+manifest.Subject(w.Account())+" to from",
					"%s posts to Broker %s, and no policy lets it in", w.Object(), b.Ref())
			}
		}
	}
	for _, p := range c.NetworkPolicies {
		const label = "serving.knative.dev/service"
		if name := p.Spec.PodSelector.MatchLabels[label]; name != "" && c.Service(manifest.Ref{Namespace: p.Namespace, Name: name}) == nil {
			c.find(p.At("spec.podSelector"), "NetworkPolicy "+p.Ref().String(), "policy-unknown", "name one of "+names(c.Services),
				"is about Service %s/%s, which does not exist", p.Namespace, name)
		}
	}
}

// known says whether an account is one of the mesh: of a function, or the one that
// Knative makes for a Trigger or a PingSource, to send by. Of a namespace in which
// nothing of the mesh is, nothing is known.
// knative.dev/eventing/pkg/auth.GetOIDCServiceAccountNameForResource
func (c *checker) known(account manifest.Ref) bool {
	others := true
	is := func(r manifest.Ref, made string) bool {
		others = others && r.Namespace != account.Namespace
		name := r.Name
		if made != "" {
			name = strings.ToLower(kmeta.ChildName(r.Name, "-oidc-"+made))
		}
		return account == manifest.Ref{Namespace: r.Namespace, Name: name}
	}
	return slices.ContainsFunc(c.Accounts, func(a *manifest.Account) bool { return is(a.Ref(), "") }) ||
		slices.ContainsFunc(c.Triggers, func(t *manifest.Trigger) bool { return is(t.Ref(), "eventing.knative.dev-Trigger") }) ||
		slices.ContainsFunc(c.PingSources, func(p *manifest.PingSource) bool { return is(p.Ref(), "sources.knative.dev-PingSource") }) ||
		others
}
