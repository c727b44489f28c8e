package policy_test

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/check"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/policy"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

// today is a day on which the exceptions of the shipped policies hold.
var today = time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)

func shipped(t *testing.T) []*policy.Policy {
	t.Helper()
	all, faults, err := policy.Load("config/policies", config.Policies)
	if err != nil || len(faults) > 0 {
		t.Fatal(faults, err)
	}
	return all
}

// folders are the shipped documents.
var folders = map[string]fs.FS{"brokers": brokers.FS, "triggers": triggers.FS, "config": config.FS, "config/sources": config.Sources, "products": products.FS}

// find holds the shipped mesh against policies, with texts of a file replaced.
func find(t *testing.T, policies []*policy.Policy, now time.Time, file string, replace ...string) []check.Finding {
	t.Helper()
	var manifests []manifest.Folder
	var documents policy.Products
	for _, name := range slices.Sorted(maps.Keys(folders)) {
		folder := folders[name]
		if in, ok := strings.CutPrefix(file, name+"/"); ok && (name == "products" || !strings.Contains(in, "/")) {
			folder = with(t, folder, in, replace)
		}
		if name == "products" {
			documents = policy.Products{Folder: name, FS: folder}
		} else {
			manifests = append(manifests, manifest.Folder{Name: name, FS: folder})
		}
	}
	set, err := manifest.Load(manifests...)
	if err != nil {
		t.Fatal(err)
	}
	m, err := policy.New(set, documents)
	if err != nil {
		t.Fatal(err)
	}
	findings := m.Check(policies, now)
	for i, f := range findings {
		folder, name := path.Split(f.File)
		if strings.HasPrefix(folder, "products/") {
			folder, name = "products", strings.TrimPrefix(f.File, "products/")
		}
		if of, ok := folders[strings.TrimSuffix(folder, "/")]; ok {
			if f.File == file {
				of = with(t, of, name, replace)
			}
			text, err := fs.ReadFile(of, name)
			if err != nil {
				t.Fatal(err)
			}
			// Lines of the shipped files move: what stands there tells as well.
			if f.Line > 0 {
				findings[i].File += ": " + strings.TrimSpace(strings.Split(string(text), "\n")[f.Line-1])
				findings[i].Line = 0
			}
		}
	}
	return findings
}

