package bigquery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/functions"
	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/hack/e2e/analyse"
	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/cloud"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/disorder"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/placements"
	"github.com/telemesh/telemesh/internal/repair"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/trace"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

// duckDBOnly are the folders, files and statements of files that never go to
// BigQuery, or that something else checks.
var duckDBOnly = map[string]string{
	"internal/warehouse/duckdb":          "the other warehouse",
	"internal/warehouse/warehousetest":   "its suite runs them on both",
	"internal/warehouse/bigquery":        "TestStatementsOfTheWarehouse records them on the wire",
	"internal/warehouse/bigquery/schema": "analyse.Of makes its catalog of them",
	"internal/users":                     "the database of users is no warehouse",
	"internal/audit":                     "the database of users is no warehouse",
	"internal/quality/qualitytest":       "its suite runs them on both",
	"internal/lineage/tables.go":         "DuckDB says what its own SQL reads",
	"internal/cloud":                     "TestStatementsOfTheWarehouse records them on the wire",
	"internal/prove":                     "the proof runs on a data folder: its as-of join is DuckDB's",
	"internal/database":                  "the database of users is no warehouse",
	"functions/alert/notify":             "the database of alerts is no warehouse",
	"internal/spool":                     "the spool of a gateway is no warehouse",
	"cmd/telemesh/accounts.go":           "of the folder whose portal is a demo",
	"cmd/telemesh/load.go":               "of the folder whose mesh reads the sheets",
	"cmd/telemesh/sheets.go":             "of a folder",
	"cmd/telemesh/retry.go":              "of the folder whose mesh reads the messages again",
	"cmd/telemesh/replay.go":             "of the folder whose mesh reads the files",
	"cmd/telemesh/fromlog.go: SELECT count(*) FROM iot_telemetry.readings": "of the folder whose mesh gets the events",
	"cmd/telemesh/prove.go":         "of a folder",
	"cmd/telemesh/sheets_read.go":   "of the folder whose mesh reads the sheets",
	"cmd/telemesh/quality_judge.go": "of the folder whose mesh judges",
}

// TestStatementsAreGoogleSQL runs everything that asks a warehouse, on DuckDB,
// and analyses what it asked: a statement has to be right in both dialects.
func TestStatementsAreGoogleSQL(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := analyse.Of("my-project", all)
	if err != nil {
		t.Fatal(err)
	}
	if err := catalog.AddJobs("region-eu"); err != nil {
		t.Fatal(err)
	}
	w := &recording{Warehouse: duckdbtest.Open(t), shapes: map[string][]string{}}
	runMesh(t, w)
	runRepair(t, w)
	runPlan(t, w)
	runTrace(t, w)
	runCommands(t, w)
	runDeadLetters(t, w)
	runAir(t, w)
	runCatalog(t, w)
	levelsOf(t, w, all, time.Now().UTC().Truncate(time.Second))
	runJobs(t, w, all)
	runPages(t, &recording{Warehouse: duckdbtest.Open(t), shapes: w.shapes}, all)

	statements := 0
	for _, shape := range slices.Sorted(maps.Keys(w.shapes)) {
		for _, sql := range w.shapes[shape] {
			statements++
			if _, err := catalog.Query(sql); err != nil {
				t.Errorf("%v\n\t%s", err, sql)
			}
		}
	}
	t.Logf("%d statements of %d forms", statements, len(w.shapes))
	if !t.Failed() {
		everyStatementRan(t, w)
	}
}

