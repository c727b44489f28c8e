package sheet_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
)

// Whatever a file holds, each of its rows is either taken or has a finding, what
// is taken makes an event that is read back, and written as a sheet it is the
// same rows.
func FuzzCSV(f *testing.F) {
	f.Add("device_id,tenant_id,valid_from,valid_to,persons,outside_co2\nd,a,2026-01-01,2/3/2026,1,4e2\n")
	f.Add("\ufeffvalid_from,tenant_id,device_id\r\n46083.5,\"a\nb\",\xff\n,,\n\"")
	f.Add("device_id,tenant_id,valid_from,\nd,a,2026-03-29 02:30,x\nd,a,2.3.2026 8:30 PM,\nd,b,2026-10-25 02:30\n")
	f.Add("sep=;\rdevice_id;tenant_id;valid_from\rd;\"a\rb\";2026-01-01\r")
	f.Add("device_id\ttenant_id\tvalid_from\nd\t\"a\t2026-01-01\ne\ta\t2026-01-01\n")
	amsterdam := zone(f, "Europe/Amsterdam")
	f.Fuzz(func(t *testing.T, csv string) {
		grid, err := sheet.ReadCSV("f.csv", strings.NewReader(csv))
		if errors.As(err, new(sheet.Fault)) {
			return
		}
		if err != nil {
			t.Fatal(err) // a string does not fail to be read
		}
		grid.Zone = amsterdam
		got, err := sheet.Placements.Read(grid)
		if err != nil {
			return
		}
		refused := map[int64]bool{}
		for i, finding := range got.Findings {
			refused[finding.Row] = true
			if i > 0 && cmp.Equal(finding, got.Findings[i-1]) || finding.Reason == "" || finding.Row < 1 {
				t.Errorf("finding %+v", finding)
			}
		}
		rows := -1 // the header
		for _, row := range grid.Rows {
			if row.Cells != nil || row.Broken != "" {
				rows++
			}
		}
		if len(got.Rows)+len(refused) != rows {
			t.Errorf("%d rows: %d taken, %d refused", rows, len(got.Rows), len(refused))
		}
		for _, e := range sheet.Placements.Events("test", sheet.Placements.Changes(got, nil, 0)) {
			if _, err := mesh.Decode[mesh.Placements](e.Data()); err != nil {
				t.Error(err)
			}
		}
		mesh.Encode(mesh.RejectedRows{Rows: got.Findings})
		var b bytes.Buffer
		if err := sheet.Placements.Write(&b, got.Rows); err != nil {
			t.Fatal(err)
		}
		again := read(t, sheet.Placements, b.String())
		if diff := cmp.Diff(got.Rows, again.Rows); diff != "" {
			t.Errorf("written and read back (-want +got):\n%s", diff)
		}
	})
}

// A text is a time only if it names the instant whose clock shows it.
func FuzzTime(f *testing.F) {
	for _, text := range []string{"2026-03-02 08:30", "2/3/2026 8:30 PM", "46083.5", "2026-03-29 02:30", "2026-03-02T08:30:15.5+01", "9999-12-31 23:59", "0000-01-01"} {
		f.Add(text, "nl_NL")
	}
	zones := []*time.Location{time.UTC, zone(f, "Europe/Amsterdam"), zone(f, "America/St_Johns")}
	f.Fuzz(func(t *testing.T, text, locale string) {
		if strings.TrimSpace(text) == "" {
			return
		}
		for _, z := range zones {
			got, reason := instantOf(t, text, z, locale)
			if reason != "" {
				continue
			}
			// As it is shown, without its offset, it is the same, or shown twice.
			local := got.Time().In(z)
			if local.Year() < 1 || local.Year() > 9998 {
				continue // may be shown by another number of digits
			}
			shown := local.Format("2006-01-02T15:04:05.999999")
			if again, reason := instantOf(t, shown, z, ""); again != got && !strings.Contains(reason, "is twice") {
				t.Errorf("%q in %s = %s, shown as %s, which is %s %s", text, z, got, shown, again, reason)
			}
		}
	})
}
