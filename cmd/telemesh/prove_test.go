package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	duck "github.com/duckdb/duckdb-go-bindings"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/prove"
)

// A room that had three tenants and stood empty between two of them, of whose
// history something was wrong at first: the proof holds, before the correction
// and after it, and it fails as soon as one row is another tenant's.
func TestProve(t *testing.T) {
	wide := dataset.Path(t, wideFile)
	dir, data := t.TempDir(), t.TempDir()
	const header = "device_id,tenant_id,building,floor,room,persons,outside_co2,valid_from,valid_to\n"
	const first, device = "925038/CO2-meter-SCD4x,school,North,1,N1.01,24,421,", "925038/CO2-meter-SCD4x"
	wrong := write(t, filepath.Join(dir, "placements.csv"), header+
		first+`2022-10-01T00:00:00+02:00,2022-10-20T12:00:00+02:00
`+device+`,office,South,2,S2.02,6,430,2022-10-20T12:00:00+02:00,2022-11-01T00:00:00Z
`+device+`,library,South,3,S3.03,6,430,2022-11-02T00:00:00Z,9999-12-31T00:00:00Z
925038/bms,school,North,1,N1.01,24,421,2022-10-01T00:00:00+02:00,
`)
	right := write(t, filepath.Join(dir, "corrected.csv"), header+
		first+`2022-10-01T00:00:00+02:00,2022-10-18T12:00:00+02:00
`+device+`,office,South,2,S2.02,6,430,2022-10-18T12:00:00+02:00,2022-11-01T00:00:00Z
`+device+`,library,South,3,S3.03,6,430,2022-11-02T00:00:00Z,9999-12-31T00:00:00Z
925038/bms,school,North,1,N1.01,24,421,2022-10-01T00:00:00+02:00,2022-10-25T00:00:00Z
`)
	actions := write(t, filepath.Join(dir, "actions.csv"), `action_id,tenant_id,device_id,building,room,action,taken_at
1,school,,North,N1.01,window opened,2022-10-10T09:00:00Z
2,,`+device+`,,,meter cleaned,2022-10-19T09:00:00Z
3,office,,South,S2.02,filter changed,2022-10-25T09:00:00Z
4,school,,South,S2.02,door closed by who was not there,2022-10-26T09:00:00Z
`)
	customers := write(t, filepath.Join(dir, "customers.csv"), "customer_id,name\nschool,The School\noffice,Office\n")
	telemesh(t, append([]string{"replay", "--data", data, "--placements", wrong, "--actions", actions, "--customers", customers, wide}, wideColumns...)...)

	holds := func(flags ...string) prove.Report {
		t.Helper()
		report := filepath.Join(dir, "proof")
		out := telemesh(t, append([]string{"prove", "--data", data, "--report", report}, flags...)...)
		if text := read(t, filepath.Join(report, "proof.txt")); text != out {
			t.Errorf("proof.txt is not what is printed:\n%s\n%s", text, out)
		}
		var r prove.Report
		if err := json.Unmarshal([]byte(read(t, filepath.Join(report, "proof.json"))), &r); err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Checks {
			if c.Rows == 0 {
				t.Errorf("check %s compared nothing", c.Name)
			}
		}
		if !r.Holds {
			t.Errorf("the report says that it does not hold:\n%s", out)
		}
		return r
	}
	if out, err := command(t.Context(), t, "prove", "--data", data, "--tenant", "nobody").CombinedOutput(); err == nil ||
		!strings.Contains(string(out), `no tenant "nobody": there are library, office, school`) || !strings.Contains(string(out), "hint: ") {
		t.Errorf("prove of no tenant: %v\n%s", err, out)
	}
	before := holds("--tables-only")
	if got := len(before.Relocations); got != 6 {
		t.Errorf("%d relocations, want 6: the meter's first, to the office, to nobody, to the library, and at the end of all times; the bms' first", got)
	}

	tenant := func() []string {
		return rows(t, data, `SELECT tenant_id, count(*), min(revision), max(revision) FROM iot_telemetry.readings WHERE device_id = '`+device+`'
			AND observed_at >= TIMESTAMPTZ '2022-10-18 10:00:00Z' AND observed_at < TIMESTAMPTZ '2022-10-20 10:00:00Z' GROUP BY ALL`)
	}
	if got := tenant(); len(got) != 1 || !strings.HasPrefix(got[0], "school,") {
		t.Fatalf("before the correction: %v", got)
	}
	plan := telemesh(t, "placements", "plan", "--data", data, right)
	for _, want := range []string{"from school to office", "from school to (nobody)", "iot_analytics.co2_evolution"} {
		if !strings.Contains(plan, want) {
			t.Errorf("the plan does not say %q:\n%s", want, plan)
		}
	}
	telemesh(t, "placements", "apply", "--data", data, right)
	if got := tenant(); len(got) != 1 || !strings.HasPrefix(got[0], "office,") {
		t.Errorf("after the correction: %v", got)
	}
	if got := telemesh(t, "placements", "plan", "--data", data, right); !strings.Contains(got, "nothing changes") {
		t.Errorf("the plan of what is applied: %s", got)
	}
	after := holds()
	if before.Relocations[1].At == after.Relocations[1].At || before.Relocations[0].After == after.Relocations[0].After {
		t.Errorf("the relocation to the office did not move: %+v, %+v", before.Relocations, after.Relocations)
	}

	// One row changes hands in the database itself.
	id := rows(t, data, `SELECT reading_id FROM iot_telemetry.readings WHERE tenant_id = 'office' ORDER BY observed_at LIMIT 1`)[0]
	tamper(t, data, "UPDATE iot_telemetry_internal.readings_current SET tenant_id = 'school' WHERE reading_id = '"+id+"'")
	for _, flags := range [][]string{nil, {"--tenant", "school"}, {"--tenant", "office"}} {
		out, err := command(t.Context(), t, append([]string{"prove", "--data", data, "--tables-only"}, flags...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), id) || !strings.Contains(string(out), "DOES NOT HOLD") {
			t.Errorf("prove %v after a row was changed by hand: %v\n%s", flags, err, out)
		}
	}
	if out := telemesh(t, "prove", "--data", data, "--tables-only", "--tenant", "library"); !strings.Contains(out, "holds: ") {
		t.Errorf("the library's rows are right:\n%s", out)
	}
	// The same in the joined table, where the tenants' dashboards read.
	tamper(t, data, "UPDATE iot_telemetry_internal.readings_current SET tenant_id = 'office' WHERE reading_id = '"+id+"'")
	tamper(t, data, "UPDATE iot_analytics_internal.readings_current SET tenant_id = 'library' WHERE reading_id = '"+id+"'")
	out, err := command(t.Context(), t, "prove", "--data", data, "--tables-only").CombinedOutput()
	if err == nil || !strings.Contains(string(out), id) || !strings.Contains(string(out), "tenant_id=library") {
		t.Errorf("prove after a joined row was changed by hand: %v\n%s", err, out)
	}

	// A reading of nobody is lost, another one altered: no tenant sees it, and the
	// messages tell.
	tamper(t, data, "UPDATE iot_analytics_internal.readings_current SET tenant_id = 'office' WHERE reading_id = '"+id+"'")
	parked := rows(t, data, `SELECT reading_id FROM iot_telemetry.readings WHERE tenant_id IS NULL AND value IS NOT NULL ORDER BY observed_at LIMIT 2`)
	tamper(t, data, "DELETE FROM iot_telemetry_internal.readings_current WHERE reading_id = '"+parked[0]+"'")
	tamper(t, data, "UPDATE iot_telemetry_internal.readings_current SET value = value + 1 WHERE reading_id = '"+parked[1]+"'")
	out, err = command(t.Context(), t, "prove", "--data", data, "--tables-only").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "expected device_id") || !strings.Contains(string(out), parked[0]) || !strings.Contains(string(out), parked[1]) {
		t.Errorf("prove after a parked row was lost and one altered: %v\n%s", err, out)
	}
}

