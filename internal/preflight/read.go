package preflight

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/dynamic"

	"github.com/telemesh/telemesh/internal/cluster"
	"github.com/telemesh/telemesh/internal/manifest"
)

// Where Knative is, by its own manifests.
const (
	eventing = "knative-eventing"
	serving  = "knative-serving"
)

// Kinds that are looked at whether the manifests have any or not.
var (
	kindBroker        = schema.GroupVersionKind{Group: "eventing.knative.dev", Version: "v1", Kind: "Broker"}
	kindTrigger       = schema.GroupVersionKind{Group: "eventing.knative.dev", Version: "v1", Kind: "Trigger"}
	kindEventPolicy   = schema.GroupVersionKind{Group: "eventing.knative.dev", Version: "v1alpha1", Kind: "EventPolicy"}
	kindFunction      = schema.GroupVersionKind{Group: "serving.knative.dev", Version: "v1", Kind: "Service"}
	kindPingSource    = schema.GroupVersionKind{Group: "sources.knative.dev", Version: "v1", Kind: "PingSource"}
	kindIngress       = schema.GroupVersionKind{Group: "networking.internal.knative.dev", Version: "v1alpha1", Kind: "Ingress"}
	kindNetworkPolicy = schema.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy"}
	kindDeployment    = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	kindEndpointSlice = schema.GroupVersionKind{Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice"}
	kindAccount       = schema.GroupVersionKind{Version: "v1", Kind: "ServiceAccount"}
	kindConfigMap     = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	kindNamespace     = schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}
	kindSecret        = schema.GroupVersionKind{Version: "v1", Kind: "Secret"}
	kindService       = schema.GroupVersionKind{Version: "v1", Kind: "Service"}
)

// clusterScoped are the kinds of manifests that are in no namespace.
var clusterScoped = []string{"Namespace", "ClusterRole", "ClusterRoleBinding", "ClusterIssuer", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}

// object is something of the manifests that should be on the cluster.
type object struct {
	manifest.Where
	gvk       schema.GroupVersionKind
	namespace string // empty: it is in none
	name      string
}

func (o object) String() string { return label(o.gvk, o.namespace, o.name) }

// label names an object in findings.
func label(gvk schema.GroupVersionKind, namespace, name string) string {
	if namespace == "" {
		return gvk.Kind + " " + name
	}
	return gvk.Kind + " " + namespace + "/" + name
}

// objects gives what the manifests have, in the order in which one needs the other.
func objects(set manifest.Set) []object {
	var all []object
	add := func(w manifest.Where, gvk schema.GroupVersionKind, r manifest.Ref) {
		if slices.Contains(clusterScoped, gvk.Kind) {
			r.Namespace = ""
		}
		all = append(all, object{w, gvk, r.Namespace, r.Name})
	}
	for _, p := range set.Passed {
		if gv, err := schema.ParseGroupVersion(p.APIVersion); err == nil && gv.Group != "kustomize.config.k8s.io" {
			add(p.Where, gv.WithKind(p.Kind), p.Ref)
		}
	}
	for _, a := range set.Accounts {
		add(a.Where, kindAccount, a.Ref())
	}
	for _, a := range set.Aliases {
		add(a.Where, kindService, a.Ref())
	}
	for _, p := range set.NetworkPolicies {
		add(p.Where, kindNetworkPolicy, p.Ref())
	}
	for _, p := range set.EventPolicies {
		add(p.Where, kindEventPolicy, p.Ref())
	}
	for _, b := range set.Brokers {
		add(b.Where, kindBroker, b.Ref())
	}
	for _, s := range set.Services {
		add(s.Where, kindFunction, s.Ref())
	}
	for _, d := range set.Deployments {
		add(d.Where, kindDeployment, d.Ref())
	}
	for _, t := range set.Triggers {
		add(t.Where, kindTrigger, t.Ref())
	}
	for _, p := range set.PingSources {
		add(p.Where, kindPingSource, p.Ref())
	}
	return all
}

