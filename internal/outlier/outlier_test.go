package outlier_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/outlier"
)

var air = outlier.Metric{Noise: 100, Stuck: 4 * time.Hour}

const minute = mesh.Instant(60e6)

// every gives readings of one device, so many minutes apart.
func every(minutes mesh.Instant, values ...float64) []mesh.Reading {
	rows := make([]mesh.Reading, len(values))
	for i, v := range values {
		at := mesh.Instant(i) * minutes * minute
		rows[i] = mesh.Reading{ReadingID: mesh.ReadingID("d", "co2", at), DeviceID: "d", Metric: "co2", Value: v, ObservedAt: at, ReceivedAt: at + 1, EventID: fmt.Sprint(i)}
	}
	return rows
}

// air-like values without a fault, by a seed.
func calm(n int, seed uint64) []float64 {
	random := rand.New(rand.NewPCG(seed, 1))
	values := make([]float64, n)
	for i := range values {
		values[i] = math.Round(600 + 200*math.Sin(float64(i)/20) + 12*random.NormFloat64())
	}
	return values
}

// flagged gives "index:rule" of the readings that are sent.
func flagged(sent []mesh.Reading, rows []mesh.Reading) string {
	var out []string
	for _, r := range sent {
		i := slices.IndexFunc(rows, func(row mesh.Reading) bool { return row.ObservedAt == r.ObservedAt })
		out = append(out, fmt.Sprintf("%d:%s", i, strings.TrimPrefix(r.Quality, "suspect:")))
	}
	return strings.Join(out, " ")
}

func all(m outlier.Metric, rows []mesh.Reading) []mesh.Reading {
	return m.Judge(rows, math.MinInt64, math.MaxInt64)
}

func with(values []float64, changes map[int]float64) []float64 {
	values = slices.Clone(values)
	for i, v := range changes {
		values[i] = v
	}
	return values
}

func same(values []float64, from, to int) []float64 {
	values = slices.Clone(values)
	for i := from; i < to; i++ {
		values[i] = values[from]
	}
	return values
}

func indexes(rule string, from, to int) string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprintf("%d:%s", i, rule))
	}
	return strings.Join(out, " ")
}

