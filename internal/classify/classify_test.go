package classify_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/classify"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

const minute = mesh.Instant(60e6)

var began, _ = mesh.ParseInstant("2026-03-02T09:00:00Z")

func open(t testing.TB, name string) *classify.Rule {
	t.Helper()
	rules, err := classify.Load([]string{name}, "")
	if err != nil {
		t.Fatal(err)
	}
	return rules[0]
}

// unstored is the rule of the air without its history.
func unstored(t testing.TB) *classify.Rule {
	rule := *open(t, "co2-level")
	rule.History = nil
	return &rule
}

func reading(device, room string, at mesh.Instant, ppm float64) mesh.JoinedReading {
	return mesh.JoinedReading{Building: "A", Room: room, Reading: mesh.Reading{
		ReadingID: mesh.ReadingID(device, "co2", at), DeviceID: device, Metric: "co2", Value: ppm, Unit: "ppm",
		ObservedAt: at, ReceivedAt: at, TenantID: "linden-school", EventSource: "/s", EventID: fmt.Sprint(device, at)}}
}

func joined(readings ...mesh.JoinedReading) event.Event {
	data := mesh.EncodeJoined(readings)
	e := mesh.NewEvent(mesh.AnalyticsJoined, "/test", data, string(data))
	e.SetExtension(mesh.ExtTenant, "linden-school")
	return e
}

func run(t testing.TB, c *classify.Classifier, in event.Event) []event.Event {
	t.Helper()
	out, err := c.Classify(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		if err := out[i].Validate(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// lines are what events say, one each.
func lines(t testing.TB, events []event.Event) (all []string) {
	t.Helper()
	for _, e := range events {
		data, err := mesh.Decode[mesh.Classification](e.Data())
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range data.Classified {
			if one.Label != e.Extensions()[mesh.ExtLabel] || fmt.Sprint(one.SeverityNumber) != fmt.Sprint(e.Extensions()[mesh.ExtSeverityNumber]) {
				t.Errorf("attributes %v of %+v", e.Extensions(), one)
			}
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s→%s %v", (one.At-began).Time().Format("15:04:05.999999"),
				strings.Trim(one.Key["building"]+"/"+one.Key["room"]+"/"+one.Key["device_id"], "/"), one.PreviousLabel, one.Label, one.Value)))
		}
	}
	return all
}

