package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/warehouse"
)

const placementsHead = "device_id,tenant_id,room,valid_from,valid_to\n"

// A sheet that is edited while the mesh runs is taken, as the functions of a
// cluster take it: what changed is stored, and so is what is wrong.
func TestEditedSheetIsTakenWhileTheMeshRuns(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	placements := write(t, filepath.Join(dir, "placements.csv"), placementsHead+"d,school,R1,2026-01-01T00:00:00Z,\n")
	customers := write(t, filepath.Join(dir, "customers.csv"), "customer_id,name\nschool,School\noffice,Office\n")
	cmd := command(t.Context(), t, up(data, "--placements", placements, "--customers", customers)...)
	cmd.Dir = dir
	at := started(t, cmd)
	if at["sheets"] == "" {
		t.Error("telemesh up does not say that the sheets are read again")
	}
	postMessage(t, at["ingest"], `{"device_id":"d","time":"2026-03-01T09:00:00Z","metrics":{"CO2":812}}`)
	waitFor(t, func() bool {
		return cmp.Equal(rows(t, data, "SELECT tenant_id FROM iot_telemetry.readings"), []string{"school"})
	})

	read := func(placed, known, broken string) {
		t.Helper()
		want := strings.Join([]string{"TABLE                    ROWS RECORDED  FINDINGS",
			"iot_metadata.placements  " + placed + "              " + broken,
			"iot_actions.actions      0              0",
			"customers.customers      " + known + "              0", ""}, "\n")
		if diff := cmp.Diff(want, telemesh(t, "sheets", "read", "--data", data)); diff != "" {
			t.Errorf("telemesh sheets read (-want +got):\n%s", diff)
		}
	}
	read("0", "0", "0")
	write(t, placements, placementsHead+"d,office,R1,2026-01-01T00:00:00Z,\ne,school,R2,yesterday,\n")
	write(t, customers, "customer_id,name\nschool,School\noffice,Office Ltd\n")
	read("1", "1", "1")
	if got := rows(t, data, "SELECT device_id, tenant_id, name FROM iot_metadata.placements JOIN customers.customers ON customer_id = tenant_id"); !cmp.Equal(got, []string{"d,office,Office Ltd"}) {
		t.Errorf("placements %v, want d at office alone", got)
	}
	if found := telemesh(t, "sheets", "errors", "--data", data); !strings.Contains(found, placements) || !strings.Contains(found, "yesterday") {
		t.Errorf("telemesh sheets errors:\n%s\nwant the cell of %s", found, placements)
	}
	// The reading is that of who holds the device by what is known now.
	if got := rows(t, data, "SELECT tenant_id FROM iot_telemetry.readings"); !cmp.Equal(got, []string{"office"}) {
		t.Errorf("the reading is of %v, want office", got)
	}
	write(t, placements, placementsHead+"d,office,R1,2026-01-01T00:00:00Z,\n")
	read("0", "0", "0")

	// A sheet that is gone says nothing of its rows.
	if err := os.Rename(placements, placements+".away"); err != nil {
		t.Fatal(err)
	}
	out, err := command(t.Context(), t, "sheets", "read", "--data", data).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "telemesh: sheet "+placements+" was not read: ") || !strings.Contains(string(out), "hint: ") {
		t.Errorf("telemesh sheets read without the sheet: %v\n%s", err, out)
	}
	if got := rows(t, data, "SELECT device_id FROM iot_metadata.placements"); !cmp.Equal(got, []string{"d"}) {
		t.Errorf("placements %v, want d", got)
	}
	stop(t, cmd)
}

func TestSheetsReadWithoutSheets(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	out, err := command(t.Context(), t, "sheets", "read", "--data", data).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no telemesh runs on "+data) || !strings.Contains(string(out), "hint: ") {
		t.Errorf("without a mesh: %v\n%s", err, out)
	}
	at := started(t, command(t.Context(), t, up(data)...))
	if at["sheets"] != "" {
		t.Errorf("telemesh up says of sheets: %s", at["sheets"])
	}
	out, err = command(t.Context(), t, "sheets", "read", "--data", data).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no sheet is read by this process") {
		t.Errorf("without sheets: %v\n%s", err, out)
	}
	out, err = command(t.Context(), t, up(filepath.Join(t.TempDir(), "data"), "--simulate", "--placements", "p.csv")...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--simulate brings placements") {
		t.Errorf("a fleet and a sheet: %v\n%s", err, out)
	}
}

// What --set says counts, whatever other flags say; findings name a file by a name
// that holds everywhere.
func TestSheetsAreSettings(t *testing.T) {
	set, err := loadManifests("")
	if err != nil {
		t.Fatal(err)
	}
	s, err := sheets{placements: "p.csv", actions: "google-sheets:ID/A", customers: "https://crm/x.csv", zone: "Europe/Amsterdam"}.absolute()
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	o := options{set: []string{"sheet-source.TIMEZONE=UTC"}}
	overrides, err := o.overrides(set, s)
	if err != nil {
		t.Fatal(err)
	}
	of := func(overrides map[manifest.Ref]map[string]string) map[string]map[string]string {
		all := map[string]map[string]string{}
		for ref, env := range overrides {
			if ref.Name != "portal" && ref.Name != "alert" { // they have settings of their own
				all[ref.String()] = env
			}
		}
		return all
	}
	got := of(overrides)
	want := map[string]map[string]string{
		"iot/sheet-source":    {"PLACEMENTS_SHEET": filepath.Join(here, "p.csv"), "ACTIONS_SHEET": "google-sheets:ID/A", "TIMEZONE": "UTC"},
		"crm/customer-source": {"CRM_URL": "https://crm/x.csv"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if overrides, err := o.overrides(set, sheets{zone: "Europe/Amsterdam"}); err != nil || len(of(overrides)) != 1 {
		t.Errorf("of a time zone alone: %v, %v; want what --set says", overrides, err)
	}
}

// An interrupt while the other process reads is told as that, and that the other
// process ends as that.
func TestSheetsReadInterrupted(t *testing.T) {
	data := t.TempDir()
	path, err := socketPath(data)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil { // the second request
			panic(http.ErrAbortHandler)
		}
		cancel()
		<-over
	})}
	go server.Serve(listener)
	cmd := root()
	cmd.SetArgs([]string{"sheets", "read", "--data", data})
	err = cmd.ExecuteContext(ctx)
	if h := (hinted{}); !errors.As(err, &h) || err.Error() != "interrupted" {
		t.Errorf("an interrupt: %v", err)
	}
	close(over)
	cmd = root()
	cmd.SetArgs([]string{"sheets", "read", "--data", data})
	err = cmd.ExecuteContext(t.Context())
	if h := (hinted{}); !errors.As(err, &h) || !strings.Contains(err.Error(), "ended meanwhile") {
		t.Errorf("the other process ends: %v", err)
	}

	// So does a command that only looks.
	err = withWarehouse(t.Context(), data, func(w warehouse.Warehouse) error {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		_, err := w.Query(t.Context(), "SELECT 1")
		return err
	})
	if h := (hinted{}); !errors.As(err, &h) || !strings.Contains(err.Error(), "that held "+data+" ended meanwhile") {
		t.Errorf("the other process ends while it is asked: %v", err)
	}
}