func TestRules(t *testing.T) {
	quiet := calm(60, 1)
	step := slices.Clone(quiet)
	for i := 30; i < len(step); i++ {
		step[i] += 500
	}
	ramp := make([]float64, 60)
	for i := range ramp {
		ramp[i] = 400 + 40*float64(i) // a room that fills
	}
	peak := make([]float64, 60)
	for i := range peak {
		peak[i] = 1600 - 40*math.Abs(float64(i-30))
	}
	twins := make([]float64, 40)
	for i := range twins {
		twins[i] = 500 + float64(i%3)
		if i%2 == 1 {
			twins[i] = 1100 + float64(i%5)
		}
	}
	toggles := make([]float64, 40) // of a sensor that is coarse
	for i := range toggles {
		toggles[i] = 500 + float64(i%2)*50
	}
	for _, c := range []struct {
		name   string
		metric outlier.Metric
		rows   []mesh.Reading
		want   string
	}{
		{"nothing", air, every(10, quiet...), ""},
		{"no rows", air, nil, ""},
		{"a spike up", air, every(10, with(quiet, map[int]float64{30: 2600})...), "30:spike"},
		{"a spike down", air, every(10, with(quiet, map[int]float64{30: 20})...), "30:spike"},
		{"two readings of one spike", air, every(10, with(quiet, map[int]float64{30: 2600, 31: 2500})...), "30:spike 31:spike"},
		{"not the last one: what follows is not known", air, every(10, with(quiet, map[int]float64{59: 2600})...), ""},
		{"nor two before it", air, every(10, with(quiet, map[int]float64{57: 2600})...), ""},
		{"as soon as three follow", air, every(10, with(quiet, map[int]float64{56: 2600})...), "56:spike"},
		{"less than noise", outlier.Metric{Noise: 3000}, every(10, with(quiet, map[int]float64{30: 2600})...), ""},
		{"a step", air, every(10, step...), ""},
		{"a ramp", air, every(10, ramp...), ""},
		{"a peak", air, every(10, peak...), ""},
		{"hours apart", air, every(200, with(quiet, map[int]float64{30: 2600})...), ""},
		{"stuck", air, every(10, same(quiet, 20, 50)...), indexes("stuck", 20, 50)},
		{"stuck for less", air, every(10, same(quiet, 20, 44)...), ""},
		{"few readings that are the same", air, every(60, same(quiet, 20, 31)...), ""},
		{"a metric that may stand still", outlier.Metric{Noise: 100}, every(10, same(quiet, 20, 50)...), ""},
		{"two devices", air, every(5, twins...), indexes("duplicate_identity", 0, 40)},
		{"a coarse sensor", air, every(5, toggles...), ""},
		{"no metric of ours", outlier.Metric{}, every(10, with(same(quiet, 0, 60), map[int]float64{30: 2600})...), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := flagged(all(c.metric, c.rows), c.rows); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// What a message alone makes doubtful, and what is no number, is neither judged nor
// looked at.
func TestWhatIsNotJudged(t *testing.T) {
	values := with(calm(60, 1), map[int]float64{29: 50000, 30: 2600})
	rows := every(10, values...)
	rows[29].Quality = mesh.SuspectRange
	rows[31].Kind, rows[31].ValueString = mesh.Text, "off"
	rows[32].Kind, rows[32].Value = mesh.Boolean, 1
	rows[30].Quality = mesh.QualityNoTime
	if got := flagged(all(air, rows), rows); got != "30:spike" {
		t.Errorf("got %q, want 30:spike", got)
	}
}

// sent gives the readings as they stand in the store once what is sent is stored.
func stored(m outlier.Metric, rows []mesh.Reading) []mesh.Reading {
	return append(slices.Clone(rows), all(m, rows)...)
}

// A judgement is of the reading as it was measured.
func TestJudgementKeepsTheReading(t *testing.T) {
	rows := every(10, with(calm(60, 1), map[int]float64{30: 2600})...)
	rows[30].TenantID, rows[30].AssignmentVersion, rows[30].Unit, rows[30].Attributes = "school", 7, "ppm", `{"a":1}`
	again := rows[30]
	again.ReceivedAt, again.EventID = again.ReceivedAt+1e9, "later"
	sent := all(air, append(rows, again))
	if len(sent) != 1 || sent[0].Judged == 0 {
		t.Fatalf("sent %v, want one that is judged", sent)
	}
	want := rows[30]
	want.Quality, want.Judged, want.TenantID, want.AssignmentVersion = mesh.SuspectSpike, sent[0].Judged, "", 0
	if diff := cmp.Diff(want, sent[0]); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
	// It gets its tenant, as all readings do, and is stored.
	sent[0].TenantID, sent[0].AssignmentVersion = "school", 7
	if more := all(air, append(append(rows, again), sent...)); len(more) > 0 {
		t.Errorf("%s is sent again", flagged(more, rows))
	}
	// Stamped anew, as a repair of the tenancy does it.
	stamped := sent[0]
	stamped.TenantID, stamped.AssignmentVersion = "office", 9
	base := rows[30]
	base.TenantID, base.AssignmentVersion = "office", 9
	if more := all(air, append(append(rows, again, base, stamped), sent...)); len(more) > 0 {
		t.Errorf("%s is sent again after a repair", flagged(more, rows))
	}
	if more := all(air, append(append(rows, again, base), sent...)); flagged(more, rows) != "30:spike" {
		t.Errorf("%q is sent, want 30:spike, which the repair has not seen", flagged(more, rows))
	}
}

// Readings that come late take back a flag, or give another.
func TestLateReadings(t *testing.T) {
	values := calm(60, 1)
	for i := 20; i < 40; i++ {
		values[i] += 900
	}
	rows := every(10, values...)
	// Of the hours in which the room was full, one reading has come.
	early := append(slices.Clone(rows[:20]), rows[28])
	early = append(early, rows[40:]...)
	if got := flagged(all(air, early), rows); got != "28:spike" {
		t.Fatalf("got %q, want 28:spike", got)
	}
	now := append(stored(air, early), rows...)
	sent := all(air, now)
	if got := flagged(sent, rows); got != "28:" {
		t.Errorf("got %q, want that 28 is no spike", got)
	}
	if more := all(air, append(now, sent...)); len(more) > 0 {
		t.Errorf("%s is sent again", flagged(more, rows))
	}
}

// A corrected value is judged, not the one before it; of two values that conflict,
// the one that counts.
func TestCorrections(t *testing.T) {
	rows := every(10, with(calm(60, 1), map[int]float64{30: 2600, 40: 2600})...)
	corrected := rows[30]
	corrected.Revision, corrected.Value = 1, calm(60, 1)[30]
	conflicting := rows[40]
	conflicting.Value = 2700
	now := append(stored(air, rows), corrected, conflicting)
	sent := all(air, now)
	if got := flagged(sent, rows); got != "40:spike" || sent[0].Value != 2700 {
		t.Errorf("sent %v, want that 2700 of 40 is a spike", sent)
	}
}

// Whatever is known when, the flags end as those of who knew all from the beginning:
// rows come in any order, some twice, and are judged in between, by parts of what
// there is or by all; what is sent is stored sooner or later.
func TestFlagsDoNotDependOnOrder(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 2))
		values := calm(80, seed)
		for range random.IntN(4) {
			values[random.IntN(80)] += 1500
		}
		if random.IntN(2) == 0 {
			from := random.IntN(40)
			values = same(values, from, from+30)
		}
		rows := every(mesh.Instant(2+random.IntN(12)), values...)
		for range random.IntN(4) { // conflicts and corrections
			row := rows[random.IntN(len(rows))]
			row.Value += 700
			row.Revision = int64(random.IntN(2))
			rows = append(rows, row)
		}
		want := final(stored(air, rows))

		arriving := append(slices.Clone(rows), rows[:20]...)
		random.Shuffle(len(arriving), func(i, j int) { arriving[i], arriving[j] = arriving[j], arriving[i] })
		var store, under []mesh.Reading // under way
		for len(arriving) > 0 || len(under) > 0 {
			n := min(len(arriving), random.IntN(30))
			store, arriving = append(store, arriving[:n]...), arriving[n:]
			n = random.IntN(len(under) + 1)
			store, under = append(store, under[:n]...), slices.Clone(under[n:])
			from := mesh.Instant(random.IntN(900)) * minute
			if sent := air.Judge(store, from, from+300*minute); random.IntN(3) > 0 { // else nobody is there
				under = append(under, sent...)
			}
			random.Shuffle(len(under), func(i, j int) { under[i], under[j] = under[j], under[i] })
		}
		got := final(stored(air, store))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d (-all at once +in parts):\n%s", seed, diff)
		}
	}
}

