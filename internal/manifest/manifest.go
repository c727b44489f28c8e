// Package manifest reads the YAML that makes the mesh (brokers/, triggers/,
// config/) as a cluster would: with Knative's own Go types, strictly, with
// Knative's defaults and validation. The local runtime runs what it returns;
// package check says where the parts do not fit.
package manifest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	duckv1eventing "knative.dev/eventing/pkg/apis/duck/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	eventingv1alpha1 "knative.dev/eventing/pkg/apis/eventing/v1alpha1"
	"knative.dev/eventing/pkg/apis/feature"
	sourcesv1 "knative.dev/eventing/pkg/apis/sources/v1"
	"knative.dev/pkg/apis"
	servingv1 "knative.dev/serving/pkg/apis/serving/v1"
)

// Set is what manifests describe, each kind sorted by namespace and name.
type Set struct {
	Brokers     []*Broker
	Triggers    []*Trigger
	Services    []*Service
	Deployments []*Deployment // of sources
	PingSources []*PingSource
	// What follows a cluster uses, and the local runtime does not run.
	Accounts        []*Account
	Aliases         []*Alias
	EventPolicies   []*EventPolicy
	NetworkPolicies []*NetworkPolicy
	// Passed holds the rest: namespaces, ConfigMaps, Knative's other sources and the
	// like.
	Passed []*Passed
}

// Ref names a namespaced object.
type Ref struct{ Namespace, Name string }

func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// Broker is an eventing.knative.dev Broker and where it stands.
type Broker struct {
	Where
	eventingv1.Broker
}

// Trigger is an eventing.knative.dev Trigger and where it stands.
type Trigger struct {
	Where
	eventingv1.Trigger
}

// Service is a serving.knative.dev Service: a function that is woken.
type Service struct {
	Workload
	servingv1.Service
}

// Deployment is an apps Deployment: a source, which runs all the time.
type Deployment struct {
	Workload
	appsv1.Deployment
}

// Account is a ServiceAccount: who the pods of a workload are.
type Account struct {
	Where
	corev1.ServiceAccount
}

// Alias is a Kubernetes Service of type ExternalName: another name for a host.
type Alias struct {
	Where
	corev1.Service
}

// Passed is an object of which nothing but its name is known here.
type Passed struct {
	Where
	APIVersion, Kind string
	Ref
}

// Ref is the broker's name.
func (b *Broker) Ref() Ref { return Ref{b.Namespace, b.Name} }

// Ref is the trigger's name.
func (t *Trigger) Ref() Ref { return Ref{t.Namespace, t.Name} }

// Ref is the account's name.
func (a *Account) Ref() Ref { return Ref{a.Namespace, a.Name} }

// Ref is the alias' name.
func (a *Alias) Ref() Ref { return Ref{a.Namespace, a.Name} }

// BrokerOf names the broker whose events the trigger reads.
func (t *Trigger) BrokerOf() Ref {
	if r := t.Spec.BrokerRef; r != nil {
		return Ref{cmp.Or(r.Namespace, t.Namespace), r.Name}
	}
	return Ref{t.Namespace, t.Spec.Broker}
}

// Broker finds a broker; nil if there is none.
func (s Set) Broker(r Ref) *Broker { return find(s.Brokers, r) }

// Service finds a service; nil if there is none.
func (s Set) Service(r Ref) *Service { return find(s.Services, r) }

// Deployment finds a deployment; nil if there is none.
func (s Set) Deployment(r Ref) *Deployment { return find(s.Deployments, r) }

// Trigger finds a trigger; nil if there is none.
func (s Set) Trigger(r Ref) *Trigger { return find(s.Triggers, r) }

// Alias finds an alias; nil if there is none.
func (s Set) Alias(r Ref) *Alias { return find(s.Aliases, r) }

// Account finds an account; nil if there is none.
func (s Set) Account(r Ref) *Account { return find(s.Accounts, r) }

// Workloads are what runs functions: the Services, then the Deployments.
func (s Set) Workloads() []*Workload {
	var all []*Workload
	for _, one := range s.Services {
		all = append(all, &one.Workload)
	}
	for _, one := range s.Deployments {
		all = append(all, &one.Workload)
	}
	return all
}

// find gives the object of a name.
func find[T interface {
	comparable
	Ref() Ref
}](all []T, r Ref) (none T) {
	for _, o := range all {
		if o.Ref() == r {
			return o
		}
	}
	return none
}

// Delivery is how events of the trigger are delivered: by its own spec, else
// by the broker's. Only the dead letter sink is defaulted by itself.
// knative.dev/eventing/pkg/reconciler/broker/trigger
func (s Set) Delivery(t *Trigger) duckv1eventing.DeliverySpec {
	var own, broker duckv1eventing.DeliverySpec
	if b := s.Broker(t.BrokerOf()); b != nil && b.Spec.Delivery != nil {
		broker = *b.Spec.Delivery
	}
	if t.Spec.Delivery == nil {
		return broker
	}
	own = *t.Spec.Delivery
	if own.DeadLetterSink == nil {
		own.DeadLetterSink = broker.DeadLetterSink
	}
	return own
}