// TestStatementsOfTheWarehouse analyses what reaches BigQuery's API while products
// are applied, access is changed and rows are appended and read. The emulator
// runs these statements too; it is more lenient.
func TestStatementsOfTheWarehouse(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	e := emulator.Start(t)
	w := &wiretap{Handler: e.Handler}
	web := httptest.NewServer(w)
	defer web.Close()
	tapped := *e
	tapped.URL = web.URL

	client, err := tapped.Config().NewClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, tenants := range []map[string][]string{{"school": {"anna@example.org"}}, {"office": {"domain:example.org"}}} {
		project := cloud.New(cloud.Config{Project: e.Project, Location: "EU", Products: all, BigQuery: client,
			Access: &cloud.Access{Platform: []string{"ops@example.org"}, Tenants: tenants}})
		plan, err := project.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := project.Apply(t.Context(), plan, func(cloud.Step) {}); err != nil {
			t.Fatal(err)
		}
	}
	store, err := bigquery.Open(t.Context(), tapped.Config(), all)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	duck := duckdbtest.Open(t)
	appendEdges(t, duck)
	for _, p := range all {
		for i := range p.Tables {
			copyRows(t, duck, store, &p.Tables[i])
		}
	}
	readRows(t, store, "SELECT COUNT(*) AS n FROM iot_analytics.co2_evolution")

	catalog, err := analyse.Of(e.Project, all)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, sql := range w.statements {
		if _, err := catalog.Script(sql); err != nil {
			t.Errorf("%v\n%s", err, sql)
		}
		kind, _, _ := strings.Cut(sql, " ")
		kinds[kind] = true
	}
	// BEGIN: the script that records rows in their order.
	for _, kind := range []string{"SELECT", "INSERT", "DELETE", "BEGIN"} {
		if !kinds[kind] {
			t.Errorf("no statement of %d begins with %s", len(w.statements), kind)
		}
	}
}

// wiretap keeps the statements that a client of the REST API asks for.
type wiretap struct {
	http.Handler
	mu         sync.Mutex
	statements []string
}

func (w *wiretap) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var asked struct { // jobs.query, jobs.insert
		Query         json.RawMessage
		Configuration struct{ Query struct{ Query string } }
	}
	if json.Unmarshal(body, &asked) == nil {
		sql := asked.Configuration.Query.Query
		if sql == "" && strings.HasSuffix(r.URL.Path, "/queries") {
			json.Unmarshal(asked.Query, &sql)
		}
		if sql != "" {
			w.mu.Lock()
			w.statements = append(w.statements, sql)
			w.mu.Unlock()
		}
	}
	w.Handler.ServeHTTP(out, r)
}

// TestDashboardsAreGoogleSQL analyses what Grafana asks, with its macros and
// variables as the BigQuery data source replaces them.
func TestDashboardsAreGoogleSQL(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := analyse.Of("my-project", all)
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Glob(products.FS, "*/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("dashboards: %v, %v", files, err)
	}
	filter := regexp.MustCompile(`\$__timeFilter\(([a-z_]+)\)`)
	group := regexp.MustCompile(`\$__timeGroup\(([a-z_]+), '15m'\)`)
	variables := strings.NewReplacer("${project}", "my-project", "$tenant", "'school','office'", "$building", "'B'", "$room", "'it\\'s'")
	for _, file := range files {
		text, err := fs.ReadFile(products.FS, file)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard any
		if err := json.Unmarshal(text, &dashboard); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		statements := members(dashboard, "rawSql")
		if len(statements) == 0 {
			t.Errorf("%s has no statements", file)
		}
		for _, sql := range statements {
			asked := filter.ReplaceAllString(sql, "$1 >= '2024-01-01T00:00:00Z' AND $1 <= '2024-01-02T00:00:00Z'")
			asked = group.ReplaceAllString(asked, "TIMESTAMP_MILLIS(DIV(UNIX_MILLIS($1), 900000) * 900000)")
			asked = variables.Replace(asked)
			if strings.Contains(asked, "$") {
				t.Errorf("%s: a variable or macro is left in\n%s", file, asked)
			}
			columns, err := catalog.Query(asked)
			if err != nil {
				t.Errorf("%s: %v\n%s", file, err, asked)
				continue
			}
			for _, c := range columns {
				if strings.HasPrefix(c.Name, "$") {
					t.Errorf("%s: a column has no name in\n%s", file, asked)
				}
			}
		}
	}
}