// A value at the edge keeps the level that it had, downwards.
func TestHysteresis(t *testing.T) {
	c := classify.New(unstored(t), nil)
	var got []string
	for i, ppm := range []float64{500, 899, 900, 899, 850, 849.9, 1200, 1199, 1150, 1149, 2500, 1950, 1949, 400} {
		got = append(got, lines(t, run(t, c, joined(reading("d", "1.01", began+mesh.Instant(i)*minute, ppm))))...)
	}
	want := []string{
		"00:00:00 A/1.01 →good 500", "00:02:00 A/1.01 good→fair 900", "00:05:00 A/1.01 fair→good 849.9",
		"00:06:00 A/1.01 good→poor 1200", "00:09:00 A/1.01 poor→fair 1149", "00:10:00 A/1.01 fair→bad 2500",
		"00:12:00 A/1.01 bad→poor 1949", "00:13:00 A/1.01 poor→good 400",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// An event says what changed, where, when and by which record.
func TestChangeIsTold(t *testing.T) {
	c := classify.New(unstored(t), nil)
	r := reading("d", "1.01", began, 1300)
	r.LastAction, r.LastActionAt = "window opened", began-minute
	run(t, c, joined(reading("d", "1.01", began-minute, 950)))
	in := joined(r)
	in.SetExtension(mesh.ExtTraceParent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	out := run(t, c, in)
	if len(out) != 1 {
		t.Fatalf("%d events, want 1", len(out))
	}
	e := out[0]
	var data any
	if err := json.Unmarshal(e.Data(), &data); err != nil {
		t.Fatal(err)
	}
	var record any
	if err := json.Unmarshal(in.Data(), &record); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"rule": "co2-level", "classified": []any{map[string]any{
		"label": "poor", "severity_text": "WARN", "severity_number": 13.0, "previous_label": "fair", "previous_severity_number": 10.0,
		"value": 1300.0, "unit": "ppm", "at": "2026-03-02T09:00:00Z",
		"key":    map[string]any{"tenant_id": "linden-school", "building": "A", "room": "1.01"},
		"record": record.(map[string]any)["readings"].([]any)[0],
	}}}
	if diff := gocmp.Diff(want, data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	extensions := map[string]any{
		"label": "poor", "severitytext": "WARN", "severitynumber": int32(13), "previousseverity": int32(10), "tenantid": "linden-school",
		"causesource": "/test", "causeid": in.ID(), "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	if diff := gocmp.Diff(extensions, e.Extensions()); diff != "" || e.Type() != mesh.CO2Classified || e.Source() != "/telemesh/classify" || mesh.At(e.Time()) != began {
		t.Errorf("%s of %s at %s, extensions (-want +got):\n%s", e.Type(), e.Source(), e.Time(), diff)
	}
}

// Of several devices in a room the worst counts, as long as it is heard.
func TestWorstOfARoom(t *testing.T) {
	c := classify.New(unstored(t), nil)
	var got []string
	for _, batch := range [][]mesh.JoinedReading{
		{reading("window", "1.01", began, 600), reading("door", "1.01", began, 1300)},
		{reading("window", "1.01", began+10*minute, 2100)},
		{reading("door", "1.01", began+10*minute, 1000)},                                 // at the instant of the last change
		{reading("shelf", "1.03", began, 1300)}, {reading("table", "1.03", began, 2300)}, // both at one instant
		{reading("window", "1.01", began+20*minute, 700), reading("door", "1.01", began+20*minute, 2200)},       // they change places: nothing
		{reading("window", "1.01", began+50*minute, 700)},                                                       // the other was heard half an hour ago
		{reading("window", "1.01", began+51*minute, 710)},                                                       // and now it is gone
		{reading("door", "1.01", began+90*minute, 1170)},                                                        // too long ago to keep a level that it had
		{reading("lost", "", began, 2300), reading("found", "", began, 500), reading("d", "2.01", began, 1000)}, // nobody knows where they are
	} {
		got = append(got, lines(t, run(t, c, joined(batch...)))...)
	}
	want := []string{
		"00:00:00 A/1.01 →poor 1300", "00:10:00 A/1.01 poor→bad 2100",
		"00:00:00 A/1.03 →poor 1300", "00:00:00.000001 A/1.03 poor→bad 2300", "00:51:00 A/1.01 bad→good 710", "01:30:00 A/1.01 good→fair 1170",
		"00:00:00 A//lost →bad 2300", "00:00:00 A//found →good 500", "00:00:00 A/2.01 →fair 1000",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// What is doubtful, no CO2, or no number changes nothing.
func TestOnlyWhatTheRuleIsFor(t *testing.T) {
	doubtful, other, text := reading("d", "1.01", began, 9000), reading("d", "1.01", began, 9000), reading("d", "1.01", began, 0)
	doubtful.Quality, other.Metric = mesh.SuspectRange, "pressure"
	text.Kind, text.ValueString = mesh.Text, "n/a"
	noTime := reading("d", "1.02", began, 9000)
	noTime.Quality = mesh.QualityNoTime
	got := lines(t, run(t, classify.New(unstored(t), nil), joined(doubtful, other, text, noTime)))
	if diff := gocmp.Diff([]string{"00:00:00 A/1.02 →bad 9000"}, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// What comes late is told only if the level is another one with it, as of now.
func TestLate(t *testing.T) {
	c := classify.New(unstored(t), nil)
	at := func(minutes int, ppm float64) mesh.JoinedReading {
		return reading("d", "1.01", began+mesh.Instant(minutes)*minute, ppm)
	}
	var got []string
	for _, r := range []mesh.JoinedReading{
		at(0, 1300), at(20, 1170), // still poor
		at(5, 2500),  // bad, and over
		at(10, 1100), // in between it was fair: it still is
		at(10, 1100), at(30, 1170), at(40, 1210),
	} {
		got = append(got, lines(t, run(t, c, joined(r)))...)
	}
	want := []string{"00:00:00 A/1.01 →poor 1300", "00:20:00 A/1.01 poor→fair 1100", "00:20:00 A/1.01 poor→fair 1100", "00:40:00 A/1.01 fair→poor 1210"}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// What was silent while others measured, and does not count, is what its late readings
// follow.
func TestLateOfWhoWasSilent(t *testing.T) {
	c := classify.New(unstored(t), nil)
	var got []string
	for _, r := range []mesh.JoinedReading{
		reading("late", "1.01", began, 1300), reading("other", "1.01", began+31*minute, 500),
		reading("late", "1.01", began+20*minute, 1170), // still poor, and heard half an hour ago
	} {
		got = append(got, lines(t, run(t, c, joined(r)))...)
	}
	want := []string{"00:00:00 A/1.01 →poor 1300", "00:31:00 A/1.01 poor→good 500", "00:31:00.000001 A/1.01 good→poor 1170"}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// Of a device the last readings are kept, and of those before them what they came to.
func TestLongAgo(t *testing.T) {
	c := classify.New(unstored(t), nil)
	at := func(i mesh.Instant, ppm float64) event.Event {
		return joined(reading("d", "1.01", began+i*minute/2, ppm))
	}
	got := lines(t, run(t, c, at(0, 1300)))
	for i := range mesh.Instant(80) {
		got = append(got, lines(t, run(t, c, at(2*i+2, 1170)))...)
	}
	got = append(got, lines(t, run(t, c, at(1, 500)))...)    // so long ago that nobody knows what it was like
	got = append(got, lines(t, run(t, c, at(159, 1180)))...) // still poor, as before
	got = append(got, lines(t, run(t, c, at(162, 1149)))...)
	if diff := gocmp.Diff([]string{"00:00:00 A/1.01 →poor 1300", "01:21:00 A/1.01 poor→fair 1149"}, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// history is random readings of a room, in the order of their instants: no two of one
// device at one instant, and gaps in which devices are silent.
func history(random *rand.Rand, n int) (all []mesh.JoinedReading) {
	at := began
	level := 800.0
	for len(all) < n {
		at += minute * mesh.Instant(1+random.IntN(10))
		if random.IntN(15) == 0 {
			at += 31 * minute
		}
		for _, device := range []string{"a", "b", "c"} {
			if random.IntN(2) == 0 {
				level = min(max(level+random.NormFloat64()*120, 600), 2300)
				all = append(all, reading(device, "1.01", at, float64(int(level))))
			}
		}
	}
	return all
}

// reference tells the changes of ordered readings in the plainest way: after each instant
// it looks at all there are.
func reference(all []mesh.JoinedReading) (changes []string, last string) {
	labels, from := []string{"good", "fair", "poor", "bad"}, []float64{0, 900, 1200, 2000}
	before := ""
	for i := range all {
		if i+1 < len(all) && all[i+1].ObservedAt == all[i].ObservedAt {
			continue
		}
		worst := -1
		for _, device := range []string{"a", "b", "c"} {
			level, heard := -1, mesh.Instant(0)
			for _, r := range all[:i+1] {
				if r.DeviceID != device {
					continue
				}
				if r.ObservedAt-heard > 30*minute {
					level = -1
				}
				heard = r.ObservedAt
				raw := 0
				for l := range from {
					if r.Value >= from[l] {
						raw = l
					}
				}
				for level > raw && r.Value < from[level]-50 {
					level--
				}
				level = max(level, raw)
			}
			if level >= 0 && heard >= all[i].ObservedAt-30*minute {
				worst = max(worst, level)
			}
		}
		if labels[worst] != before {
			changes = append(changes, fmt.Sprintf("%s A/1.01 %s→%s", (all[i].ObservedAt-began).Time().Format("15:04:05.999999"), before, labels[worst]))
			before = labels[worst]
		}
	}
	return changes, before
}

func cut(lines []string) (all []string) {
	for _, line := range lines {
		all = append(all, line[:strings.LastIndex(line, " ")])
	}
	return all
}

// instants are batches of readings in which none of an instant is without the others.
func instants(random *rand.Rand, all []mesh.JoinedReading) (batches [][]mesh.JoinedReading) {
	for len(all) > 0 {
		n := min(1+random.IntN(12), len(all))
		for n < len(all) && all[n].ObservedAt == all[n-1].ObservedAt {
			n++
		}
		batches = append(batches, all[:n])
		all = all[n:]
	}
	return batches
}

// What comes in order, singly or in batches, makes the changes that there are. What comes
// in any order, again and again, ends in the same level.
func TestLevelIsOfTheSetOfReadings(t *testing.T) {
	changed := 0
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 9))
		all := history(random, 60+int(seed%4)*150)
		want, last := reference(all)
		changed += len(want)
		c := classify.New(unstored(t), nil)
		var got []string
		var made []event.Event
		batches := instants(random, all)
		for _, batch := range batches {
			mixed := slices.Clone(batch)
			random.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
			out := run(t, c, joined(mixed...))
			made = append(made, out...)
			got = append(got, lines(t, out)...)
			if ids(run(t, c, joined(mixed...))) != ids(out) {
				t.Fatalf("seed %d: a redelivery makes other events", seed)
			}
		}
		if diff := gocmp.Diff(want, cut(got)); diff != "" {
			t.Fatalf("seed %d: changes in order (-want +got):\n%s", seed, diff)
		}
		if len(all) > 60 {
			continue
		}
		again := ""
		for _, batch := range batches {
			again += ids(run(t, c, joined(batch...)))
		}
		if again != ids(made) {
			t.Fatalf("seed %d: all of it again makes other events", seed)
		}

		// Within what is kept of a device, anything goes.
		twice := append(slices.Clone(all), all[:len(all)/2]...)
		random.Shuffle(len(twice), func(i, j int) { twice[i], twice[j] = twice[j], twice[i] })
		c = classify.New(unstored(t), nil)
		var told []event.Event
		for len(twice) > 0 {
			n := min(1+random.IntN(5), len(twice))
			told = append(told, run(t, c, joined(twice[:n]...))...)
			twice = twice[n:]
		}
		slices.SortStableFunc(told, func(a, b event.Event) int { return a.Time().Compare(b.Time()) })
		if got := told[len(told)-1].Extensions()[mesh.ExtLabel]; got != last {
			t.Fatalf("seed %d: out of order it ends in %v, want %s", seed, got, last)
		}
	}
	if changed < 200 {
		t.Errorf("%d changes: too few to say anything", changed)
	}
}

// Events may come at the same time.
func TestAtTheSameTime(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	all := history(random, 60)
	_, last := reference(all)
	c := classify.New(unstored(t), nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var told []event.Event
	for range 8 {
		mixed := slices.Clone(all)
		random.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		wg.Go(func() {
			for _, r := range mixed {
				out, err := c.Classify(t.Context(), joined(r))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				told = append(told, out...)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	latest := slices.MaxFunc(told, func(a, b event.Event) int { return a.Time().Compare(b.Time()) })
	if got := latest.Extensions()[mesh.ExtLabel]; got != last {
		t.Errorf("it ends in %v, want %s", got, last)
	}
}

// More rooms than are remembered: the one that was not heard for the longest time is forgotten.
func TestForgotten(t *testing.T) {
	c := classify.New(unstored(t), nil)
	var rooms []mesh.JoinedReading
	for i := range 10_000 {
		rooms = append(rooms, reading("d", fmt.Sprint(i), began, 1300))
	}
	run(t, c, joined(rooms...))
	run(t, c, joined(reading("d", "0", began+minute, 1300), reading("d", "new", began, 1300)))
	got := lines(t, run(t, c, joined(reading("d", "0", began+2*minute, 500), reading("d", "1", began+2*minute, 500), reading("d", "3", began+2*minute, 500))))
	if diff := gocmp.Diff([]string{"00:02:00 A/0 poor→good 500", "00:02:00 A/1 →good 500", "00:02:00 A/3 poor→good 500"}, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func ids(events []event.Event) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString(e.ID() + "\n")
	}
	return b.String()
}

// A process that is killed anywhere, of which what it made last may be lost, is followed
// by one that makes the events that are missing, whatever is stored by then.
func TestColdStart(t *testing.T) {
	const seeds = 6
	for seed := range uint64(seeds) {
		random := rand.New(rand.NewPCG(seed, 17))
		all := history(random, 80)
		want, _ := reference(all)
		w := duckdbtest.Open(t)
		store := sink.New(w, sink.Tables{}, func(context.Context, event.Event) error { return nil })
		stored := 0
		storeTo := func(n int) {
			if n = min(n, len(all)); n > stored {
				if _, err := store(t.Context(), joined(all[stored:n]...)); err != nil {
					t.Fatal(err)
				}
				stored = n
			}
		}
		rule := open(t, "co2-level")
		c := classify.New(rule, w)
		var told []event.Event
		batches := instants(random, all)
		done := 0
		for i := 0; i < len(batches); i++ {
			killed := random.IntN(3) == 0
			if random.IntN(2) == 0 { // the sink is ahead
				storeTo(done + random.IntN(20))
			}
			out := run(t, c, joined(batches[i]...))
			done += len(batches[i])
			if killed {
				c = classify.New(rule, w)
				if random.IntN(2) == 0 { // before the reply: the event comes again
					done -= len(batches[i])
					i--
					continue
				}
				storeTo(done) // what was acknowledged is stored before the next comes
			}
			told = append(told, out...)
		}
		slices.SortStableFunc(told, func(a, b event.Event) int {
			return cmp.Or(a.Time().Compare(b.Time()), strings.Compare(a.ID(), b.ID()))
		})
		told = slices.CompactFunc(told, func(a, b event.Event) bool { return a.ID() == b.ID() })
		if diff := gocmp.Diff(want, cut(lines(t, told))); diff != "" {
			t.Fatalf("seed %d: changes over cold starts (-want +got):\n%s", seed, diff)
		}
	}
}
