package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/placements"
	"github.com/telemesh/telemesh/internal/sheet"
)

const oneMessage = `{"device_id":"d","time":"2026-03-01T09:00:00Z","metrics":{"co2":812}}` + "\n"

// placed makes a folder in which device d is the school's and has one reading.
func placed(t *testing.T) (dir, data string) {
	t.Helper()
	dir = t.TempDir()
	data = filepath.Join(dir, "data")
	sheet := write(t, filepath.Join(dir, "placements.csv"), placementsHead+"d,school,R1,2026-01-01T00:00:00Z,\n")
	customers := write(t, filepath.Join(dir, "customers.csv"), "customer_id,name\nschool,School\noffice,Office\n")
	telemesh(t, "replay", "--data", data, "--placements", sheet, "--customers", customers, write(t, filepath.Join(dir, "m.ndjson"), oneMessage))
	return dir, data
}

func tenants(t *testing.T, data string) []string {
	t.Helper()
	return rows(t, data, "SELECT tenant_id FROM iot_telemetry.readings ORDER BY reading_id")
}

// An apply that is ended once its event is stored leaves readings behind: plan
// says how many, and the same apply again ends it and says so.
func TestInterruptedApplyIsTold(t *testing.T) {
	dir, data := placed(t)
	office := write(t, filepath.Join(dir, "office.csv"), placementsHead+"d,office,R1,2026-01-01T00:00:00Z,\n")
	// The warehouse of a mesh whose repair was not yet woken.
	tamper(t, data, "UPDATE iot_metadata_internal.placements_current SET tenant_id = 'office'")
	plan := telemesh(t, "placements", "plan", "--data", data, office)
	if !strings.Contains(plan, "1 reading still follows an earlier change") || !strings.Contains(plan, "nothing changes") {
		t.Errorf("the plan:\n%s", plan)
	}
	var p placements.Plan
	if err := json.Unmarshal([]byte(telemesh(t, "placements", "plan", "--json", "--data", data, office)), &p); err != nil || p.Behind != 1 || p.Moves == nil {
		t.Errorf("the plan as JSON: %+v, %v", p, err)
	}
	// Nobody repairs what nobody told of: it must not be said to be done.
	out, err := command(t.Context(), t, "placements", "apply", "--data", data, office).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "1 reading did not follow") || strings.Contains(string(out), "done ") ||
		!strings.Contains(string(out), "deadletters list") || !strings.Contains(string(out), "another source") {
		t.Errorf("apply of what no repair follows: %v\n%s", err, out)
	}
}

