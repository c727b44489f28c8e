package main

import (
	"encoding/csv"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/mesh"
)

const (
	wideFile = "indoor-air/windesheim-b4b2022/925038_raw_properties.csv"
	longFile = "indoor-air/windesheim-b4b2022/925038_raw_measurements.csv"
)

var wideColumns = []string{"--device-columns", "id,source", "--time-column", "timestamp"}

func readCSV(t testing.TB, path string) []map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]string
	for _, cells := range all[1:] {
		row := map[string]string{}
		for i, name := range all[0] {
			row[name] = cells[i]
		}
		out = append(out, row)
	}
	return out
}

// number is a measurement of the data set as a float64.
func number(t testing.TB, s string) float64 {
	t.Helper()
	switch s {
	case "True":
		return 1
	case "False":
		return 0
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func instant(t testing.TB, s string) mesh.Instant {
	t.Helper()
	at, err := time.Parse("2006-01-02T15:04:05-0700", s)
	if err != nil {
		t.Fatal(err)
	}
	return mesh.At(at)
}

// The people who published the recordings give them wide and long. What the
// mesh makes of the wide file is the long one.
func TestWideFileBecomesLongFile(t *testing.T) {
	wide, long := dataset.Path(t, wideFile), dataset.Path(t, longFile)
	// Their names as the dictionary has them.
	metrics := map[string]string{
		"co2__ppm": "co2", "temp_in__degC": "temperature", "rel_humidity__0": "relative_humidity_fraction",
		"occupancy__p": "people_count", "valve_frac__0": "valve_opening", "door_open__bool": "door_open", "window_open__bool": "window_open",
	}
	want := map[string][]float64{}
	for _, row := range readCSV(t, long) {
		metric, ok := metrics[row["property"]]
		if !ok {
			t.Fatalf("property %q of the long file is not known", row["property"])
		}
		key := fmt.Sprintf("%s/%s %s %s", row["id"], row["source"], metric, instant(t, row["timestamp"]))
		want[key] = append(want[key], number(t, row["value"]))
	}

	data := t.TempDir()
	telemesh(t, append([]string{"replay", "--data", data, wide}, wideColumns...)...)
	check := func() {
		t.Helper()
		seen := 0
		rounded := 0
		for _, line := range rows(t, data, "SELECT device_id, metric, observed_at, value FROM iot_telemetry.readings") {
			cells := strings.Split(line, ",")
			key := fmt.Sprintf("%s %s %s", cells[0], cells[1], cells[2])
			values, ok := want[key]
			if !ok {
				t.Fatalf("reading %s is not in the long file", line)
			}
			seen++
			got := number(t, cells[3])
			if !slices.ContainsFunc(values, func(v float64) bool { return math.Abs(v-got) <= 1e-9 }) {
				// The building's own recorder counts in float32, and the wide file
				// has its values rounded to that where the long one has not.
				if !strings.Contains(key, "/bms ") || !slices.ContainsFunc(values, func(v float64) bool { return float32(v) == float32(got) }) {
					t.Errorf("%s = %v, want %v", key, got, values)
				}
				rounded++
			}
		}
		if seen != len(want) {
			t.Errorf("%d readings, want %d", seen, len(want))
		}
		if rounded > 906 {
			t.Errorf("%d values agree in float32 only, want the 906 that the two files differ in", rounded)
		}
	}
	check()
	snapshot := rows(t, data, snapshotSQL)

	telemesh(t, append([]string{"replay", "--data", data, wide}, wideColumns...)...)
	if diff := cmp.Diff(snapshot, rows(t, data, snapshotSQL)); diff != "" {
		t.Errorf("replaying the file again changed the table (-before +after):\n%s", diff)
	}

	lines := strings.Split(strings.TrimSpace(read(t, wide)), "\n")
	header, body := lines[0], slices.Concat(lines[1:], lines[1:])
	random := rand.New(rand.NewPCG(1, 2))
	random.Shuffle(len(body), func(i, j int) { body[i], body[j] = body[j], body[i] })
	shuffled := write(t, filepath.Join(t.TempDir(), "shuffled.csv"), header+"\n"+strings.Join(body, "\n")+"\n")
	telemesh(t, append([]string{"replay", "--data", data, shuffled}, wideColumns...)...)
	if diff := cmp.Diff(snapshot, rows(t, data, snapshotSQL)); diff != "" {
		t.Errorf("replaying it shuffled and doubled changed the table (-before +after):\n%s", diff)
	}

	other := t.TempDir()
	telemesh(t, append([]string{"replay", "--data", other, shuffled}, wideColumns...)...)
	if diff := cmp.Diff(snapshot, rows(t, other, snapshotSQL)); diff != "" {
		t.Errorf("the shuffled file makes another table (-ordered +shuffled):\n%s", diff)
	}
}

// snapshotSQL is everything that a table says but when it was told.
const snapshotSQL = `SELECT reading_id, tenant_id, device_id, metric, value, value_string, unit, observed_at, quality
	FROM iot_telemetry.readings ORDER BY reading_id`

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A device changes hands in the middle of the recording: the rows split at
// that instant, and the join follows.
func TestTenantChangeSplitsTheRows(t *testing.T) {
	wide := dataset.Path(t, wideFile)
	dir, data := t.TempDir(), t.TempDir()
	const device, moved = "925038/CO2-meter-SCD4x", "2022-10-20T10:00:00Z"
	placements := write(t, filepath.Join(dir, "placements.csv"), `device_id,tenant_id,building,floor,room,persons,outside_co2,valid_from,valid_to
`+device+`,school,North,1,N1.01,24,421,2022-10-01T00:00:00+02:00,2022-10-20T12:00:00+02:00
`+device+`,office,South,2,S2.02,6,430,2022-10-20T12:00:00+02:00,
`)
	actions := write(t, filepath.Join(dir, "actions.csv"), `action_id,tenant_id,device_id,building,room,action,taken_at
1,school,,North,N1.01,window opened,2022-10-10T09:00:00Z
2,school,,North,N1.02,window of another room opened,2022-10-11T09:00:00Z
3,office,`+device+`,,,filter changed,2022-10-25T09:00:00Z
`)
	customers := write(t, filepath.Join(dir, "customers.csv"), "customer_id,name,sector,country\nschool,The School,education,NL\noffice,\"Office, Ltd\",office,NL\n")
	telemesh(t, append([]string{"replay", "--data", data, "--placements", placements, "--actions", actions, "--customers", customers, wide}, wideColumns...)...)

	check := func(what, sql string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, rows(t, data, sql)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("tenants before and after the instant", `SELECT DISTINCT tenant_id, observed_at >= TIMESTAMPTZ '`+moved+`' AS after
		FROM iot_telemetry.readings WHERE device_id = '`+device+`' ORDER BY after`, "school,false", "office,true")
	check("rows at the instant itself", `SELECT DISTINCT tenant_id FROM iot_telemetry.readings
		WHERE device_id = '`+device+`' AND observed_at = TIMESTAMPTZ '`+moved+`'`, "office")
	check("devices that nobody holds", `SELECT DISTINCT device_id FROM iot_telemetry.readings WHERE tenant_id IS NULL ORDER BY 1`,
		"925038/bms", "925038/human_observer", "925038/xovis")
	check("place and customer", `SELECT DISTINCT tenant_id, building, floor, room, persons, outside_co2, customer_name FROM iot_analytics.readings ORDER BY tenant_id DESC`,
		"school,North,1,N1.01,24,421,The School", `office,South,2,S2.02,6,430,"Office, Ltd"`)
	check("last action", `SELECT tenant_id, last_action, min(observed_at) >= min(last_action_at) AS later FROM iot_analytics.readings
		GROUP BY ALL ORDER BY min(observed_at)`, "school,,", "school,window opened,true", "office,,", "office,filter changed,true")
	check("minutes since the action", `SELECT count(*) FROM iot_analytics.readings
		WHERE abs(minutes_since_action - date_diff('second', last_action_at, observed_at) / 60.0) > 1e-6`, "0")
	check("what is joined is what is enriched", `SELECT count(*) FROM iot_telemetry.readings t FULL JOIN iot_analytics.readings a USING (reading_id)
		WHERE (t.tenant_id IS NOT NULL OR a.reading_id IS NOT NULL)
		AND (t.tenant_id IS DISTINCT FROM a.tenant_id OR t.value IS DISTINCT FROM a.value)`, "0")
}