// final gives instant, value and flag of each reading, by the order of the store.
func final(rows []mesh.Reading) []string {
	best := map[mesh.Instant]mesh.Reading{}
	for _, r := range rows {
		b, ok := best[r.ObservedAt]
		if rank := func(r mesh.Reading) []float64 {
			return []float64{float64(r.Revision), r.Value, float64(r.Judged)}
		}; !ok || slices.Compare(rank(r), rank(b)) > 0 || slices.Equal(rank(r), rank(b)) && r.Quality > b.Quality {
			best[r.ObservedAt] = r
		}
	}
	var out []string
	for at, r := range best {
		out = append(out, fmt.Sprintf("%6d %v %s", at/minute, r.Value, r.Quality))
	}
	slices.Sort(out)
	return out
}

func TestReadRules(t *testing.T) {
	rules, err := outlier.ReadRules([]byte("metrics: [{metric: co2, unit: ppm, noise: 100, stuck: 4h}, {metric: temperature, stuck: 6h}, {metric: x, names: [y]}]"))
	if err != nil {
		t.Fatal(err)
	}
	want := outlier.Rules{"co2": air, "temperature": {Stuck: 6 * time.Hour}}
	if diff := cmp.Diff(want, rules); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := rules.Window(); got != 6*time.Hour {
		t.Errorf("Window() = %s, want 6h", got)
	}
	for text, want := range map[string]string{
		"metrics: [{metric: co2, stuck: long}]":   "metric co2: stuck: ",
		"metrics: [{metric: co2, stuck: -1h}]":    "metric co2: noise and stuck are at least 0",
		"metrics: [{metric: co2, noise: -0.5}]":   "metric co2: noise and stuck are at least 0",
		"metrics: [{metric: co2, noise: [much]}]": "metric dictionary",
	} {
		if _, err := outlier.ReadRules([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadRules(%s): %v, want an error with %q", text, err, want)
		}
	}
}
