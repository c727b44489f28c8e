package device_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

func FuzzCSV(f *testing.F) { fuzzFormat(f, "csv") }

// The file of a real room as wide rows and that as long ones give the same
// rows. The wide one has no units, and a column id; the long one has 5 keys
// twice.
func TestCSVWideIsLong(t *testing.T) {
	dir := dataset.Path(t, "indoor-air/windesheim-b4b2022")
	p := device.NewParser(dictionary(t))
	read := func(file string) map[string]mesh.Reading {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if file == "925038_raw_measurements.csv" { // where the unit of a fraction is 0: no decimals
			text = bytes.ReplaceAll(text, []byte(",0\n"), []byte(",1\n"))
		}
		header, rest, _ := bytes.Cut(text, []byte("\n"))
		header = bytes.Replace(header, []byte("source"), []byte("device_id"), 1)
		rows := map[string]mesh.Reading{}
		for len(rest) > 0 { // as ingest hands a file on: 16 KiB of rows each, with the header
			n := min(16<<10, len(rest))
			if end := bytes.IndexByte(rest[n:], '\n'); end >= 0 {
				n += end + 1
			} else {
				n = len(rest)
			}
			m := message(string(header) + "\n" + string(rest[:n]))
			m.ContentType = "text/csv"
			rest = rest[n:]
			readings, skipped, err := p.Parse(nil, m)
			if err != nil || skipped > 0 {
				t.Fatalf("%s: %d skipped, %v", file, skipped, err)
			}
			for _, r := range readings {
				if r.Metric != "id" {
					rows[r.ReadingID] = r
				}
			}
		}
		return rows
	}
	wide, long := read("925038_raw_properties.csv"), read("925038_raw_measurements.csv")
	if len(wide) != 17_570 || len(long) != len(wide) {
		t.Errorf("%d rows of the wide file, %d of the long one, want 17570 each", len(wide), len(long))
	}
	for id, r := range wide {
		if _, ok := long[id]; !ok {
			t.Errorf("the long file has no %s of %s at %s", r.Metric, r.DeviceID, r.ObservedAt)
		}
	}
}