// Folder is a folder of manifests and its name in messages.
type Folder struct {
	Name string
	FS   fs.FS
}

// Dir gives the folders brokers, triggers, config and config/sources of dir, or
// dir itself where it has none of them.
func Dir(dir string) []Folder {
	var folders []Folder
	for _, name := range []string{"brokers", "triggers", "config", "config/sources"} {
		sub := filepath.Join(dir, name)
		if info, err := os.Stat(sub); err == nil && info.IsDir() {
			folders = append(folders, Folder{sub, os.DirFS(sub)})
		}
	}
	if folders == nil {
		folders = []Folder{{dir, os.DirFS(dir)}}
	}
	return folders
}

// Load reads the *.yaml and *.yml files of the folders. As with `kubectl apply
// -f`, folders in them are not read. The error holds every Fault found.
func Load(folders ...Folder) (Set, error) {
	var l loader
	for _, f := range folders {
		l.read(f)
	}
	return l.set()
}

// loader collects objects; defaults and validation need all of them, since
// ConfigMaps bear on both.
type loader struct {
	docs []document
	errs []error
}

func (l *loader) fail(err error) { l.errs = append(l.errs, err) }

func (l *loader) read(f Folder) {
	entries, err := fs.ReadDir(f.FS, ".")
	if err != nil {
		l.fail(fmt.Errorf("read manifests of %s: %w", f.Name, err))
		return
	}
	for _, e := range entries {
		ext := path.Ext(e.Name())
		if e.IsDir() || ext != ".yaml" && ext != ".yml" {
			continue
		}
		data, err := fs.ReadFile(f.FS, e.Name())
		if err != nil {
			l.fail(fmt.Errorf("read manifests of %s: %w", f.Name, err))
			continue
		}
		docs, err := split(filepath.Join(f.Name, e.Name()), data)
		if err != nil {
			l.fail(err)
		}
		l.docs = append(l.docs, docs...)
	}
}

func (l *loader) set() (Set, error) {
	var s Set
	configMaps := map[Ref]*corev1.ConfigMap{}
	seen := map[string]Where{}
	for _, d := range l.docs {
		object, err := d.decode()
		if err != nil {
			l.fail(err)
			continue
		}
		meta, err := d.meta()
		if err != nil {
			l.fail(err)
			continue
		}
		key := fmt.Sprintf("%s %s/%s", meta.Kind, meta.Namespace, meta.Name)
		if first, ok := seen[meta.APIVersion+" "+key]; ok {
			l.fail(refused(d.Where, key, "stands at %s already: remove one of them", first))
			continue
		}
		seen[meta.APIVersion+" "+key] = d.Where
		ref := Ref{meta.Namespace, meta.Name}
		switch o := object.(type) {
		case *eventingv1.Broker:
			o.Namespace = ref.Namespace
			s.Brokers = append(s.Brokers, &Broker{d.Where, *o})
		case *eventingv1.Trigger:
			o.Namespace = ref.Namespace
			s.Triggers = append(s.Triggers, &Trigger{d.Where, *o})
		case *servingv1.Service:
			o.Namespace = ref.Namespace
			svc := &Service{Service: *o}
			svc.Workload = Workload{Where: d.Where, kind: meta.Kind, ref: ref, Emits: List(o.Annotations[Emits]), Attributes: List(o.Annotations[Attributes]), pod: &svc.Spec.Template.Spec.PodSpec}
			s.Services = append(s.Services, svc)
		case *appsv1.Deployment:
			o.Namespace = ref.Namespace
			dep := &Deployment{Deployment: *o}
			dep.Workload = Workload{Where: d.Where, kind: meta.Kind, ref: ref, Emits: List(o.Annotations[Emits]), Attributes: List(o.Annotations[Attributes]), pod: &dep.Spec.Template.Spec}
			s.Deployments = append(s.Deployments, dep)
		case *sourcesv1.PingSource:
			o.Namespace = ref.Namespace
			s.PingSources = append(s.PingSources, &PingSource{d.Where, *o})
		case *corev1.ServiceAccount:
			o.Namespace = ref.Namespace
			s.Accounts = append(s.Accounts, &Account{d.Where, *o})
		case *corev1.Service:
			if o.Spec.Type != corev1.ServiceTypeExternalName {
				s.Passed = append(s.Passed, &Passed{d.Where, meta.APIVersion, meta.Kind, ref})
				break
			}
			o.Namespace = ref.Namespace
			s.Aliases = append(s.Aliases, &Alias{d.Where, *o})
		case *eventingv1alpha1.EventPolicy:
			o.Namespace = ref.Namespace
			s.EventPolicies = append(s.EventPolicies, &EventPolicy{d.Where, *o})
		case *networkingv1.NetworkPolicy:
			o.Namespace = ref.Namespace
			s.NetworkPolicies = append(s.NetworkPolicies, &NetworkPolicy{d.Where, *o})
		case *corev1.ConfigMap:
			configMaps[ref] = o
			s.Passed = append(s.Passed, &Passed{d.Where, meta.APIVersion, meta.Kind, ref})
		default:
			s.Passed = append(s.Passed, &Passed{d.Where, meta.APIVersion, meta.Kind, ref})
		}
	}
	l.complete(s, configMaps)
	if err := errors.Join(l.errs...); err != nil {
		return Set{}, err
	}
	sorted(s.Brokers)
	sorted(s.Triggers)
	sorted(s.Services)
	sorted(s.Deployments)
	sorted(s.PingSources)
	sorted(s.Accounts)
	sorted(s.Aliases)
	sorted(s.EventPolicies)
	sorted(s.NetworkPolicies)
	slices.SortFunc(s.Passed, func(a, b *Passed) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), compareRefs(a.Ref, b.Ref)) })
	return s, nil
}