// domains are the namespaces of the mesh.
func domains(set manifest.Set) []string {
	var all []string
	for _, o := range objects(set) {
		switch {
		case o.gvk == kindNamespace:
			all = append(all, o.name)
		case o.namespace != "" && o.namespace != eventing && o.namespace != serving:
			all = append(all, o.namespace)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// query is a question to the API server.
type query struct {
	gvk       schema.GroupVersionKind
	namespace string
	name      string // empty: all in the namespace
}

type answer struct {
	objects []*unstructured.Unstructured
	err     error
}

// Cluster is what a cluster answered.
type Cluster struct {
	Version   version.Info    // of Kubernetes
	Groups    map[string]bool // API groups it serves
	Warehouse Warehouse

	answers map[query]answer
}

// errNotAsked is a fault of this package.
var errNotAsked = errors.New("not asked")

// get gives an object, nil if it is not there, or an error if that was not shown.
func (c *Cluster) get(gvk schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error) {
	a, asked := c.answers[query{gvk, namespace, name}]
	if !asked {
		if a, asked = c.answers[query{gvk: gvk, namespace: namespace}]; !asked {
			return nil, fmt.Errorf("%s: %w", label(gvk, namespace, name), errNotAsked)
		}
	}
	for _, o := range a.objects {
		if o.GetName() == name {
			return o, nil
		}
	}
	return nil, a.err
}

// list gives the objects of namespaces, and whether all of them were shown.
func (c *Cluster) list(gvk schema.GroupVersionKind, namespaces ...string) (all []*unstructured.Unstructured, shown bool) {
	shown = true
	for _, n := range namespaces {
		a, asked := c.answers[query{gvk: gvk, namespace: n}]
		shown = shown && asked && a.err == nil
		all = append(all, a.objects...)
	}
	return all, shown
}

// as decodes an object whose API server has validated it.
func as[T any](u *unstructured.Unstructured) (*T, error) {
	out := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
		return nil, fmt.Errorf("read %s: %w", label(u.GroupVersionKind(), u.GetNamespace(), u.GetName()), err)
	}
	return out, nil
}

// Read asks a cluster for what Judge judges. It fails if there is no cluster, or
// none that lets this user in; what else it is not shown is a finding.
func Read(ctx context.Context, k *cluster.Cluster, set manifest.Set) (*Cluster, error) {
	c := &Cluster{Groups: map[string]bool{}, answers: map[query]answer{}}
	rest := k.Kubernetes.Discovery().RESTClient()
	raw, err := rest.Get().AbsPath("/version").Do(ctx).Raw()
	if err == nil {
		err = json.Unmarshal(raw, &c.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", k.Config.Host, err)
	}
	var groups metav1.APIGroupList
	if raw, err = rest.Get().AbsPath("/apis").Do(ctx).Raw(); err == nil {
		err = json.Unmarshal(raw, &groups)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for its APIs: %w", k.Config.Host, err)
	}
	for _, g := range groups.Groups {
		c.Groups[g.Name] = true
	}
	c.ask(ctx, k.Dynamic, first(set))
	c.ask(ctx, k.Dynamic, then(set, c))
	return c, nil
}

// first is what the manifests alone make one ask. Secrets are asked for by name:
// who may list them may read all.
func first(set manifest.Set) []query {
	var all []query
	for _, o := range objects(set) {
		switch {
		case o.gvk == kindSecret || o.gvk == kindConfigMap || o.namespace == "":
			all = append(all, query{o.gvk, o.namespace, o.name})
		default:
			all = append(all, query{gvk: o.gvk, namespace: o.namespace})
		}
	}
	for _, n := range domains(set) {
		for _, kind := range []schema.GroupVersionKind{kindBroker, kindTrigger, kindEventPolicy, kindFunction, kindIngress, kindNetworkPolicy, kindService} {
			all = append(all, query{gvk: kind, namespace: n})
		}
	}
	for _, n := range []string{eventing, serving} {
		for _, kind := range []schema.GroupVersionKind{kindConfigMap, kindDeployment} {
			all = append(all, query{gvk: kind, namespace: n})
		}
	}
	for _, s := range settings(set) {
		all = append(all, query{s.gvk, s.namespace, s.name})
	}
	for _, b := range set.Brokers {
		if r := b.Spec.Config; r != nil && r.Kind == kindConfigMap.Kind {
			all = append(all, query{kindConfigMap, cmp.Or(r.Namespace, b.Namespace), r.Name})
		}
	}
	return all
}

// then is what the first answers make one ask: what Brokers are made of, and
// where the warehouse is.
func then(set manifest.Set, c *Cluster) []query {
	var all []query
	brokers, _ := c.list(kindBroker, domains(set)...)
	for _, b := range brokers {
		kind, _, _ := unstructured.NestedString(b.Object, "spec", "config", "kind")
		name, _, _ := unstructured.NestedString(b.Object, "spec", "config", "name")
		namespace, _, _ := unstructured.NestedString(b.Object, "spec", "config", "namespace")
		if kind == kindConfigMap.Kind && name != "" {
			all = append(all, query{kindConfigMap, cmp.Or(namespace, b.GetNamespace()), name})
		}
	}
	for _, w := range c.warehouses(set) {
		if w.service != (manifest.Ref{}) {
			all = append(all, query{kindService, w.service.Namespace, w.service.Name}, query{gvk: kindEndpointSlice, namespace: w.service.Namespace})
		}
	}
	return all
}

// atOnce bounds how many questions wait for an answer.
const atOnce = 16

func (c *Cluster) ask(ctx context.Context, client dynamic.Interface, queries []query) {
	answers := map[query]*answer{}
	for _, q := range queries {
		if _, answered := c.answers[q]; !answered {
			answers[q] = &answer{}
		}
	}
	var group errgroup.Group
	group.SetLimit(atOnce)
	for q, a := range answers {
		group.Go(func() error {
			*a = put(ctx, client, q)
			return nil
		})
	}
	group.Wait() // what went wrong is in the answers
	for q, a := range answers {
		c.answers[q] = *a
	}
}

// put puts a question. That there is no such object, or no such kind, is an
// answer.
func put(ctx context.Context, client dynamic.Interface, q query) (a answer) {
	gvr, _ := meta.UnsafeGuessKindToResource(q.gvk)
	of := dynamic.ResourceInterface(client.Resource(gvr))
	if q.namespace != "" {
		of = client.Resource(gvr).Namespace(q.namespace)
	}
	if q.name != "" {
		var o *unstructured.Unstructured
		if o, a.err = of.Get(ctx, q.name, metav1.GetOptions{}); a.err == nil {
			a.objects = append(a.objects, o)
		}
	} else {
		var all *unstructured.UnstructuredList
		if all, a.err = of.List(ctx, metav1.ListOptions{}); a.err == nil {
			for i := range all.Items {
				a.objects = append(a.objects, &all.Items[i])
			}
		}
	}
	if apierrors.IsNotFound(a.err) {
		a.err = nil
	}
	return a
}

// configMap gives the data of a ConfigMap; nil if it is not there or was not
// shown.
func (c *Cluster) configMap(namespace, name string) (map[string]string, error) {
	u, err := c.get(kindConfigMap, namespace, name)
	if u == nil || err != nil {
		return nil, err
	}
	m, err := as[corev1.ConfigMap](u)
	if err != nil {
		return nil, err
	}
	if m.Data == nil {
		return map[string]string{}, nil
	}
	return m.Data, nil
}
