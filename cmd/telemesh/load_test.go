package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Functions hold copies of what they look up. What they stamp by what was true
// before a sheet was loaded is put right before the mesh comes to rest, and so is
// what they stamped before.
func TestLoadedSheetHoldsForAll(t *testing.T) {
	dir := t.TempDir()
	placed := func(tenant, room string) sheets {
		return sheets{placements: write(t, filepath.Join(dir, "placements.csv"),
			"device_id,tenant_id,room,valid_from,valid_to\nd,"+tenant+","+room+",2026-01-01T00:00:00Z,\n")}
	}
	o := options{data: filepath.Join(dir, "data")}
	in, err := o.open(t.Context(), placed("school", "R1"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	measure := func(minute int) {
		t.Helper()
		body := fmt.Sprintf(`{"device_id":"d","time":"2026-03-01T09:%02d:00Z","metrics":{"co2":812}}`, minute)
		if err := postMessages(t.Context(), in.mesh.Client(), ingestAt, []byte(body)); err != nil {
			t.Fatal(err)
		}
		if err := in.mesh.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	measure(0)
	if err := in.load(t.Context(), placed("office", "R2")); err != nil {
		t.Fatal(err)
	}
	measure(1)
	for sql, want := range map[string]int64{
		"SELECT count(*) FROM iot_telemetry.readings WHERE tenant_id = 'school'":                 0,
		"SELECT count(*) FROM iot_telemetry.readings WHERE tenant_id = 'office'":                 2,
		"SELECT count(*) FROM iot_analytics.readings WHERE tenant_id = 'office' AND room = 'R2'": 2,
		"SELECT count(*) FROM iot_analytics.readings":                                            2,
	} {
		if got, err := scalar(t.Context(), in.warehouse, sql); err != nil || got != want {
			t.Errorf("%s = %d, %v, want %d", sql, got, err, want)
		}
	}
}

// A sheet may stand behind an address, in the flags as in the settings of the
// functions; one that cannot be read fails the command, which names the flag.
func TestSheetsAtAddresses(t *testing.T) {
	var mu sync.Mutex // held while pages are read or changed
	pages := map[string]string{
		"/placements.csv": placementsHead + "d,school,R1,2026-01-01T00:00:00Z,\n",
		"/actions.csv":    "action_id,device_id,action,taken_at\n1,d,window opened,2026-02-01T09:00:00Z\n",
		"/customers":      `{"customers": [{"customer_id": "school", "name": "The School"}]}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		page, ok := pages[r.URL.Path]
		mu.Unlock()
		if !ok {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/customers" {
			w.Header().Set("Content-Type", "application/json")
		}
		io.WriteString(w, page)
	}))
	defer server.Close()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	messages := write(t, filepath.Join(dir, "m.ndjson"), `{"device_id":"d","time":"2026-03-01T09:00:00Z","metrics":{"co2":812}}`+"\n")
	args := []string{"replay", "--data", data, "--placements", server.URL + "/placements.csv?key=secret",
		"--actions", server.URL + "/actions.csv", "--customers", server.URL + "/customers", messages}
	telemesh(t, args...)
	if got := rows(t, data, "SELECT tenant_id, customer_name, last_action FROM iot_analytics.readings"); !cmp.Equal(got, []string{"school,The School,window opened"}) {
		t.Errorf("joined: %v", got)
	}

	// What the one sheet says anew is taken, and that the other one is away is told.
	mu.Lock()
	pages["/placements.csv"] = placementsHead + "d,office,R1,2026-01-01T00:00:00Z,\n"
	delete(pages, "/actions.csv")
	mu.Unlock()
	out, err := command(t.Context(), t, args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "503") || !strings.Contains(string(out), "/actions.csv") || strings.Contains(string(out), "secret") {
		t.Errorf("replay with a sheet that is away: %v\n%s", err, out)
	}
	if got := rows(t, data, "SELECT tenant_id FROM iot_telemetry.readings"); !cmp.Equal(got, []string{"office"}) {
		t.Errorf("the reading is of %v, want office", got)
	}
	if letters := telemesh(t, "deadletters", "list", "--data", data); letters != "no dead letters\n" {
		t.Errorf("a tick that failed is kept:\n%s", letters)
	}

	for flag, want := range map[string]string{"--customers": "--customers: ", "--placements": "--placements: ", "--actions": "--actions: "} {
		missing := filepath.Join(dir, "missing.csv")
		out, err := command(t.Context(), t, "replay", "--data", data, flag, missing, messages).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "telemesh: "+want+missing+": ") || !strings.Contains(string(out), "hint: ") {
			t.Errorf("replay %s %s: %v\n%s", flag, missing, err, out)
		}
	}
	out, err = command(t.Context(), t, "replay", "--data", data, "--customers", messages, messages).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--customers "+messages+": neither a .csv nor the address of a CRM") {
		t.Errorf("customers that are neither: %v\n%s", err, out)
	}
	out, err = command(t.Context(), t, "replay", "--data", data, "--placements", "google-sheets:a b", messages).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--placements: ") || strings.Contains(string(out), "PLACEMENTS_SHEET") {
		t.Errorf("a spreadsheet without an id: %v\n%s", err, out)
	}
}