func sorted[T interface{ Ref() Ref }](all []T) {
	slices.SortFunc(all, func(a, b T) int { return compareRefs(a.Ref(), b.Ref()) })
}

func compareRefs(a, b Ref) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// complete does what the webhooks and the reconcilers of a cluster do.
func (l *loader) complete(s Set, configMaps map[Ref]*corev1.ConfigMap) {
	ctx := context.Background()
	flags, err := feature.NewFlagsConfigFromMap(nil)
	if m := configMaps[Ref{"knative-eventing", "config-features"}]; m != nil {
		flags, err = feature.NewFlagsConfigFromMap(m.Data)
	}
	if err != nil {
		l.fail(fmt.Errorf("read ConfigMap knative-eventing/config-features: %w", err))
	}
	eventing := withBrokerDefaults(feature.ToContext(ctx, flags))
	for _, b := range s.Brokers {
		b.SetDefaults(eventing)
		l.validated(b.Where, "Broker", b.Ref(), b.Validate(eventing))
	}
	for _, t := range s.Triggers {
		t.SetDefaults(eventing)
		l.validated(t.Where, "Trigger", t.Ref(), t.Validate(eventing))
	}
	for _, p := range s.PingSources {
		p.SetDefaults(ctx)
		l.validated(p.Where, "PingSource", p.Ref(), p.Validate(ctx))
	}
	for _, p := range s.EventPolicies {
		p.SetDefaults(eventing)
		l.validated(p.Where, "EventPolicy", p.Ref(), p.Validate(eventing))
	}
	for _, p := range s.NetworkPolicies {
		if len(p.Spec.PolicyTypes) == 0 { // as a cluster does
			p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
			if len(p.Spec.Egress) > 0 {
				p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
			}
		}
		l.validated(p.Where, "NetworkPolicy", p.Ref(), p.validate())
	}
	for _, svc := range s.Services {
		svc.SetDefaults(ctx)
		// ko puts the name of a built image here before a cluster sees it.
		built := svc.Service.DeepCopy()
		containers := built.Spec.Template.Spec.Containers
		for i := range containers {
			containers[i].Image = strings.TrimPrefix(containers[i].Image, "ko://")
		}
		if l.validated(svc.Where, "Service", svc.Ref(), built.Validate(ctx)) {
			l.resolve(&svc.Workload, configMaps)
		}
	}
	for _, dep := range s.Deployments {
		if l.validated(dep.Where, "Deployment", dep.Ref(), dep.validate()) {
			l.resolve(&dep.Workload, configMaps)
		}
	}
}

func (l *loader) resolve(w *Workload, configMaps map[Ref]*corev1.ConfigMap) {
	if err := w.resolveEnv(configMaps); err != nil {
		l.fail(err)
	}
}

// validate checks what a cluster would refuse a Deployment for that is written
// wrong most easily; the whole of its validation is in no library.
func (d *Deployment) validate() *apis.FieldError {
	if len(d.Spec.Template.Spec.Containers) == 0 {
		return apis.ErrMissingField("spec.template.spec.containers")
	}
	for i, c := range d.Spec.Template.Spec.Containers {
		if c.Image == "" {
			return apis.ErrMissingField(fmt.Sprintf("spec.template.spec.containers[%d].image", i))
		}
	}
	if d.Spec.Selector == nil {
		return apis.ErrMissingField("spec.selector")
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return apis.ErrInvalidValue(err.Error(), "spec.selector")
	}
	if selector.Empty() || !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
		return apis.ErrGeneric("the selector does not select the pods of the template", "spec.selector")
	}
	return nil
}

// validated reports what Knative's validation says, with the line of each
// field, and whether it finds no fault. Warnings are none.
func (l *loader) validated(w Where, kind string, ref Ref, fault *apis.FieldError) bool {
	fault = fault.Filter(apis.ErrorLevel)
	if fault == nil {
		return true
	}
	for _, e := range fault.WrappedErrors() {
		at := w
		if len(e.Paths) > 0 {
			at = w.At(e.Paths[0])
		}
		l.fail(refused(at, kind+" "+ref.String(), "%w", e))
	}
	return false
}

// List reads the value of an annotation that holds several words.
func List(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}
