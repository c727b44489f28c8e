package main

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/sheet/sheetstest"
)

// A Google spreadsheet is read by the function of the cluster, with a service
// account, and ends in the warehouse: its rows, and what is wrong with it.
func TestGoogleSheetEndsInTheWarehouse(t *testing.T) {
	google := sheetstest.New(t)
	document := func(rows ...[]any) sheetstest.Spreadsheet {
		head := []any{"tenant_id", "device_id", "valid_from", "room"}
		return sheetstest.Spreadsheet{Locale: "nl_NL", TimeZone: "Europe/Amsterdam", Sheets: []sheetstest.Sheet{{Title: "Sensors", Values: append([][]any{head}, rows...)}}}
	}
	google.Put("1", document([]any{"school", "d", 46083.5, 102.0}, []any{nil, "e", 46083.5}))
	o := options{data: filepath.Join(t.TempDir(), "data"), set: []string{
		"sheet-source.PLACEMENTS_SHEET=google-sheets:1/Sensors", "sheet-source.SHEETS_ENDPOINT=" + google.URL,
		"sheet-source.GOOGLE_APPLICATION_CREDENTIALS=" + google.Credentials,
	}}
	in, err := o.open(t.Context(), sheets{})
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	read := func(placements, findings string) {
		t.Helper()
		if _, err := in.readSheets(t.Context()); err != nil {
			t.Fatal(err)
		}
		for sql, want := range map[string]string{
			"SELECT coalesce(string_agg(device_id || ' ' || tenant_id || ' ' || room || ' ' || valid_from::VARCHAR, ', '), '') FROM iot_metadata.placements": placements,
			"SELECT coalesce(string_agg(row_number || ' ' || column_name || ': ' || reason, ', '), '') FROM iot_metadata.rejected_rows":                      findings,
		} {
			rows, err := in.warehouse.Query(t.Context(), sql)
			if err != nil {
				t.Fatal(err)
			}
			for row, err := range rows.All {
				if diff := cmp.Diff(want, row[0]); err != nil || diff != "" {
					t.Errorf("%s: %v (-want +got):\n%s", sql, err, diff)
				}
			}
		}
	}
	read("d school 102 2026-03-02 11:00:00", "3 tenant_id: empty")
	google.Put("1", document([]any{"office", "d", 46083.5, 102.0}))
	read("d office 102 2026-03-02 11:00:00", "")
	google.RevokeKey()
	read("d office 102 2026-03-02 11:00:00", "0 : status 401: Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential: see to the key of the service account "+sheetstest.Email+" (GOOGLE_APPLICATION_CREDENTIALS)")
}
