package main

import (
	"fmt"
	"path/filepath"
	"testing"
)

// Functions hold copies of what they look up. What they stamp by what was true
// before a sheet was loaded is put right before the mesh comes to rest, and so is
// what they stamped before.
func TestLoadedSheetHoldsForAll(t *testing.T) {
	dir := t.TempDir()
	placed := func(tenant, room string) sheets {
		return sheets{placements: write(t, filepath.Join(dir, tenant+".csv"),
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