func TestProveOfNothing(t *testing.T) {
	data := t.TempDir()
	out, err := command(t.Context(), t, "prove", "--data", data).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "telemesh: nothing to prove: ") || !strings.Contains(string(out), "hint: ") {
		t.Errorf("prove of an empty folder: %v\n%s", err, out)
	}
}

// All rows that differ are in the report, and some of them on the screen.
func TestProveReportsAllThatDiffers(t *testing.T) {
	dir := t.TempDir()
	data, report := filepath.Join(dir, "data"), filepath.Join(dir, "report")
	var messages strings.Builder
	const n = 30
	for minute := range n {
		fmt.Fprintf(&messages, `{"device_id":"d","time":"2026-03-01T09:%02d:00Z","metrics":{"co2":812}}`+"\n", minute)
	}
	telemesh(t, "replay", "--data", data, write(t, filepath.Join(dir, "m.ndjson"), messages.String()),
		"--placements", write(t, filepath.Join(dir, "p.csv"), placementsHead+"d,school,R1,2026-01-01T00:00:00Z,\n"))
	tamper(t, data, "UPDATE iot_metadata_internal.placements_current SET tenant_id = 'office'")
	out, err := command(t.Context(), t, "prove", "--data", data, "--tables-only", "--report", report).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "DOES NOT HOLD") || !strings.Contains(string(out), "the first 20 (proof.json of --report has the others)") {
		t.Fatalf("prove: %v\n%s", err, out)
	}
	var r prove.Report
	if err := json.Unmarshal([]byte(read(t, filepath.Join(report, "proof.json"))), &r); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if int64(len(c.Examples)) != c.Different {
			t.Errorf("check %s: %d rows differ, and the report has %d", c.Name, c.Different, len(c.Examples))
		}
		if c.Name == "placements" && c.Rows != 1 {
			t.Errorf("check placements compared %d placements, want 1", c.Rows)
		}
	}
	if r.Checks[2].Different != 2*n {
		t.Errorf("check %s: %d rows differ, want %d on both sides", r.Checks[2].Name, r.Checks[2].Different, n)
	}
}

// tamper runs a statement on the file of a warehouse, past all that keeps it.
func tamper(t testing.TB, data, sql string) {
	t.Helper()
	var db duck.Database
	var message string
	var config duck.Config
	if duck.CreateConfig(&config) == duck.StateError {
		t.Fatal("no configuration")
	}
	defer duck.DestroyConfig(&config)
	if duck.OpenExt(filepath.Join(data, "warehouse.duckdb"), &db, config, &message) == duck.StateError {
		t.Fatal(message)
	}
	defer duck.Close(&db)
	var conn duck.Connection
	if duck.Connect(db, &conn) == duck.StateError {
		t.Fatal("no connection")
	}
	defer duck.Disconnect(&conn)
	var result duck.Result
	defer duck.DestroyResult(&result)
	if duck.Query(conn, sql, &result) == duck.StateError {
		t.Fatal(duck.ResultError(&result))
	}
	if n := duck.RowsChanged(&result); n != 1 {
		t.Fatalf("%s changed %d rows", sql, n)
	}
}