// members gives the strings that stand under a name anywhere in JSON.
func members(in any, name string) (found []string) {
	switch in := in.(type) {
	case map[string]any:
		for key, value := range in {
			if text, ok := value.(string); ok && key == name {
				found = append(found, text)
			}
			found = append(found, members(value, name)...)
		}
	case []any:
		for _, value := range in {
			found = append(found, members(value, name)...)
		}
	}
	return found
}

// recording is a warehouse that keeps the statements it is asked.
type recording struct {
	warehouse.Warehouse
	mu     sync.Mutex
	shapes map[string][]string // some statements by their form
}

// perShape is how many statements of a form are kept: they differ in literals.
const perShape = 3

var literal = regexp.MustCompile(`'[^']*'|\b[0-9]+\b`)

func (r *recording) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	r.keep(sql)
	return r.Warehouse.Query(ctx, sql)
}

func (r *recording) keep(sql string) {
	shape := literal.ReplaceAllString(sql, "?")
	r.mu.Lock()
	defer r.mu.Unlock()
	if same := r.shapes[shape]; len(same) < perShape && !slices.Contains(same, sql) {
		r.shapes[shape] = append(same, sql)
	}
}

// runMesh lets the functions follow what some devices, tenants and people do, in
// any order.
func runMesh(t *testing.T, w warehouse.Warehouse) {
	random := rand.New(rand.NewPCG(1, 2))
	// Copies of metadata are old, so that corrections come too late and are made again.
	env := map[string]map[string]string{
		"tenant-enrich": {"ASSIGNMENTS_REFRESH": "1h"}, "analytics-join": {"REFRESH": "1h"},
		"tenancy-repair": {"REPAIR_WITHIN": "1ns"}, "analytics-repair": {"REPAIR_WITHIN": "1ns"},
	}
	m := newMesh(t, w, env, func(_ string, n int) int { return random.IntN(n) }, "telemetry-ingest")
	life := life{Rand: random}
	for range 150 {
		m.Post(life.event())
		for range random.IntN(4) {
			if m.Waiting() == 0 {
				break
			}
			if err := m.Step(t.Context(), true); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// newMesh gives the mesh of the repository on a warehouse.
func newMesh(t *testing.T, w warehouse.Warehouse, env map[string]map[string]string, choose disorder.Choose, without ...string) *disorder.Mesh {
	t.Helper()
	set, err := manifest.Load(
		manifest.Folder{Name: "brokers", FS: brokers.FS},
		manifest.Folder{Name: "triggers", FS: triggers.FS},
		manifest.Folder{Name: "config", FS: config.FS})
	if err != nil {
		t.Fatal(err)
	}
	m, err := disorder.New(set, functions.Table, w, env, choose, without...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// life is what happens to a few devices, rooms and tenants.
type life struct {
	*rand.Rand
	events     int
	placements map[string][]mesh.Placement // by device, as they stand
}

// Names that a statement must not take for its own text.
var (
	lifeDevices = []string{"d1", "d2", "it's", `back\slash`}
	lifeTenants = []string{"school", "office", "kantoor \"é\""}
	lifeRooms   = []string{"1.01", "o'neill", ""}
)

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// event is something new, and the Broker that it comes to.
func (l *life) event() (manifest.Ref, event.Event) {
	l.events++
	id := strconv.Itoa(l.events)
	version := int64(l.events)
	switch l.IntN(7) {
	case 6:
		at, to, since := disorder.At(l.IntN(10)), disorder.At(10), mesh.At(time.Now().Add(-time.Hour))
		q := mesh.Question{RecordedSince: &since, ObservedFrom: &at, ObservedTo: &to, AfterDevice: pick(l.Rand, lifeDevices), AfterMetric: "co2"}
		return disorder.Named("iot"), mesh.NewEvent(mesh.TelemetryQuestioned, "/test", mesh.Encode(q), id)
	case 0, 1, 2:
		var messages []mesh.Message
		for i := range 1 + l.IntN(3) {
			payload := fmt.Sprintf(`{"device_id":%q,"timestamp":%q,"metrics":{"co2__ppm":%d,"temp_in__degC":%d}}`,
				pick(l.Rand, lifeDevices), disorder.At(l.IntN(10)), 400+l.IntN(2), 20+l.IntN(2))
			if l.IntN(10) == 0 {
				payload = "nothing that can be read"
			}
			messages = append(messages, mesh.Message{ID: fmt.Sprint(id, "-", i), Source: "/test", ContentType: "application/json",
				ReceivedAt: mesh.At(time.Now()), Payload: []byte(payload)})
		}
		return disorder.Named("iot"), mesh.NewEvent(mesh.TelemetryReceived, "/test", mesh.EncodeMessages(messages), id)
	case 3:
		return disorder.Named("iot"), mesh.NewEvent(mesh.PlacementsChanged, "/test", mesh.Encode(mesh.Placements{Placements: l.move(version)}), id)
	case 4:
		a := mesh.Action{ActionID: pick(l.Rand, []string{"a1", "a2", "a3"}), Action: pick(l.Rand, []string{"window opened", "it's open"}),
			TakenAt: disorder.At(l.IntN(10)), Version: version, Deleted: l.IntN(6) == 0}
		if l.IntN(2) == 0 {
			a.DeviceID = pick(l.Rand, lifeDevices)
		} else {
			a.Building, a.Room = pick(l.Rand, []string{"", "B"}), pick(l.Rand, lifeRooms)
		}
		return disorder.Named("iot"), mesh.NewEvent(mesh.ActionsLogged, "/test", mesh.Encode(mesh.Actions{Actions: []mesh.Action{a}}), id)
	}
	c := mesh.Customer{CustomerID: pick(l.Rand, lifeTenants), Name: pick(l.Rand, []string{"A", "B's"}), Version: version, Deleted: l.IntN(6) == 0}
	return disorder.Named("crm"), mesh.NewEvent(mesh.CustomersChanged, "/test", mesh.Encode(mesh.Customers{Customers: []mesh.Customer{c}}), id)
}

// move gives a device to other tenants.
func (l *life) move(version int64) (changed []mesh.Placement) {
	if l.placements == nil {
		l.placements = map[string][]mesh.Placement{}
	}
	device := pick(l.Rand, lifeDevices)
	var next []mesh.Placement
	for from := l.IntN(3); from < 10; {
		to := from + 1 + l.IntN(5)
		if l.IntN(4) > 0 {
			end := disorder.At(to)
			p := mesh.Placement{DeviceID: device, TenantID: pick(l.Rand, lifeTenants), Building: pick(l.Rand, []string{"", "B"}),
				Floor: pick(l.Rand, []string{"", "1"}), Room: pick(l.Rand, lifeRooms), ValidFrom: disorder.At(from), ValidTo: &end, Version: version}
			if l.IntN(3) > 0 {
				persons, outside := int64(l.IntN(30)), 400+20*l.Float64()
				p.Persons, p.OutsideCO2 = &persons, &outside
			}
			next = append(next, p)
		}
		from = to
	}
	for _, p := range l.placements[device] {
		if !slices.ContainsFunc(next, func(q mesh.Placement) bool { return q.ValidFrom == p.ValidFrom }) {
			p.Version, p.Deleted = version, true
			changed = append(changed, p)
		}
	}
	l.placements[device] = next
	return append(changed, next...)
}

// runRepair reads more rows than a page has, of one device and of several.
func runRepair(t *testing.T, w warehouse.Warehouse) {
	for name, table := range map[string]string{"iot_telemetry.readings": repair.Telemetry, "iot_analytics.readings": repair.Analytics} {
		stored := tableOf(t, name)
		var rows []warehouse.Row
		const n = 17_000 // more than a page
		for i := range n + 100 {
			device := "big"
			if i >= n {
				device = fmt.Sprint("small-", i)
			}
			rows = append(rows, rowOf(stored, map[string]warehouse.Cell{
				"reading_id": warehouse.String(fmt.Sprint("paged-", i)), "tenant_id": warehouse.String("school"), "device_id": warehouse.String(device),
				"metric": warehouse.String("co2"), "value": warehouse.Float(float64(i)), "observed_at": warehouse.Instant(disorder.At(i)),
				"received_at": warehouse.Instant(disorder.At(i)), "revision": warehouse.Int(1), "assignment_version": warehouse.Int(1),
				"event_source": warehouse.String("/test"), "event_id": warehouse.String("paged"), "join_version": warehouse.Int(1), "deleted": warehouse.Bool(false),
			}))
		}
		if _, err := w.Append(t.Context(), warehouse.Batch{Table: name, EventSource: "/test", EventID: "paged", Rows: rows}); err != nil {
			t.Fatal(err)
		}
		read := 0
		for _, err := range repair.Rows(t.Context(), w, table, "event_id = 'paged'") {
			if err != nil {
				t.Fatal(err)
			}
			read++
		}
		if read != len(rows) {
			t.Errorf("%s: %d readings of %d", table, read, len(rows))
		}
		ranges := []repair.Range{{Device: "it's", From: repair.Always, To: repair.Forever}, {Device: "big", From: disorder.At(3), To: repair.Forever}, {Device: "big", From: disorder.At(1), To: disorder.At(2)}}
		for where := range repair.Conditions(ranges) {
			for _, err := range repair.Rows(t.Context(), w, table, where) {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// runPlan counts what a sheet would change.
func runPlan(t *testing.T, w warehouse.Warehouse) {
	end := disorder.At(5)
	said := []mesh.Placement{
		{DeviceID: "it's", TenantID: "school", ValidFrom: disorder.At(0), ValidTo: &end},
		{DeviceID: `back\slash`, TenantID: "office", ValidFrom: disorder.At(0)},
	}
	plan := placements.Make(sheet.Sheet[mesh.Placement]{Rows: said}, nil)
	if err := plan.Count(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if len(plan.Moves) != 2 || plan.Moves[0].Rows == 0 {
		t.Errorf("the plan counts no reading: %+v", plan.Moves)
	}
}

// runTrace tells the stories of some readings: the ones with most revisions, and
// of each port one that came by a repair.
func runTrace(t *testing.T, w warehouse.Warehouse) {
	formats, err := flatten.ReadFormats("")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := w.Query(t.Context(), "SELECT reading_id, COUNT(*) AS revisions FROM iot_telemetry_internal.readings WHERE event_id <> 'paged' GROUP BY reading_id ORDER BY revisions DESC, reading_id LIMIT 20")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for row, err := range rows.All {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, row[0].(string))
	}
	if len(ids) == 0 {
		t.Fatal("the mesh stored no reading")
	}
	events := 0
	for _, id := range ids {
		found, err := trace.Find(t.Context(), w, id[:trace.MinPrefix])
		if err != nil || !slices.Contains(found, id) {
			t.Fatalf("Find(%s) = %v, %v", id[:trace.MinPrefix], found, err)
		}
		story, err := trace.Tell(t.Context(), w, formats.Parser(), id)
		if err != nil {
			t.Fatal(err)
		}
		events += len(story.Events)
	}
	if events == 0 {
		t.Error("the stories have no events")
	}
}

// runCommands runs the commands that read a warehouse wherever it is.
func runCommands(t *testing.T, w warehouse.Warehouse) {
	binary := filepath.Join(t.TempDir(), "telemesh")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/telemesh")
	build.Dir = dataset.Root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	served := httptest.NewServer(remote.Handler(w, ""))
	defer served.Close()
	broker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }))
	defer broker.Close()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), binary, append(args, "--warehouse", served.URL)...)
		cmd.Dir = t.TempDir()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("telemesh %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	messages := strings.Split(strings.TrimSpace(run("rejected", "list", "--json")), "\n")
	var first struct{ ID string }
	if err := json.Unmarshal([]byte(messages[0]), &first); err != nil {
		t.Fatalf("telemesh rejected list: %v\n%s", err, messages[0])
	}
	if shown := run("rejected", "show", first.ID[:12]); !strings.Contains(shown, "nothing that can be read") {
		t.Errorf("telemesh rejected show:\n%s", shown)
	}
	run("rejected", "list", "--all", "--cause", `it's_%*\`, "--reader", "-", "--device", "it's")
	for _, by := range []string{"cause", "reader", "device", "source"} {
		if out := run("rejected", "list", "--by", by); !strings.Contains(out, strconv.Itoa(len(messages))) {
			t.Errorf("telemesh rejected list --by %s counts other than %d messages:\n%s", by, len(messages), out)
		}
	}
	log := func(more ...string) {
		t.Helper()
		run(append([]string{"replay", "--to", broker.URL, "--from-log"}, more...)...)
	}
	log("")
	log("type = 'dev.telemesh.telemetry.received.v1' AND source LIKE '/te%'", "--since", "2026-01-01", "--until", "2100-01-01", "--broker", "iot/iot")
}

// everyStatementRan looks for statements in the sources that nothing above ran:
// a string that begins with SELECT or WITH, with what is put together with it.
func everyStatementRan(t *testing.T, w *recording) {
	root := dataset.Root(t)
	files := token.NewFileSet()
	found := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		at = filepath.ToSlash(at)
		if d.IsDir() {
			if at == "hack" || strings.HasPrefix(d.Name(), ".") && at != "." {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(at) != ".go" || strings.HasSuffix(at, "_test.go") || duckDBOnly[at] != "" || duckDBOnly[path.Dir(at)] != "" {
			return nil
		}
		file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, s := range statements(file) {
			found++
			if !s.ran(w) && duckDBOnly[at+": "+s.parts[0]] == "" {
				t.Errorf("%s: no test ran this statement: %s", files.Position(s.at), strings.Join(s.parts, " … "))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 15 {
		t.Errorf("%d statements found in the sources: the search is broken", found)
	}
}

// statement is a string expression of a source file: the parts of it that are
// literal.
type statement struct {
	at    token.Pos
	parts []string
}

func statements(file *ast.File) (all []statement) {
	inside := map[ast.Node]bool{} // a sum that was seen
	ast.Inspect(file, func(n ast.Node) bool {
		e, ok := n.(ast.Expr)
		if !ok || inside[n] {
			return true
		}
		s := statement{at: e.Pos()}
		s.add(e, inside)
		if len(s.parts) > 0 && beginsStatement.MatchString(s.parts[0]) {
			all = append(all, s)
		}
		return true
	})
	return all
}

var (
	beginsStatement = regexp.MustCompile(`^\s*(SELECT|WITH)\s`)
	verb            = regexp.MustCompile(`\{?%(\[[0-9]+\])?[sdqv]\}?|\{[a-z_.]*\}`) // braces: package access puts rows there
)

// add takes the literals of a sum of strings.
func (s *statement) add(e ast.Expr, inside map[ast.Node]bool) {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			inside[e.X], inside[e.Y] = true, true
			s.add(e.X, inside)
			s.add(e.Y, inside)
		}
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return
		}
		if text, err := strconv.Unquote(e.Value); err == nil {
			s.parts = append(s.parts, verb.Split(text, -1)...)
		}
	}
}

// ran says whether a recorded statement has all parts, one after the other.
func (s *statement) ran(w *recording) bool {
	for _, shape := range w.shapes {
		if slices.ContainsFunc(shape, s.in) {
			return true
		}
	}
	return false
}

func (s *statement) in(sql string) bool {
	for _, part := range s.parts {
		at := strings.Index(sql, part)
		if at < 0 {
			return false
		}
		sql = sql[at+len(part):]
	}
	return true
}
