package simulate

import (
	"bytes"
	"encoding/csv"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	format "github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/products"
)

func sample(t *testing.T, change func(*Options)) *Fleet {
	t.Helper()
	o := Sample()
	if change != nil {
		change(&o)
	}
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSameOptionsSameFleet(t *testing.T) {
	f, again, other := sample(t, nil), sample(t, nil), sample(t, func(o *Options) { o.Seed = 2 })
	all := slices.Collect(f.Messages(f.Start, f.End()))
	if !slices.EqualFunc(all, slices.Collect(again.Messages(f.Start, f.End())), same) {
		t.Error("messages differ")
	}
	if diff := cmp.Diff(f.Actions(), again.Actions()); diff != "" {
		t.Errorf("actions differ:\n%s", diff)
	}
	if slices.EqualFunc(all, slices.Collect(other.Messages(f.Start, f.End())), same) || cmp.Equal(f.Actions(), other.Actions()) {
		t.Error("another seed gives the same messages or actions")
	}
}

func same(a, b Sent) bool {
	return a.At.Equal(b.At) && a.Measured.Equal(b.Measured) && bytes.Equal(a.Body, b.Body)
}

// A restart enters in the middle and must go on as if there had been none.
func TestMessagesFromTheMiddle(t *testing.T) {
	f := sample(t, nil)
	all := slices.Collect(f.Messages(f.Start, f.End()))
	for _, after := range []time.Duration{time.Nanosecond, 9 * time.Hour, 60*time.Hour + 123*time.Millisecond, 2 * f.Duration} {
		from := f.Start.Add(after)
		want := slices.DeleteFunc(slices.Clone(all), func(m Sent) bool { return m.At.Before(from) })
		if got := slices.Collect(f.Messages(from, f.End())); !slices.EqualFunc(want, got, same) {
			t.Errorf("from %s: %d messages, want the last %d of all", from, len(got), len(want))
		}
	}
	// Without an end, the same ones come first, but for what is late at the end.
	n := 0
	for m := range f.Messages(f.Start, time.Time{}) {
		if m.At.After(f.End()) {
			break
		}
		if !same(m, all[n]) {
			t.Fatalf("message %d without end = %s, want %s", n, m.Body, all[n].Body)
		}
		n++
	}
}

// parsed reads the messages as the mesh does.
func parsed(t *testing.T, messages []Sent) [][]mesh.Reading {
	t.Helper()
	text, err := products.FS.ReadFile("iot-telemetry/metrics.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dictionary, err := format.ReadDictionary(text)
	if err != nil {
		t.Fatal(err)
	}
	p := format.NewParser(dictionary)
	out := make([][]mesh.Reading, len(messages))
	for i, m := range messages {
		out[i], _, err = p.Parse(nil, &mesh.Message{ID: "m", Source: "/test", ReceivedAt: mesh.At(m.At), Payload: m.Body})
		if err != nil {
			t.Fatalf("%s: %v", m.Body, err)
		}
	}
	return out
}

func TestScenarioOfSample(t *testing.T) {
	f := sample(t, nil)
	messages := slices.Collect(f.Messages(f.Start, f.End()))
	if !slices.IsSortedFunc(messages, func(a, b Sent) int { return a.At.Compare(b.At) }) {
		t.Error("messages are not in the order of sending")
	}

	const perDevice = 7 * 24 * 12
	seen := map[string]int{}
	var late, overtaken, skewed, timeless, nobodys int
	var newest time.Time
	rows := f.Placements()
	for i, readings := range parsed(t, messages) {
		m := messages[i]
		if len(readings) == 4 && readings[3].Metric == "device_f_cnt" { // those over LoRaWAN
			readings = readings[:3]
		}
		if len(readings) != 3 || readings[0].Metric != "co2" || readings[1].Metric != "temperature" || readings[2].Metric != "relative_humidity" {
			t.Fatalf("%s has readings %+v, want co2, temperature, relative_humidity", m.Body, readings)
		}
		r := readings[0]
		if r.Unit != "ppm" || readings[1].Unit != "Cel" || readings[1].Value > 35 || readings[2].Unit != "%" {
			t.Fatalf("%s has readings %+v", m.Body, readings)
		}
		if seen[string(m.Body)+m.Measured.String()]++; seen[string(m.Body)+m.Measured.String()] > 1 {
			continue
		}
		delay := m.At.Sub(m.Measured)
		switch off := r.ObservedAt.Time().Sub(m.Measured); {
		case r.Quality == mesh.QualityNoTime:
			timeless++
		case off == time.Hour:
			skewed++
		case off != 0:
			t.Fatalf("%s observed at %s, measured at %s", m.Body, r.ObservedAt, m.Measured)
		}
		if delay > time.Hour {
			late++
		}
		if m.Measured.Before(newest) {
			overtaken++
		} else {
			newest = m.Measured
		}
		if !slices.ContainsFunc(rows, func(p mesh.Placement) bool {
			at := mesh.At(m.Measured)
			return p.DeviceID == r.DeviceID && p.ValidFrom <= at && (p.ValidTo == nil || at < *p.ValidTo)
		}) {
			nobodys++
		}
	}
	if want := 24 * perDevice; len(seen) != want {
		t.Errorf("%d different messages, want %d", len(seen), want)
	}
	if n := len(messages) - len(seen); n < 24*perDevice/200 || n > 24*perDevice/50 {
		t.Errorf("%d messages are sent twice, want about 1 %%", n)
	}
	if skewed != perDevice || timeless != 24 {
		t.Errorf("%d messages with a skewed time and %d without, want all %d of a device and 24", skewed, timeless, perDevice)
	}
	if late < 20 || overtaken < 24*perDevice/100 {
		t.Errorf("%d messages are over an hour late and %d overtaken, want some", late, overtaken)
	}
	if nobodys != int(transit/f.Interval) {
		t.Errorf("%d messages are measured in transit, want %d", nobodys, transit/f.Interval)
	}
}

func TestPlacementsOfSample(t *testing.T) {
	f := sample(t, nil)
	stays := map[string][]mesh.Placement{}
	for _, p := range f.Placements() {
		stays[p.DeviceID] = append(stays[p.DeviceID], p)
	}
	if len(stays) != 24 {
		t.Errorf("%d devices are placed, want 24", len(stays))
	}
	var gaps []time.Duration
	for id, p := range stays {
		if len(p) == 1 {
			continue
		}
		if len(p) != 2 || p[0].TenantID == p[1].TenantID || p[0].ValidTo == nil || p[1].ValidTo != nil {
			t.Errorf("%s is placed %+v, want a move to another tenant", id, p)
			continue
		}
		gaps = append(gaps, p[1].ValidFrom.Time().Sub(p[0].ValidTo.Time()))
	}
	slices.Sort(gaps)
	if diff := cmp.Diff([]time.Duration{0, transit}, gaps); diff != "" {
		t.Errorf("time on the way (-want +got):\n%s", diff)
	}
	if n := len(f.Customers()); n != 3 {
		t.Errorf("%d customers, want 3", n)
	}
}

// Opening windows is logged where and when it happens in the rooms.
func TestActionsAreWhatHappens(t *testing.T) {
	f := sample(t, nil)
	actions := f.Actions()
	byDevice, ids := 0, map[string]bool{}
	for _, a := range actions {
		if ids[a.ActionID] {
			t.Errorf("action %s is there twice", a.ActionID)
		}
		ids[a.ActionID] = true
		if a.DeviceID != "" {
			byDevice++
		}
	}
	if len(actions) < 50 || byDevice == 0 || byDevice == len(actions) {
		t.Errorf("%d actions, %d of them by device: want many, some of them", len(actions), byDevice)
	}
	for _, a := range actions {
		room := slices.IndexFunc(f.rooms, func(r room) bool {
			return f.tenants[r.tenant].id == a.TenantID && r.building == a.Building && r.name == a.Room
		})
		if a.DeviceID != "" {
			room = slices.IndexFunc(f.devices, func(d device) bool { return d.id == a.DeviceID })
		}
		r := f.run(room)
		r.to(a.TakenAt.Time())
		before := r.air.co2
		r.to(a.TakenAt.Time().Add(10 * time.Minute))
		if before > r.outsideCO2+300 && r.air.co2 > before-100 {
			t.Errorf("action %s: CO2 goes from %.0f to %.0f, want it to fall", a.ActionID, before, r.air.co2)
		}
	}
	half := f.ActionsUntil(f.Start.Add(f.Duration / 2))
	if len(half) == 0 || len(half) >= len(actions) || !cmp.Equal(half, actions[:len(half)]) {
		t.Errorf("half the time has %d actions of %d, want the first ones", len(half), len(actions))
	}
}

// The sheets in docs/sample are what the sample is; UPDATE_SAMPLE=1 writes them.
func TestSampleSheetsAreCurrent(t *testing.T) {
	dir := filepath.Join("..", "..", "docs", "sample")
	fresh := t.TempDir()
	if os.Getenv("UPDATE_SAMPLE") != "" {
		fresh = dir
	}
	f := sample(t, nil)
	if err := f.WriteSheets(fresh); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"placements.csv", "actions.csv", "customers.csv"} {
		want, err := os.ReadFile(filepath.Join(fresh, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("docs/sample/%s is not what the sample writes (UPDATE_SAMPLE=1 go test ./internal/simulate):\n%s", name, diff)
		}
	}
}

func TestWriteFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	f := sample(t, func(o *Options) { o.Duration = 24 * time.Hour })
	if err := f.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "messages.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for m := range f.Messages(f.Start, f.End()) {
		want.Write(m.Body)
		want.WriteByte('\n')
	}
	if !bytes.Equal(want.Bytes(), text) {
		t.Errorf("messages.ndjson has %d bytes, want the %d of all messages", len(text), want.Len())
	}
	placements, err := os.Open(filepath.Join(dir, "placements.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer placements.Close()
	grid, err := sheet.ReadCSV("placements.csv", placements)
	if err != nil {
		t.Fatal(err)
	}
	got, err := sheet.Placements.Read(grid)
	if err != nil || len(got.Findings) > 0 {
		t.Fatalf("read placements.csv: %v, findings %v", err, got.Findings)
	}
	if diff := cmp.Diff(f.Placements(), got.Rows); diff != "" {
		t.Errorf("placements read back (-want +got):\n%s", diff)
	}
	actions, err := os.ReadFile(filepath.Join(dir, "actions.csv"))
	if err != nil {
		t.Fatal(err)
	}
	if rows, err := csv.NewReader(bytes.NewReader(actions)).ReadAll(); err != nil || len(rows) != len(f.Actions())+1 {
		t.Errorf("actions.csv has %d rows (%v), want %d and a header", len(rows), err, len(f.Actions()))
	}
}

func TestOptionsThatMakeNoFleet(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"0 tenants":     func(o *Options) { o.Tenants = 0 },
		"0 devices":     func(o *Options) { o.Devices = 0 },
		"interval 0s":   func(o *Options) { o.Interval = 0 },
		"duration 1s":   func(o *Options) { o.Duration = time.Second },
		"no start":      func(o *Options) { o.Start = time.Time{} },
		"25 relocation": func(o *Options) { o.Relocations = 25 },
		"second room":   func(o *Options) { o.Devices, o.Relocations = 1, 1 },
		"bad clocks":    func(o *Options) { o.Skewed = 16 },
		"share 1.5":     func(o *Options) { o.Late = 1.5 },
	} {
		o := Sample()
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want an error about %q", err, want)
		}
	}
	one := sample(t, func(o *Options) { o.Tenants, o.Devices, o.Relocations, o.Skewed, o.Timeless = 1, 1, 0, 0, 0 })
	if n := len(one.Placements()); n != 1 {
		t.Errorf("a fleet of one has %d placements, want 1", n)
	}
}

func BenchmarkMessages(b *testing.B) {
	f, err := New(Sample())
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		for range f.Messages(f.Start, f.End()) {
			n++
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "messages/s")
}