// An apply that ends between its event and the repair is ended by the next one.
func TestApplyEndsWhatAnotherBegan(t *testing.T) {
	dir, data := placed(t)
	office := write(t, filepath.Join(dir, "office.csv"), placementsHead+"d,office,R1,2026-01-01T00:00:00Z,\n")
	in, err := (&options{data: data}).open(t.Context(), sheets{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := planPlacements(t.Context(), in.warehouse, office, nil)
	if err != nil {
		t.Fatal(err)
	}
	events, err := c.port.Changes(t.Context(), c.read)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if err := function.Post(t.Context(), in.mesh.Client(), ingress("iot"), e); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel() // deliveries are broken off
	if err := in.mesh.Close(ended); err == nil {
		t.Log("the mesh had come to its end")
	}
	if err := in.close(); err != nil {
		t.Fatal(err)
	}
	telemesh(t, "placements", "apply", "--data", data, office)
	if got := tenants(t, data); !cmp.Equal(got, []string{"office"}) {
		t.Errorf("the reading is of %v", got)
	}
	if plan := telemesh(t, "placements", "plan", "--data", data, office); plan != "nothing changes\n" {
		t.Errorf("the plan of what is applied:\n%s", plan)
	}
}

// What is wrong with a sheet that is applied is told and stored as a source does,
// and what stays because of it is named.
func TestFindingsOfAnAppliedSheet(t *testing.T) {
	dir, data := placed(t)
	more := write(t, filepath.Join(dir, "more.csv"), placementsHead+"d,school,R1,yesterday,\ne,nobody-known,R2,2026-01-01T00:00:00Z,\n")
	for _, verb := range []string{"plan", "apply"} {
		out := telemesh(t, "placements", verb, "--data", data, more)
		for _, want := range []string{
			`refused: ` + more + `: row 2: column "valid_from": "yesterday" is not a time`,
			`warning: ` + more + `: row 3: column "tenant_id": "nobody-known" is no customer`,
			"held back: device d from 2026-01-01T00:00:00Z is not deleted",
			"placements  1 new, 0 changed, 0 deleted",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not say %q:\n%s", verb, want, out)
			}
		}
		if strings.Contains(out, "readings    0") {
			t.Errorf("%s tells of no readings:\n%s", verb, out)
		}
	}
	if got := tenants(t, data); !cmp.Equal(got, []string{"school"}) {
		t.Errorf("the reading is of %v, want school still", got)
	}
	want := []string{"2,valid_from,error", "3,tenant_id,warning"}
	if diff := cmp.Diff(want, rows(t, data, "SELECT row_number, column_name, severity FROM iot_metadata.rejected_rows ORDER BY ALL")); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	// What is put right is gone.
	telemesh(t, "placements", "apply", "--data", data, write(t, more, placementsHead+"d,school,R1,2026-01-01T00:00:00Z,\n"))
	if got := rows(t, data, "SELECT row_number FROM iot_metadata.rejected_rows"); len(got) > 0 {
		t.Errorf("findings %v of a sheet without fault", got)
	}
}

// Beside a mesh that reads a sheet by itself, that sheet is applied by being read
// and any other one is refused; beside one that reads none, any is applied.
func TestApplyBesideTheMesh(t *testing.T) {
	dir, data := placed(t)
	mine := filepath.Join(dir, "placements.csv")
	other := write(t, filepath.Join(dir, "other.csv"), placementsHead+"d,office,R1,2026-01-01T00:00:00Z,\n")
	cmd := command(t.Context(), t, up(data, "--placements", mine)...)
	started(t, cmd)
	out, err := command(t.Context(), t, "placements", "apply", "--data", data, other).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "reads its placements from "+mine) || !strings.Contains(string(out), "hint: change "+mine) {
		t.Errorf("apply of another sheet: %v\n%s", err, out)
	}
	if got := tenants(t, data); !cmp.Equal(got, []string{"school"}) {
		t.Errorf("after a refusal the reading is of %v", got)
	}
	if err := os.Rename(other, mine); err != nil {
		t.Fatal(err)
	}
	if out := telemesh(t, "placements", "apply", "--data", data, mine); !strings.Contains(out, "done ") {
		t.Errorf("apply of the mesh's own sheet:\n%s", out)
	}
	if got := tenants(t, data); !cmp.Equal(got, []string{"office"}) {
		t.Errorf("the reading is of %v, want office", got)
	}
	stop(t, cmd)

	started(t, command(t.Context(), t, up(data)...))
	telemesh(t, "placements", "apply", "--data", data, write(t, other, placementsHead+"d,school,R1,2026-01-01T00:00:00Z,\n"))
	if got := tenants(t, data); !cmp.Equal(got, []string{"school"}) {
		t.Errorf("the reading is of %v, want school", got)
	}
}

// Where another source says otherwise in the same moment, nothing is said to be
// done.
func TestApplyOfWhatAnotherSourceChanges(t *testing.T) {
	dir, data := placed(t)
	office := write(t, filepath.Join(dir, "office.csv"), placementsHead+"d,office,R1,2026-01-01T00:00:00Z,\n")
	in, err := (&options{data: data}).open(t.Context(), sheets{})
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	r := &running{warehouse: in.warehouse, client: in.mesh.Client(), brokers: "http://" + manifest.IngressHost + "/"}
	r.idle = func(ctx context.Context) error {
		if err := in.mesh.Idle(ctx); err != nil {
			return err
		}
		grid, err := sheet.ReadCSV("theirs", strings.NewReader(placementsHead+"d,library,R1,2026-01-01T00:00:00Z,\n"))
		if err != nil {
			return err
		}
		theirs, err := sheet.Placements.Read(grid)
		if err != nil {
			return err
		}
		if err := postChanges(ctx, in, sheet.Placements, theirs.Rows, placementsAt); err != nil {
			return err
		}
		return in.mesh.Idle(ctx)
	}
	var said strings.Builder
	err = r.applyPlacements(t.Context(), office, nil, &said)
	if err == nil || !strings.Contains(err.Error(), "not stored as the sheet has it: 1 placement") || strings.Contains(said.String(), "done ") {
		t.Errorf("apply: %v\n%s", err, &said)
	}
}

func TestApplyOfNoFile(t *testing.T) {
	_, data := placed(t)
	out, err := command(t.Context(), t, "placements", "plan", "--data", data, "nope.csv").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "telemesh: open nope.csv: ") || !strings.Contains(string(out), "hint: the sheet of placements is a CSV") {
		t.Errorf("plan of no file: %v\n%s", err, out)
	}
}