// with is a folder in which one file is another.
func with(t *testing.T, folder fs.FS, file string, replace []string) fs.FS {
	t.Helper()
	all := fstest.MapFS{}
	err := fs.WalkDir(folder, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(folder, name)
		all[name] = &fstest.MapFile{Data: text}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	text := string(all[file].Data)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("%s has no %q", file, replace[i])
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	all[file] = &fstest.MapFile{Data: []byte(text)}
	return all
}

func lines(findings []check.Finding) (all []string) {
	for _, f := range findings {
		all = append(all, fmt.Sprintf("%s: %s: %s", f.Where, f.Object, f.Problem))
	}
	return all
}

func TestShippedMeshIsAsItsPoliciesWant(t *testing.T) {
	all := shipped(t)
	if len(all) < 12 {
		t.Errorf("%d policies", len(all))
	}
	for _, f := range append(policy.Test(all), find(t, all, today, "")...) {
		t.Error(f)
	}
}

// Each shipped policy finds, in the shipped mesh with one mistake, that and nothing
// else, at its line.
func TestMistakes(t *testing.T) {
	all := shipped(t)
	seen := map[string]bool{}
	for _, test := range []struct {
		policy, file string
		replace      []string
		want         string
	}{
		{"port-is-described", "products/customers/product.odps.yaml", []string{"description: Every customer as it stands now.", "description: Customers"},
			`products/customers/product.odps.yaml: description: Customers: port customers.customers: says of itself "Customers", which is no sentence`},
		{"personal-data-is-classified", "products/customers/customers.odcs.yaml", []string{"      - name: sector\n", "      - name: phone\n        logicalType: string\n        physicalType: STRING\n        classification: public\n        description: Phone.\n      - name: sector\n"},
			"products/customers/customers.odcs.yaml: classification: public: column customers.customers.phone: is public, and its name is that of what is about a person or a tenant"},
		{"product-domain", "brokers/crm.yaml", []string{"  namespace: crm\n", "  namespace: sales\n"},
			"products/customers/product.odps.yaml: domain: crm: product customers: is of domain crm, which has no Broker"},
		{"event-name", "config/telemetry-flatten.yaml", []string{"dev.telemesh.telemetry.rejected.v1", "telemetry.rejected"},
			"config/telemetry-flatten.yaml: telemesh.dev/emits: dev.telemesh.telemetry.flattened.v1,telemetry.rejected: events telemetry.rejected: is no type as dev.telemesh.placements.changed.v1"},
		{"service-is-confined", "config/tenant-enrich.yaml", []string{"readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"},
			"config/tenant-enrich.yaml: containers:: Service iot/tenant-enrich: has a container that may run as root, write its file system or gain privileges"},
		{"account-name", "config/tenant-enrich.yaml", []string{"serviceAccountName: tenant-enrich", "serviceAccountName: telemetry-flatten"},
			"config/tenant-enrich.yaml: serviceAccountName: telemetry-flatten: Service iot/tenant-enrich: runs as telemetry-flatten"},
		{"service-has-a-memory-limit", "config/tenant-enrich.yaml", []string{"            limits:\n              memory: 1Gi\n", ""},
			"config/tenant-enrich.yaml: containers:: Service iot/tenant-enrich: has a container without a limit of its memory"},
		{"service-stays-inside", "config/tenant-enrich.yaml", []string{"networking.knative.dev/visibility: cluster-local", "networking.knative.dev/visibility: public"},
			"config/tenant-enrich.yaml: labels:: Service iot/tenant-enrich: can be reached from outside the cluster"},
		{"trigger-has-a-dead-letter-sink", "triggers/telemetry-flatten.yaml", []string{"    retry: 10\n", "    retry: 0\n"},
			"triggers/telemetry-flatten.yaml: delivery:: Trigger iot/telemetry-flatten: gives up what it could not deliver at once"},
		{"tick-lets-sleep", "config/sources/sheet-source.yaml", []string{`schedule: "* * * * *"`, `schedule: "*/15 * * * *"`},
			"config/policies/tick-lets-sleep.yaml:10: exception of iot/sheet-source: is not needed: what it excepts is as the policy wants it"},
		{"read-goes-through-a-port", "products/iot-analytics/product.odps.yaml", []string{"  - name: actions\n    version: 1.0.0\n    contractId: iot-actions.actions\n", ""},
			"products/iot-analytics/readings.odcs.yaml: contract iot_analytics.readings: of domain analytics reads iot_actions.actions of domain iot, which no input port of iot-analytics names"},
		{"confidential-rows-have-a-tenant", "products/iot-analytics/product.odps.yaml", []string{"    description: Each action with whose it is and the room it was taken in.\n    customProperties:\n      - {property: tenantColumn, value: tenant_id}\n", "    description: Each action with whose it is and the room it was taken in.\n"},
			"products/iot-analytics/product.odps.yaml: - name: iot_analytics.actions_placed: port iot_analytics.actions_placed: has confidential columns (tenant_id, device_id, building, floor, room) and no column that says whose a row is"},
	} {
		seen[test.policy] = true
		var of []*policy.Policy
		for _, p := range all {
			if p.Name == test.policy {
				of = append(of, p)
			}
		}
		found := find(t, of, today, test.file, test.replace...)
		if got := lines(found); !slices.Contains(got, test.want) {
			t.Errorf("%s: found %q, want %q", test.policy, got, test.want)
			continue
		}
		if f := found[0]; f.Rule != test.policy || f.Why == "" || f.Do == "" || f.Severity != of[0].Severity {
			t.Errorf("%s: %+v", test.policy, f)
		}
		for _, f := range find(t, all, today, test.file, test.replace...) {
			if f.Rule != test.policy {
				t.Errorf("%s: also %s", test.policy, f)
			}
		}
	}
	// What a contract or a descriptor without it cannot even be read for.
	byLoading := []string{"owner-is-a-team", "product-name", "table-name", "port-has-a-quality-rule", "port-has-freshness", "contract-has-retention"}
	for _, p := range all {
		if !seen[p.Name] && !slices.Contains(byLoading, p.Name) {
			t.Errorf("no mistake of policy %s", p.Name)
		}
	}
}

const ports = `name: ports
severity: warning
why: it matters.
for: port
must: port.type != 'event'
message: "'is a port of events'"
fix: change it
cases:
  - {name: bad, given: {port: {type: event}}, finds: is a port of events}
  - {name: good, given: {port: {type: table}}}
`

func load(t *testing.T, text string) ([]*policy.Policy, []check.Finding) {
	t.Helper()
	all, faults, err := policy.Load("p", fstest.MapFS{"ports.yaml": {Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return all, faults
}

// An exception counts until its last day is over, everywhere; then what it excepts is
// found again, and the exception as well. One that nothing needs is found.
func TestExceptions(t *testing.T) {
	all, faults := load(t, ports+`exceptions:
  - {object: port dev.telemesh.analytics.joined.v1, reason: 'why not', until: 2026-11-30}
  - {object: customers.customers, reason: 'why not', until: 2026-11-30}
  - {object: not.there, reason: 'why not', until: 2026-11-30}
`)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	at := func(day string) (got []string) {
		now, err := time.Parse(time.RFC3339, day)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines(find(t, all, now, "")) {
			if strings.Contains(line, "analytics.joined") || strings.Contains(line, "exception") {
				got = append(got, line)
			}
		}
		return got
	}
	const unneeded = "p/ports.yaml:13: exception of customers.customers: is not needed: what it excepts is as the policy wants it"
	if diff := cmp.Diff([]string{unneeded}, at("2026-11-30T23:00:00-12:00")); diff != "" {
		t.Errorf("on the last day (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"products/iot-analytics/product.odps.yaml: - name: dev.telemesh.analytics.joined.v1: port dev.telemesh.analytics.joined.v1: is a port of events",
		"p/ports.yaml:12: exception of port dev.telemesh.analytics.joined.v1: ended on 2026-11-30",
		unneeded,
		"p/ports.yaml:14: exception of not.there: ended on 2026-11-30",
	}, at("2026-12-02T00:00:00Z")); diff != "" {
		t.Errorf("after it (-want +got)\n%s", diff)
	}
}

func TestFaultsOfPolicies(t *testing.T) {
	for _, test := range []struct{ old, new, want string }{
		{"port.type !=", "port.typ !=", "p/ports.yaml:5: policy ports: must: undefined field 'typ'"},
		{"must: port.type != 'event'", "must: |\n  port.type != 'event' &&\n  contract.port", "p/ports.yaml:7: policy ports: must: undeclared reference to 'contract' (in container '')"},
		{"must: port.type != 'event'", "must: port.type", "p/ports.yaml:5: policy ports: must: gives string"},
		{"must: port.type != 'event'\n", "", "p/ports.yaml:1: policy ports: must: is no text"},
		{"'is a port of events'", "1", "p/ports.yaml:6: policy ports: message: gives int"},
		{"name: ports", "name: other", `p/ports.yaml:1: policy ports: name: is "other"`},
		{"warning", "fatal", `p/ports.yaml:2: policy ports: severity: is "fatal"`},
		{"for: port", "for: table", `p/ports.yaml:4: policy ports: for: is "table"`},
		{"fix: change it\n", "", "p/ports.yaml:1: policy ports: fix: is missing"},
		{"fix:", "fixes:", "p/ports.yaml:7: policy ports: field fixes not found in a policy"},
		{"{port: {type: event}}", "{port: {typ: event}}", `p/ports.yaml:9: policy ports: cases[0].given: json: unknown field "typ"`},
		{"{port: {type: event}}", "{contract: {}}", "p/ports.yaml:9: policy ports: cases[0].given: contract: a policy for a port sees port, product and mesh"},
		{", finds: is a port of events", "", "p/ports.yaml:8: policy ports: cases: are not enough"},
		{"cases:", "exceptions: [{object: x, reason: y, until: soon}]\ncases:", `p/ports.yaml:8: policy ports: exceptions[0].until: is "soon"`},
		{"cases:", "exceptions: [{object: x, until: 2026-12-01}]\ncases:", "p/ports.yaml:8: policy ports: exceptions[0]: has no object or no reason"},
		{"name: ports", "name: ports\n---\nname: more", "p/ports.yaml:1: policy ports: the file has more than one document"},
		{ports, "# nothing\n", "p/ports.yaml:1: policy ports: the file is empty"},
		{"name: ports", "name: [", "p/ports.yaml:2: policy ports: did not find expected ',' or ']'"},
		{"cases:", "exceptions: [{objekt: x}]\ncases:", "p/ports.yaml:8: policy ports: field objekt not found in an exception"},
	} {
		all, faults := load(t, strings.Replace(ports, test.old, test.new, 1))
		if got := lines(faults); len(all) > 0 || !slices.Contains(got, test.want) {
			t.Errorf("%s for %s: %d policies, faults %q, want %q", test.new, test.old, len(all), got, test.want)
		}
	}
}

// A policy is not left out for how its file is called.
func TestNamesOfFiles(t *testing.T) {
	all, faults, err := policy.Load("p", fstest.MapFS{"ports.yml": {Data: []byte(ports)}, "README.md": {Data: []byte("#")}})
	if err != nil || len(faults) > 0 || len(all) != 1 {
		t.Errorf("Load = %d policies, %v, %v, want one", len(all), faults, err)
	}
}

func TestCases(t *testing.T) {
	for _, test := range []struct{ old, new, want string }{
		{"type: event}", "type: view}", `finds nothing, wants "is a port of events"`},
		{"type: table}", "type: event}", `finds "is a port of events", wants nothing`},
		{"\"'is a port of events'\"", "port.name", "message: is empty"},
		{"finds: is", "finds: was", `finds "is a port of events", wants "was a port of events"`},
		{"port.type != 'event'", "mesh.products[0].name == port.name", "must: index out of bounds: 0"},
	} {
		all, faults := load(t, strings.Replace(ports, test.old, test.new, 1))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		got := policy.Test(all)
		if len(got) == 0 || !strings.Contains(got[0].Problem, test.want) || got[0].File != "p/ports.yaml" || got[0].Line < 9 {
			t.Errorf("%s for %s: %v, want %s", test.new, test.old, got, test.want)
		}
	}
}

// What cannot be evaluated is found: a policy never lets pass what it did not look at.
func TestEvaluationErrorsAreFound(t *testing.T) {
	all, faults := load(t, strings.Replace(ports, "port.type != 'event'", "port.columns[0].name != ''", 1))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	got := lines(find(t, all, today, ""))
	const want = "p/ports.yaml:5: port dev.telemesh.analytics.joined.v1: the policy ports cannot be held against it: must: index out of bounds: 0"
	if !slices.Contains(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func BenchmarkShipped(b *testing.B) {
	manifests, err := manifest.Load(manifest.Folder{Name: "brokers", FS: brokers.FS}, manifest.Folder{Name: "triggers", FS: triggers.FS},
		manifest.Folder{Name: "config", FS: config.FS}, manifest.Folder{Name: "config/sources", FS: config.Sources})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		all, faults, err := policy.Load("config/policies", config.Policies)
		if err != nil {
			b.Fatal(err)
		}
		found := policy.Finder(all, faults, policy.Products{FS: products.FS}, today)(check.Mesh{Manifests: manifests})
		if len(found) > 0 {
			b.Fatal(found)
		}
	}
}
