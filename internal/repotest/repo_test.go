package repotest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventingduckv1 "knative.dev/eventing/pkg/apis/duck/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/serving/pkg/apis/autoscaling"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/functions"
	"github.com/telemesh/telemesh/internal/check"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

const module = "github.com/telemesh/telemesh"

var embedded = []manifest.Folder{
	{Name: "brokers", FS: brokers.FS},
	{Name: "triggers", FS: triggers.FS},
	{Name: "config", FS: config.FS},
	{Name: "config/sources", FS: config.Sources},
}

func manifests(t *testing.T) manifest.Set {
	t.Helper()
	set, err := manifest.Load(embedded...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// examples are the meshes of examples/, each by itself, by their folder.
func examples(t *testing.T) map[string][]manifest.Folder {
	t.Helper()
	root := filepath.Join(dataset.Root(t), "examples")
	all := map[string][]manifest.Folder{}
	for _, name := range folders(t, root) {
		all[path.Join("examples", name)] = manifest.Dir(filepath.Join(root, name))
	}
	if len(all) == 0 {
		t.Errorf("there are no examples")
	}
	return all
}

// meshes are the mesh and each of the examples.
func meshes(t *testing.T) []manifest.Set {
	t.Helper()
	all := []manifest.Set{manifests(t)}
	for name, folders := range examples(t) {
		set, err := manifest.Load(folders...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, set)
	}
	return all
}

// folders gives the names of the folders in dir, but for what tests have there.
func folders(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != "testdata" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestTopLevel(t *testing.T) {
	out, err := exec.Command("git", "-C", dataset.Root(t), "ls-files").Output()
	if err != nil {
		t.Skipf("git ls-files: %v", err)
	}
	want := []string{".ci", ".gitignore", ".ko.yaml", "README.md", "brokers", "cmd", "config", "docs", "examples", "functions",
		"go.mod", "go.sum", "hack", "internal", "ko.yaml", "products", "triggers"}
	got := map[string]bool{}
	for _, file := range strings.Fields(string(out)) {
		if info, err := os.Stat(filepath.Join(dataset.Root(t), file)); err == nil && info.Size() > 1<<20 {
			t.Errorf("%s has %d bytes: nothing that large belongs in the repository", file, info.Size())
		}
		top, _, _ := strings.Cut(file, "/")
		got[top] = true
	}
	for name := range got {
		if !slices.Contains(want, name) {
			t.Errorf("%s at the top level: the layout has no room for it", name)
		}
	}
	if link, err := os.Readlink(filepath.Join(dataset.Root(t), ".ko.yaml")); err != nil || link != "ko.yaml" {
		t.Errorf(".ko.yaml is a link to %q, %v: ko reads only .ko.yaml, people look for ko.yaml", link, err)
	}
}

// A function is a folder, a main, a handler package of one word, an entry of
// the table and the image of at least one Service or Deployment, of the mesh or of an
// example.
func TestFunctionIsWholeEverywhere(t *testing.T) {
	root := filepath.Join(dataset.Root(t), "functions")
	names := folders(t, root)
	var table []string
	for name := range functions.Table {
		table = append(table, name)
	}
	slices.Sort(table)
	if diff := cmp.Diff(names, table); diff != "" {
		t.Errorf("functions.Table (-folders +table):\n%s", diff)
	}
	images := map[string]bool{}
	for _, set := range meshes(t) {
		for _, w := range set.Workloads() {
			images[w.Function()] = true
			if !slices.Contains(names, w.Function()) {
				t.Errorf("%s: %s runs an image that is no folder of functions/", w.Where, w.Object())
			}
		}
	}
	word := regexp.MustCompile(`^[a-z]+$`)
	for _, name := range names {
		if !images[name] {
			t.Errorf("function %s: no Service and no Deployment of config/, config/sources/ and examples/ runs it", name)
		}
		main, err := os.ReadFile(filepath.Join(root, name, "main.go"))
		if err != nil {
			t.Errorf("function %s: %v", name, err)
			continue
		}
		if lines := strings.Count(string(main), "\n"); lines > 25 {
			t.Errorf("functions/%s/main.go has %d lines: it wires, nothing else", name, lines)
		}
		if call := fmt.Sprintf("function.Main(%q, ", name); !strings.Contains(string(main), call) {
			t.Errorf("functions/%s/main.go does not call %s…)", name, call)
		}
		if handlers := folders(t, filepath.Join(root, name)); len(handlers) != 1 || !word.MatchString(handlers[0]) {
			t.Errorf("functions/%s holds the folders %v, want one of one word", name, handlers)
		}
	}
}

// One object a file, and the file has its name. A source is what has its name
// together: `ko apply` of its file brings it whole. What wakes a function by the clock
// stands with its Service, and is called as that or begins so. Of Triggers of one name
// in several domains the file has the namespace, too.
func TestManifestFiles(t *testing.T) {
	for _, set := range meshes(t) {
		standsWhereItShould(t, set)
	}
}

func standsWhereItShould(t *testing.T, set manifest.Set) {
	t.Helper()
	files := map[string]string{}
	named := func(w manifest.Where, name, namespace string) {
		if base := strings.TrimSuffix(path.Base(w.File), ".yaml"); base != name && base != name+"-"+namespace {
			t.Errorf("%s: %s stands in %s.yaml", w, name, base)
		}
		if other, ok := files[w.File]; ok && !w.OptIn() {
			t.Errorf("%s: %s and %s share a file", w, name, other)
		}
		files[w.File] = name
	}
	for _, b := range set.Brokers {
		named(b.Where, b.Name, b.Namespace)
		if b.Namespace != b.Name {
			t.Errorf("%s: Broker %s is not of the domain that its namespace is", b.Where, b.Ref())
		}
	}
	for _, w := range set.Workloads() {
		named(w.Where, w.Ref().Name, w.Ref().Namespace)
		if name := w.Function(); w.OptIn() && name != w.Ref().Name {
			t.Errorf("%s: source %s runs function %q, want the one of its name", w.Where, w.Object(), name)
		}
	}
	for _, d := range set.Deployments {
		if !d.OptIn() {
			t.Errorf("%s: Deployment %s: what `ko apply -f config/` brings is woken, sources stand in config/sources/", d.Where.String(), d.Ref())
		}
	}
	for _, p := range set.PingSources {
		for _, trigger := range set.Takers(p) {
			woken, err := manifest.Resolve(trigger.Spec.Subscriber, trigger.Namespace)
			s := set.Service(woken.Service)
			if err != nil || s == nil || s.Workload.File != p.File || p.Name != s.Name && !strings.HasPrefix(p.Name, s.Name+"-") {
				t.Errorf("%s: PingSource %s wakes %v, %v: want a Service of the same file and the same name", p.Where, p.Ref(), woken.Service, err)
			}
			if p.OptIn() && trigger.File != p.File {
				t.Errorf("%s: PingSource %s wakes what stands in %s", p.Where, p.Ref(), trigger.File)
			}
		}
	}
	for _, trigger := range set.Triggers {
		named(trigger.Where, trigger.Name, trigger.Namespace)
		// The Service of dead letters has no events but these brought to it.
		if ref := trigger.Spec.Subscriber.Ref; ref == nil || ref.Name != trigger.Name && trigger.Name != "dead-letter-redrive" {
			t.Errorf("%s: Trigger %s is not named as its subscriber", trigger.Where, trigger.Ref())
		}
	}
}

// The whole mesh as `telemesh check` sees it: nothing in it is wrong, with each overlay,
// too.
func TestMeshFitsTogether(t *testing.T) {
	overlays, err := manifest.Overlays(manifest.Folder{Name: "config/overlays", FS: config.Overlays})
	if err != nil {
		t.Fatal(err)
	}
	mesh := check.Read(check.Source{
		Manifests: embedded, Overlays: overlays, Products: manifest.Folder{Name: "products", FS: products.FS},
		Functions: slices.Sorted(maps.Keys(functions.Table)),
	})
	for _, finding := range check.Run(mesh) {
		t.Error(finding)
	}
	if len(mesh.Manifests.Triggers) == 0 || len(mesh.Products) == 0 || mesh.Lineage == nil {
		t.Errorf("%d Triggers, %d products: too few to say anything", len(mesh.Manifests.Triggers), len(mesh.Products))
	}
	var names []string
	for _, overlay := range overlays {
		names = append(names, path.Base(overlay.Name))
	}
	if diff := cmp.Diff([]string{"kafka", "secure"}, names); diff != "" || len(mesh.Overlays) != len(names) {
		t.Errorf("config/overlays (-want +got):\n%s", diff)
	}
}

// An example is a mesh by itself, which anybody may begin with.
func TestExamplesFitTogether(t *testing.T) {
	for name, folders := range examples(t) {
		mesh := check.Read(check.Source{Manifests: folders, Functions: slices.Sorted(maps.Keys(functions.Table))})
		for _, finding := range check.Run(mesh) {
			t.Error(finding)
		}
		text, err := os.ReadFile(filepath.Join(dataset.Root(t), name, "README.md"))
		if command := "telemesh up --manifests " + name; err != nil || !strings.Contains(string(text), command) {
			t.Errorf("%s/README.md: %v: it does not say `%s`", name, err, command)
		}
		for _, trigger := range mesh.Manifests.Triggers {
			if d := trigger.Spec.Delivery; d == nil || d.Retry == nil || d.BackoffPolicy == nil || d.BackoffDelay == nil {
				t.Errorf("%s: Trigger %s: delivery lacks one of retry, backoffPolicy and backoffDelay", trigger.Where, trigger.Ref())
			}
		}
	}
}

// A Trigger's delivery replaces its Broker's but for the dead letter sink: what it does
// not say is Knative's default, which is not to try again.
func TestTriggersSayHowTheyDeliver(t *testing.T) {
	set := manifests(t)
	sink := manifest.Ref{Namespace: "platform", Name: "dead-letter-sink"}
	says := func(where manifest.Where, object string, d *eventingduckv1.DeliverySpec) {
		if d == nil || d.Retry == nil || d.BackoffPolicy == nil || d.BackoffDelay == nil || d.DeadLetterSink == nil {
			t.Errorf("%s: %s: delivery lacks one of retry, backoffPolicy, backoffDelay and deadLetterSink", where, object)
			return
		}
		if to, err := manifest.Resolve(*d.DeadLetterSink, ""); err != nil || to.Service != sink {
			t.Errorf("%s: %s: dead letters go to %v, %v; want Service %s", where, object, to.URL, err, sink)
		}
	}
	for _, b := range set.Brokers {
		says(b.Where, "Broker "+b.Ref().String(), b.Spec.Delivery)
	}
	for _, trigger := range set.Triggers {
		says(trigger.Where, "Trigger "+trigger.Ref().String(), trigger.Spec.Delivery)
	}
	// Of an attribute that is not there a CESQL expression is an error, which nobody
	// sees: the event is not delivered, not even by `NOT attribute = 'x'`.
	optional := 0
	var cesql func(manifest.Where, []eventingv1.SubscriptionsAPIFilter)
	cesql = func(where manifest.Where, filters []eventingv1.SubscriptionsAPIFilter) {
		for _, f := range filters {
			if f.CESQL != "" {
				optional++
				if !strings.HasPrefix(f.CESQL, "EXISTS ") {
					t.Errorf("%s: cesql %q does not begin with EXISTS", where, f.CESQL)
				}
			}
			cesql(where, append(f.All, f.Any...))
			if f.Not != nil {
				cesql(where, []eventingv1.SubscriptionsAPIFilter{*f.Not})
			}
		}
	}
	for _, trigger := range set.Triggers {
		cesql(trigger.Where, trigger.Spec.Filters)
	}
	if optional == 0 {
		t.Error("no Trigger has a CESQL expression")
	}
}

// What a pod may, what it takes of its node, and how it is known to be well.
func TestPods(t *testing.T) {
	for _, set := range meshes(t) {
		confined(t, set)
	}
}

func confined(t *testing.T, set manifest.Set) {
	t.Helper()
	pod := func(w *manifest.Workload, spec corev1.PodSpec) {
		if len(spec.Containers) != 1 {
			t.Errorf("%s: %s has %d containers", w.Where, w.Object(), len(spec.Containers))
			return
		}
		c := spec.Containers[0]
		yes, no := true, false
		want := &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no,
			ReadOnlyRootFilesystem:   &yes,
			RunAsNonRoot:             &yes,
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
		if diff := cmp.Diff(want, c.SecurityContext); diff != "" {
			t.Errorf("%s: %s: securityContext (-want +got):\n%s", w.Where, w.Object(), diff)
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s: %s: want requests of cpu and memory, and a limit of memory", w.Where, w.Object())
		}
		if !c.Resources.Limits.Cpu().IsZero() {
			t.Errorf("%s: %s: a limit of cpu slows down the cold start first", w.Where, w.Object())
		}
		for name, probe := range map[string]*corev1.Probe{"readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
			if probe == nil || probe.HTTPGet == nil {
				t.Errorf("%s: %s: no %s probe by httpGet", w.Where, w.Object(), name)
			}
		}
	}
	for _, s := range set.Services {
		pod(&s.Workload, s.Spec.Template.Spec.PodSpec)
		if p := s.Spec.Template.Spec.Containers[0].ReadinessProbe; p != nil && p.PeriodSeconds != 0 {
			t.Errorf("%s: %s: its readiness has a period: Knative asks every 50 ms only without", s.Workload.Where, s.Object())
		}
		scale := s.Spec.Template.Annotations
		for _, name := range []string{autoscaling.WindowAnnotationKey, autoscaling.MaxScaleAnnotationKey} {
			if scale[name] == "" {
				t.Errorf("%s: %s: no annotation %s", s.Workload.Where, s.Object(), name)
			}
		}
		if at := s.Spec.Template.Spec.ContainerConcurrency; scale[autoscaling.TargetAnnotationKey] == "" && (at == nil || *at == 0) {
			t.Errorf("%s: %s: neither %s nor containerConcurrency", s.Workload.Where, s.Object(), autoscaling.TargetAnnotationKey)
		}
		if min := scale[autoscaling.MinScaleAnnotationKey]; min != "" {
			t.Errorf("%s: %s: %s is %s: it does not scale to zero", s.Workload.Where, s.Object(), autoscaling.MinScaleAnnotationKey, min)
		}
		if local := s.Service.Labels["networking.knative.dev/visibility"] == "cluster-local"; local == (s.Name == "telemetry-ingest" || s.Name == "portal") {
			t.Errorf("%s: %s: cluster-local is %v: devices reach telemetry-ingest, people the portal, and nobody else anything", s.Workload.Where, s.Object(), local)
		}
	}
	for _, d := range set.Deployments {
		pod(&d.Workload, d.Spec.Template.Spec)
	}
}

// Images for both kinds of processors, each with its bill of materials, which ko makes
// unless it is told not to.
func TestImages(t *testing.T) {
	root := dataset.Root(t)
	ko, err := os.ReadFile(filepath.Join(root, "ko.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"linux/amd64", "linux/arm64", "distroless/static"} {
		if !strings.Contains(string(ko), want) {
			t.Errorf("ko.yaml does not name %s", want)
		}
	}
	off := regexp.MustCompile(`(?i)sbom\W+none|KO_SBOM`)
	scripts, err := filepath.Glob(filepath.Join(root, "hack", "*.sh"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("scripts of hack: %v, %v", scripts, err)
	}
	for _, file := range append(scripts, filepath.Join(root, "ko.yaml"), filepath.Join(root, "README.md"), filepath.Join(root, ".ci", "run")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if m := off.Find(text); m != nil {
			t.Errorf("%s: %q: images are built with their bill of materials", file, m)
		}
	}
}

// deps gives what the package at path depends on, itself included.
func deps(t *testing.T, pattern string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", pattern)
	cmd.Dir = dataset.Root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pattern, err)
	}
	return strings.Fields(string(out))
}

// An image starts fast because of what it does not hold. Those that open a
// warehouse hold BigQuery's client, which triples them.
func TestFunctionsStaySmall(t *testing.T) {
	needed := map[string][]string{
		"pubsub-source": {"cloud.google.com/go/pubsub", "google.golang.org/grpc"}, // what Pub/Sub is pulled by
		"sheet-source":  {"google.golang.org/grpc"},                               // the options of all of Google's clients name it
	}
	for name := range functions.Table {
		all := deps(t, "./functions/"+name)
		if slices.Contains(all, module+"/internal/warehouse/connect") {
			needed[name] = append(needed[name], "cloud.google.com/go/bigquery", "google.golang.org/grpc")
		}
		for _, dep := range all {
			for _, heavy := range []string{
				"github.com/duckdb/", "github.com/nats-io/", "k8s.io/client-go", "k8s.io/api/", "knative.dev/eventing", "knative.dev/serving",
				"cloud.google.com/go/bigquery", "cloud.google.com/go/pubsub", "google.golang.org/grpc", module + "/internal/cloud",
				"github.com/spf13/cobra", "knative.dev/pkg/metrics", "go.opentelemetry.io/otel/exporters",
			} {
				if strings.HasPrefix(dep, heavy) && !slices.Contains(needed[name], heavy) {
					t.Errorf("function %s depends on %s", name, dep)
				}
			}
		}
	}
}

// The warehouse is opened in one package: a function that named a store of its
// own would not find the others.
func TestWarehousesAreOpenedInOnePlace(t *testing.T) {
	for name := range functions.Table {
		for _, dep := range imports(t, "./functions/"+name+"/...") {
			if strings.HasPrefix(dep, module+"/internal/warehouse/") && !strings.HasSuffix(dep, "/connect") && !strings.HasSuffix(dep, "/literal") {
				t.Errorf("function %s imports %s", name, dep)
			}
		}
	}
}

// Each function is somebody, and no other: what one of them may, on the cluster, in
// the mesh and in the warehouse, is said for it alone. Who reaches the warehouse is
// its product there, and who does not is nobody.
func TestFunctionsHaveAccounts(t *testing.T) {
	set := manifests(t)
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	productOf := func(service string) string {
		// Named by what they do, and not by whose tables they have.
		switch service {
		case "tenancy-repair", "telemetry-judge":
			return "iot-telemetry"
		case "assignment-port":
			return "iot-metadata"
		case "analytics-repair", "co2-level":
			return "iot-analytics"
		case "dead-letter-sink":
			return "event-log"
		case "quality-check", "service-levels":
			return "mesh-metrics"
		case "portal": // of none: it reads all
			return "portal"
		}
		for _, p := range list {
			if service == p.Name || strings.HasPrefix(service, p.Name+"-") {
				return p.Name
			}
		}
		return "none"
	}
	opens := map[string]bool{}
	for name := range functions.Table {
		opens[name] = slices.Contains(deps(t, "./functions/"+name), module+"/internal/warehouse/connect")
	}
	labelled := 0
	for _, w := range set.Workloads() {
		account := set.Account(w.Account())
		if w.Account() != w.Ref() || account == nil {
			t.Errorf("%s: %s runs as ServiceAccount %s, want one of its own name", w.Where, w.Object(), w.Account())
			continue
		}
		if account.File != w.File || account.Line > w.Line {
			t.Errorf("%s: the account of %s does not stand before it in %s", account.Where, w.Object(), w.File)
		}
		if account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken {
			t.Errorf("%s: ServiceAccount %s: a function asks nothing of the cluster: automountServiceAccountToken: false", account.Where, account.Ref())
		}
		want := ""
		if opens[w.Function()] {
			want = productOf(w.Ref().Name)
			labelled++
		}
		if got := account.Labels[manifest.Product]; got != want {
			t.Errorf("%s: ServiceAccount %s is product %q where the warehouse is, want %q", account.Where, account.Ref(), got, want)
		}
	}
	if labelled == 0 {
		t.Error("no Service opens the warehouse")
	}
	if have, want := len(set.Accounts), len(set.Workloads()); have != want {
		t.Errorf("%d ServiceAccounts for %d Services and Deployments", have, want)
	}
}

// imports gives what the packages of a pattern import themselves.
func imports(t *testing.T, pattern string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, pattern)
	cmd.Dir = dataset.Root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v", pattern, err)
	}
	return strings.Fields(string(out))
}

// mesh ← function ← functions ← local ← cmd, and DuckDB under cmd alone.
func TestDependenciesRunOneWay(t *testing.T) {
	below := func(pattern string, forbidden ...string) {
		t.Helper()
		for _, dep := range deps(t, pattern) {
			for _, f := range forbidden {
				if dep == f || strings.HasPrefix(dep, f+"/") {
					t.Errorf("%s depends on %s", pattern, dep)
				}
			}
		}
	}
	below("./internal/mesh", module+"/internal/function", module+"/internal/warehouse", module+"/functions", module+"/internal/local")
	below("./internal/function", module+"/functions", module+"/internal/local", "github.com/duckdb")
	below("./functions", module+"/internal/local", module+"/cmd", "github.com/duckdb", module+"/internal/cloud")
	below("./internal/local", module+"/functions", module+"/cmd", "github.com/duckdb")
	below("./internal/tenancy", module+"/internal/function", module+"/internal/warehouse")
}

func TestOnePackageCommentEach(t *testing.T) {
	root := dataset.Root(t)
	comments := map[string]int{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && file != root || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.Dir(file)
		if comments[dir] += 0; parsed.Doc != nil && !isDirective(parsed.Doc) {
			comments[dir]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, n := range comments {
		if n != 1 {
			rel, _ := filepath.Rel(root, dir)
			t.Errorf("%s: %d package comments, want 1", rel, n)
		}
	}
}

func isDirective(doc *ast.CommentGroup) bool { return strings.TrimSpace(doc.Text()) == "" }

// Every image that a manifest names is a main of this module.
func TestImagesAreMains(t *testing.T) {
	root := dataset.Root(t)
	images := regexp.MustCompile(`ko://(\S+)`)
	for _, dir := range []string{"config", "triggers", "brokers", "examples"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(file, ".yaml") {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			for _, image := range images.FindAllStringSubmatch(string(text), -1) {
				rel, ok := strings.CutPrefix(image[1], module+"/")
				if _, err := os.Stat(filepath.Join(root, rel, "main.go")); !ok || err != nil {
					t.Errorf("%s: image %s is no main of this module", file, image[1])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A page of decisions begins with its day and says what was not chosen.
func TestDecisionsAreDated(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(dataset.Root(t), "docs", "decisions", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	dated := regexp.MustCompile(`^\d{4}-\d{2}-\d{2}-[a-z0-9-]+\.md$`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if !dated.MatchString(filepath.Base(page)) || !strings.Contains(string(text), "## Not chosen") {
			t.Errorf("%s: want a dated name and a section \"Not chosen\"", filepath.Base(page))
		}
	}
}
