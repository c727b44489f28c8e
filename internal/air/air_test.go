package air_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/air"
	"github.com/telemesh/telemesh/internal/air/airtest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/warehousetest"
)

type reading = airtest.Reading

func measured(tenant, device string, room air.Room, at time.Time, value float64) reading {
	return reading{Tenant: tenant, Device: device, Room: room, At: at, Value: value}
}

func of(t *testing.T, f *airtest.Store, tenant string) *air.Air {
	t.Helper()
	a, err := air.Of(f.Data, access.Viewer{Role: access.Tenant, Tenants: []string{tenant}}, tenant)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var (
	noon    = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC) // a Monday
	classA  = air.Room{Building: "North", Floor: "1", Name: "1.01"}
	classB  = air.Room{Building: "North", Floor: "1", Name: "o'neill/2"}
	nowhere = air.Room{}
)

func amsterdam(t *testing.T) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Amsterdam")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// Series of every step are what a plain loop over the same readings makes, in any
// zone, for devices in rooms and for rooms.
func TestSeriesIsWhatALoopMakes(t *testing.T) {
	f := airtest.Open(t)
	random := rand.New(rand.NewPCG(1, 2))
	start := time.Date(2026, 3, 26, 0, 0, 0, 0, time.UTC) // the clocks change on the 29th
	var all []reading
	for _, device := range []string{"d1", "d2", "it's"} {
		for at := start; at.Before(start.AddDate(0, 0, 6)); at = at.Add(time.Duration(1+random.IntN(2400)) * time.Second) {
			room := []air.Room{classA, classB, nowhere}[random.IntN(3)]
			all = append(all, measured("school", device, room, at.Add(time.Duration(random.IntN(1e6))*time.Microsecond), 400+1000*random.Float64()))
			if random.IntN(20) == 0 {
				at = at.Add(5 * time.Hour)
			}
		}
	}
	f.Read("co2", "ppm", all...)
	f.Read("temperature", "Cel", measured("school", "d1", classA, start.Add(time.Hour), 20))
	a := of(t, f, "school")

	for _, zone := range []*time.Location{time.UTC, amsterdam(t), time.FixedZone("half", -9*3600-1800)} {
		for step := air.Raw; step <= air.Day; step++ {
			for _, by := range []air.By{air.ByDevice, air.ByRoom} {
				for _, w := range []air.Where{{}, {Building: "North"}, {Room: &classB}, {Device: "it's"}, {Room: &classA, Device: "d2"}} {
					from, to := start.Add(time.Duration(random.IntN(24*3600))*time.Second), start.Add(time.Duration(72+random.IntN(72))*time.Hour)
					if step >= air.Hour { // such buckets are of whole hours
						from, to = from.Truncate(time.Hour), to.Truncate(time.Hour)
					}
					s := air.Selection{Where: w, Metric: "co2", From: from, To: to}
					got, err := a.Series(t.Context(), s, step, by, zone)
					if err != nil {
						t.Fatal(err)
					}
					want := naive(all, s, step, by, zone)
					if len(want) == 0 {
						t.Fatal("nothing is in the range")
					}
					if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-9), cmpopts.SortSlices(func(a, b air.Series) bool { return a.Room.Key()+a.Device < b.Room.Key()+b.Device })); diff != "" {
						t.Fatalf("step %q by %d of %+v in %s (-want +got):\n%s", step, by, w, zone, diff)
					}
				}
			}
		}
	}
}

// naive makes the series of readings.
func naive(all []reading, s air.Selection, step air.Step, by air.By, zone *time.Location) (out []air.Series) {
	for _, r := range all {
		if r.At.Before(s.From) || !r.At.Before(s.To) || s.Building != "" && s.Building != r.Room.Building || s.Room != nil && *s.Room != r.Room || s.Device != "" && s.Device != r.Device {
			continue
		}
		device := r.Device
		if by == air.ByRoom && r.Room.Name != "" {
			device = ""
		}
		i := slices.IndexFunc(out, func(s air.Series) bool { return s.Room == r.Room && s.Device == device })
		if i < 0 {
			i = len(out)
			out = append(out, air.Series{Room: r.Room, Device: device, Unit: "ppm"})
		}
		at := r.At
		switch {
		case step == air.Day:
			// The hours of a day: where clocks are no whole hours ahead of UTC, an hour counts where it begins.
			local := r.At.Truncate(time.Hour).In(zone)
			at = time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, zone).UTC()
		case step > air.Raw:
			at = r.At.Truncate(step.Width())
		}
		outside := 420.0
		points := &out[i].Points
		j := -1
		if step != air.Raw {
			j = slices.IndexFunc(*points, func(p air.Point) bool { return p.At.Equal(at) })
		}
		if j < 0 {
			j = len(*points)
			*points = append(*points, air.Point{At: at, Min: math.Inf(1), Max: math.Inf(-1), Outside: &outside})
		}
		p := &(*points)[j]
		p.Mean = (p.Mean*float64(p.Readings) + r.Value) / float64(p.Readings+1)
		p.Readings++
		p.Min, p.Max = min(p.Min, r.Value), max(p.Max, r.Value)
	}
	for i := range out {
		slices.SortFunc(out[i].Points, func(a, b air.Point) int { return a.At.Compare(b.At) })
	}
	return out
}

func TestResolve(t *testing.T) {
	f := airtest.Open(t)
	var all []reading
	for i := range 3 * 24 * 60 { // three days, each minute
		all = append(all, measured("school", "d1", classA, noon.Add(time.Duration(i)*time.Minute), 500))
	}
	f.Read("co2", "ppm", all...)
	a := of(t, f, "school")
	for _, test := range []struct {
		days  float64
		asked air.Step
		want  air.Step
	}{
		{1, air.Auto, air.Raw}, {3, air.Auto, air.Minutes5}, {8, air.Auto, air.Minutes15}, {30, air.Auto, air.Hour}, {366, air.Auto, air.Day},
		{366, air.Hour, air.Hour}, {3, air.Raw, air.Raw}, {1, air.Day, air.Day},
	} {
		s := air.Selection{Metric: "co2", From: noon, To: noon.Add(time.Duration(test.days * float64(24*time.Hour)))}
		got, err := a.Resolve(t.Context(), s, test.asked, air.ByDevice, air.MaxPoints)
		if err != nil || got != test.want {
			t.Errorf("Resolve(%v days, %q) = %q, %v, want %q", test.days, test.asked, got, err, test.want)
		}
		series, err := a.Series(t.Context(), s, got, air.ByDevice, time.UTC)
		if err != nil || len(series) != 1 || test.asked == air.Auto && len(series[0].Points) > air.MaxPoints {
			t.Errorf("%v days by %q: %d series, %v", test.days, got, len(series), err)
		}
	}
	s := air.Selection{Metric: "co2", From: noon, To: noon.AddDate(1, 0, 0)}
	if _, err := a.Resolve(t.Context(), s, air.Minutes5, air.ByDevice, air.MaxPoints); !errors.Is(err, air.ErrTooMany) {
		t.Errorf("a year of 5 minutes: %v, want %v", err, air.ErrTooMany)
	}
}

// What another tenant has is in no answer, though it is of the same device, in a
// room of the same name, at the same time.
func TestTenantsSeeTheirOwn(t *testing.T) {
	f := airtest.Open(t)
	// d1 moved at noon, within one building, to another tenant; an action that names
	// nobody is of who held the device then.
	f.Place("school", "d1", classA, noon.AddDate(0, 0, -1), noon)
	f.Place("office", "d1", classA, noon, time.Time{})
	f.Place("office", "d2", classB, noon.AddDate(0, 0, -1), time.Time{})
	for i := -12; i < 12; i++ {
		at := noon.Add(time.Duration(i) * 10 * time.Minute)
		if i < 0 {
			f.Read("co2", "ppm", measured("school", "d1", classA, at, 500))
		} else {
			f.Read("co2", "ppm", measured("office", "d1", classA, at, 9999))
		}
		f.Read("co2", "ppm", measured("office", "d2", classB, at, 9999))
	}
	f.Act("a1", "", "d1", nowhere, "school's", noon.Add(-time.Hour))
	f.Act("a2", "", "d1", nowhere, "office's", noon.Add(time.Hour))
	f.Act("a3", "office", "", classB, "office's", noon.Add(-time.Hour))
	f.Customer("school", "The School")
	f.Customer("office", "Office")

	school := access.Viewer{Role: access.Tenant, Tenants: []string{"school"}}
	if _, err := air.Of(f.Data, school, "office"); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("Of(another tenant) = %v, want %v", err, access.ErrForbidden)
	}
	if got, err := air.Tenants(t.Context(), f.Data, school); err != nil || !slices.Equal(got, []air.Tenant{{ID: "school", Name: "The School"}}) {
		t.Errorf("Tenants() = %v, %v", got, err)
	}
	for _, viewer := range []access.Viewer{school, {Role: access.Admin}} {
		a, err := air.Of(f.Data, viewer, "school")
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		p, err := a.Places(ctx)
		if err != nil || len(p.Stays) != 1 || p.Stays[0].Device != "d1" {
			t.Fatalf("Places() = %+v, %v", p, err)
		}
		from, to := noon.AddDate(0, 0, -2), noon.AddDate(0, 0, 2)
		for _, w := range []air.Where{{}, {Building: "North"}, {Room: &classA}, {Room: &classB}, {Device: "d1"}, {Device: "d2"}} {
			s := air.Selection{Where: w, Metric: "co2", From: from, To: to}
			foreign := w.Device == "d2" || w.Room == &classB
			n := 0
			for step := air.Raw; step <= air.Day; step++ {
				series, err := a.Series(ctx, s, step, air.ByDevice, time.UTC)
				if err != nil {
					t.Fatal(err)
				}
				for _, each := range series {
					for _, point := range each.Points {
						n++
						if point.Max != 500 || each.Room != classA {
							t.Errorf("%+v by %q: %+v in %+v", w, step, point, each.Room)
						}
					}
				}
			}
			hours, err := a.Hours(ctx, s)
			if err != nil || slices.ContainsFunc(hours, func(h air.HourMean) bool { return h.Mean != 500 }) {
				t.Errorf("%+v: Hours() = %v, %v", w, hours, err)
			}
			for r, err := range a.Readings(ctx, s) {
				n++
				if err != nil || r.TenantID != "school" || r.Value != 500 {
					t.Errorf("%+v: reading %+v, %v", w, r, err)
				}
			}
			actions, err := a.Actions(ctx, p, w, from, to)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range actions {
				n++
				if x.Text != "school's" {
					t.Errorf("%+v: action %+v", w, x)
				}
			}
			now, err := a.Now(ctx, p, w, "co2", noon.Add(time.Hour))
			if err != nil || len(now) > 0 {
				t.Errorf("%+v: Now() = %+v, %v, want nothing: the device is another's", w, now, err)
			}
			if now, err = a.Now(ctx, p, w, "co2", noon.Add(-time.Second)); err != nil || (len(now) == 0) != foreign {
				t.Errorf("%+v: Now() = %+v, %v before it went", w, now, err)
			}
			news, err := a.News(ctx, air.Selection{Where: w, Metric: "co2"}, time.Unix(0, 0), noon.Add(3*time.Hour))
			if err != nil || news.Readings > 12 || (news.Readings == 0) != foreign {
				t.Errorf("%+v: News() = %+v, %v", w, news, err)
			}
			if (n == 0) != foreign || foreign != (len(actions) == 0) {
				t.Errorf("%+v shows %d things", w, n)
			}
		}
		if moves := p.Moves(air.Where{}, from, to); len(moves) != 2 || moves[1].Came || moves[1].Other != nil {
			t.Errorf("Moves() = %+v: want that it came, and that it left for where nobody says", moves)
		}
	}
}

func TestGaps(t *testing.T) {
	minutes := func(at ...int) (s air.Series) {
		for _, m := range at {
			s.Points = append(s.Points, air.Point{At: noon.Add(time.Duration(m) * time.Minute)})
		}
		return s
	}
	for _, test := range []struct {
		series air.Series
		step   air.Step
		want   []int
	}{
		{minutes(), air.Raw, nil},
		{minutes(0), air.Raw, nil},
		{minutes(0, 5, 10, 25, 30), air.Raw, nil},      // 15 is three intervals
		{minutes(0, 5, 10, 26, 31), air.Raw, []int{3}}, // 16 is more
		{minutes(0, 5, 10, 20, 25), air.Minutes5, []int{3}},
		{minutes(0, 60, 120, 240, 300), air.Hour, []int{3}},
		{minutes(0, 30, 60, 90, 180, 210), air.Minutes15, []int{4}}, // of a device that sends each half hour
		{minutes(0, 1440, 2940), air.Day, nil},                      // a day of 25 hours
		{minutes(0, 1440, 4320, 5760), air.Day, []int{2}},
	} {
		if got := test.series.Gaps(test.step); !slices.Equal(got, test.want) {
			t.Errorf("Gaps(%v, %q) = %v, want %v", test.series.Points, test.step, got, test.want)
		}
	}
}

// The weeks in which clocks change, in Amsterdam: the hour from 2 to 3 on Sunday is
// missing in spring and there twice in autumn.
func TestFold(t *testing.T) {
	zone := amsterdam(t)
	for _, test := range []struct {
		monday time.Time
		hours  int // of Sunday from 2 to 3
		mean   float64
	}{
		{time.Date(2026, 3, 16, 0, 0, 0, 0, zone), 1, 2},
		{time.Date(2026, 3, 23, 0, 0, 0, 0, zone), 0, 0},
		{time.Date(2026, 10, 19, 0, 0, 0, 0, zone), 2, 2},
	} {
		var hours []air.HourMean
		end := test.monday.AddDate(0, 0, 7)
		for at := test.monday; at.Before(end); at = at.Add(time.Hour) {
			hours = append(hours, air.HourMean{Start: at.UTC(), Mean: float64(at.Hour())})
		}
		w := air.Fold(hours, zone)
		sum := 0
		for day := range w {
			for hour, c := range w[day] {
				sum += c.Hours
				sunday2 := day == 6 && hour == 2
				if !sunday2 && (c.Hours != 1 || c.Mean != float64(hour)) || sunday2 && (c.Hours != test.hours || c.Mean != test.mean) {
					t.Errorf("week of %s: day %d, hour %d is %+v", test.monday, day, hour, c)
				}
			}
		}
		if sum != len(hours) {
			t.Errorf("week of %s: %d hours of %d", test.monday, sum, len(hours))
		}
	}
}

func TestHoursAreFoldedAsTheyWere(t *testing.T) {
	f := airtest.Open(t)
	// Readings each 20 minutes over the change to summer time: as many of 500 as of
	// 700 in each hour would be 600; the third one decides.
	zone := amsterdam(t)
	start := time.Date(2026, 3, 28, 0, 0, 0, 0, zone)
	var all []reading
	for i := range 3 * 48 {
		at := start.Add(time.Duration(i) * 20 * time.Minute)
		all = append(all, measured("school", "d1", classA, at, float64(100*at.In(zone).Hour()+i%3)))
	}
	f.Read("co2", "ppm", all...)
	s := air.Selection{Metric: "co2", From: start, To: start.AddDate(0, 0, 2)}
	hours, err := of(t, f, "school").Hours(t.Context(), s)
	if err != nil || len(hours) != 47 { // Saturday and a Sunday of 23 hours
		t.Fatalf("%d hours, %v, want 47", len(hours), err)
	}
	w := air.Fold(hours, zone)
	for _, day := range []int{5, 6} {
		for hour, c := range w[day] {
			if want := float64(100*hour + 1); c.Hours > 0 && math.Abs(c.Mean-want) > 1e-9 {
				t.Errorf("day %d, hour %d: %v, want %v", day, hour, c.Mean, want)
			}
		}
	}
	if w[6][2].Hours != 0 || w[6][1].Hours != 1 || w[6][3].Hours != 1 {
		t.Errorf("Sunday from 1 to 4: %+v", w[6][1:4])
	}
}

func TestNow(t *testing.T) {
	f := airtest.Open(t)
	late := air.Room{Building: "North", Floor: "2", Name: "late"}
	never := air.Room{Building: "North", Floor: "2", Name: "never"}
	burst := air.Room{Building: "North", Floor: "2", Name: "burst"}
	f.Place("school", "d1", classA, noon.AddDate(0, -1, 0), time.Time{})
	f.Place("school", "d2", classA, noon.AddDate(0, -1, 0), time.Time{})
	f.Place("school", "d3", classB, noon.AddDate(0, -1, 0), time.Time{})
	f.Place("school", "d4", late, noon.AddDate(0, -1, 0), time.Time{})
	f.Place("school", "d5", never, noon.AddDate(0, -1, 0), time.Time{})
	f.Place("school", "d6", nowhere, noon.AddDate(0, -1, 0), time.Time{})
	f.Place("school", "d7", burst, noon.AddDate(0, -1, 0), time.Time{})
	for ms := range 3 {
		f.Read("co2", "ppm", measured("school", "d7", burst, noon.Add(time.Duration(ms-3)*time.Millisecond), float64(600+ms)))
	}
	for m := -60; m <= 0; m += 5 {
		at := noon.Add(time.Duration(m)*time.Minute - time.Second)
		f.Read("co2", "ppm",
			measured("school", "d1", classA, at, 1000+4*float64(m)), // 240 an hour
			measured("school", "d2", classA, at, 1100+4*float64(m)),
			measured("school", "d6", nowhere, at, 500))
		if m <= -40 {
			f.Read("co2", "ppm", measured("school", "d3", classB, at, 800))
		}
	}
	f.Read("co2", "ppm", measured("school", "d4", late, noon.Add(-50*time.Hour), 700))

	a := of(t, f, "school")
	p, err := a.Places(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Now(t.Context(), p, air.Where{}, "co2", noon)
	if err != nil {
		t.Fatal(err)
	}
	outside, slope, level := 420.0, 240.0, 0.0
	want := []air.Now{
		{Device: "d6", Devices: 1, Unit: "ppm", Persons: 24, At: noon.Add(-time.Second), Value: 500, Exact: true, Slope: &level, Outside: &outside},
		{Room: classA, Devices: 2, Unit: "ppm", Persons: 24, At: noon.Add(-time.Second), Value: 1050, Exact: true, Slope: &slope, Outside: &outside},
		{Room: classB, Devices: 1, Unit: "ppm", Persons: 24, At: noon.Add(-40*time.Minute - time.Second), Value: 800, Exact: true, Stale: true, Slope: &level, Outside: &outside},
		{Room: burst, Devices: 1, Unit: "ppm", Persons: 24, At: noon.Add(-time.Millisecond), Value: 602, Exact: true, Outside: &outside},
		{Room: late, Devices: 1, Unit: "ppm", Persons: 24, At: noon.Add(-49 * time.Hour), Stale: true},
		{Room: never, Devices: 1, Persons: 24, Stale: true},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-6)); diff != "" {
		t.Errorf("Now() (-want +got):\n%s", diff)
	}
	var words []string
	for i := range got {
		words = append(words, got[i].Trend())
	}
	if diff := cmp.Diff([]string{"steady", "rising", "", "", "", ""}, words); diff != "" {
		t.Errorf("trends (-want +got):\n%s", diff)
	}
}

// An action on a Monday, and the Mondays to Fridays around it: what each did is set
// here, and what follows computed by hand.
func TestEffect(t *testing.T) {
	zone := amsterdam(t)
	taken := time.Date(2026, 3, 23, 10, 0, 0, 0, zone) // in the week before the clocks change
	f := airtest.Open(t)
	f.Place("school", "d1", classA, taken.AddDate(-1, 0, 0), time.Time{})
	f.Place("office", "d9", classA, taken.AddDate(-1, 0, 0), time.Time{})
	// In the half hour before 10:00 the value stands still, and then rises or falls by
	// so much within each hour, on this many days from that of the action.
	rise := map[int]float64{0: -600, -3: 100, -4: 120, 1: 80, 2: 110, 7: 90, 8: 60, -5: 70, 5: 5000, 6: 5000} // 5 and 6: Saturday and Sunday
	day := func(n int) time.Time { return time.Date(2026, 3, 23+n, 10, 0, 0, 0, zone) }
	var all []reading
	for n, slope := range rise {
		for m := -30; m < 120; m += 5 {
			value := 800.0
			if m >= 0 {
				value += slope * float64(m) / 60
			}
			all = append(all, measured("school", "d1", classA, day(n).Add(time.Duration(m)*time.Minute), value),
				measured("office", "d9", classA, day(n).Add(time.Duration(m)*time.Minute), 9999))
		}
	}
	f.Read("co2", "ppm", all...)
	f.Act("a1", "school", "", classA, "window opened", taken)
	f.Act("a2", "school", "", classA, "door opened", day(-4).Add(90*time.Minute)) // too late for the first hour only
	f.Act("a3", "school", "", classA, "window shut", taken.Add(40*time.Minute))
	f.Act("a4", "office", "", classA, "office's own", day(1))

	a := of(t, f, "school")
	p, err := a.Places(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := air.Where{Room: &classA}
	actions, err := a.Actions(t.Context(), p, w, taken.AddDate(0, -2, 0), taken.AddDate(0, 2, 0))
	if err != nil || len(actions) != 3 {
		t.Fatalf("Actions() = %+v, %v", actions, err)
	}
	x := actions[slices.IndexFunc(actions, func(a air.Action) bool { return a.ID == "a1" })]
	now := taken.AddDate(0, 0, 60)
	e, err := a.Effect(t.Context(), w, "co2", x, actions, zone, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Others) != 1 || e.Others[0].ID != "a3" || e.Skipped != 1 || e.Readings != 30 || !e.Later {
		t.Errorf("others %+v, %d days left out, %d readings, want a3, 1 and 30", e.Others, e.Skipped, e.Readings)
	}
	// The mean of the readings at 0, 5, … min of a rise by s an hour is s times the
	// mean of their times; before, it is level. The slope is s.
	t975 := map[int]float64{6: 2.446912, 5: 2.570582} // tables of Student's t, by degrees of freedom
	for i, over := range []int{30, 60, 120} {
		var days []float64
		for n, s := range rise {
			if n != 0 && n != 5 && n != 6 && (over < 120 || n != -4) {
				days = append(days, s)
			}
		}
		scale := float64(over-5) / 2 / 60
		mean, sd := meanAndDeviation(days)
		half := t975[len(days)-1] * sd * math.Sqrt(1+1/float64(len(days)))
		want := air.Change{Over: time.Duration(over) * time.Minute,
			Mean: air.Estimate{Known: true, Before: 800, After: 800 - 600*scale, Value: -600 * scale, Days: len(days), Usual: mean * scale, Interval: true,
				Effect: (-600 - mean) * scale, Low: (-600 - mean - half) * scale, High: (-600 - mean + half) * scale},
			Slope: air.Estimate{Known: true, After: -600, Value: -600, Days: len(days), Usual: mean, Interval: true, Effect: -600 - mean, Low: -600 - mean - half, High: -600 - mean + half}}
		if diff := cmp.Diff(want, e.Changes[i], cmpopts.EquateApprox(1e-4, 1e-6)); diff != "" {
			t.Errorf("after %d min (-want +got):\n%s", over, diff)
		}
	}

	// Until Tuesday evening there are four such days: too few for an interval, and
	// until half an hour after the action nothing is known of an hour.
	e, err = a.Effect(t.Context(), w, "co2", x, actions, zone, day(1).Add(8*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Changes[0].Mean; !got.Known || got.Days != 4 || got.Interval || got.Effect != 0 {
		t.Errorf("of four days: %+v", got)
	}
	e, err = a.Effect(t.Context(), w, "co2", x, actions, zone, taken.Add(45*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if !e.Changes[0].Mean.Known || e.Changes[1].Mean.Known {
		t.Errorf("45 min after the action: %+v", e.Changes)
	}
	// Without readings around it nothing is said of it.
	x.At = taken.Add(5 * time.Hour)
	e, err = a.Effect(t.Context(), w, "co2", x, actions, zone, now)
	if err != nil || e.Readings != 0 || slices.ContainsFunc(e.Changes, func(c air.Change) bool { return c.Mean.Known || c.Slope.Known || c.Mean.Days > 0 }) {
		t.Errorf("without readings: %+v, %v", e, err)
	}
}

// Days before an action are enough where there are so many; a device that sends
// each 15 minutes has a mean and a slope in the half hour before it.
func TestEffectOfSlowDevice(t *testing.T) {
	taken := time.Date(2026, 3, 23, 10, 0, 0, 0, time.UTC)
	changes := map[int]float64{0: -300, -3: 10, -4: 20, -5: 30, -6: 40, -7: 50, 1: 9000, 2: 9000, 3: 9000}
	x := air.Action{ID: "a1", At: taken, Text: "window opened", Room: classA}
	effect := func(minutes ...int) *air.Effect {
		t.Helper()
		f := airtest.Open(t)
		f.Place("school", "d1", classA, taken.AddDate(-1, 0, 0), time.Time{})
		var all []reading
		for n, change := range changes {
			for i, m := range minutes {
				value := 900 + 20*float64(2*(i%2)-1) // it rises by 40 from the first to the second
				if m >= 0 {
					value = 900 + change
				}
				if m >= 0 && n == 0 {
					value += 25 * float64(1-2*(i%2))
				}
				all = append(all, measured("school", "d1", classA, taken.AddDate(0, 0, n).Add(time.Duration(m)*time.Minute), value))
			}
		}
		f.Read("co2", "ppm", all...)
		e, err := of(t, f, "school").Effect(t.Context(), air.Where{Room: &classA}, "co2", x, []air.Action{x}, time.UTC, taken.AddDate(0, 1, 0))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}

	e := effect(-30, -15, 0, 15, 30, 45, 60, 75, 90, 105)
	for _, c := range e.Changes {
		if m := c.Mean; !m.Known || m.Before != 900 || m.After != 600 || m.Days != 5 || !m.Interval || math.Abs(m.Usual-30) > 1e-9 || e.Later {
			t.Errorf("mean over %s: %+v, later days %t", c.Over, m, e.Later)
		}
	}
	// Two readings before, and two after: by 40 up and by 50 down in a quarter of an hour.
	want := air.Estimate{Known: true, Before: 160, After: -200, Value: -360, Days: 5, Usual: -160, Interval: true, Effect: -200, Low: -200, High: -200}
	if diff := cmp.Diff(want, e.Changes[0].Slope, cmpopts.EquateApprox(0, 1e-9)); diff != "" {
		t.Errorf("slope of two readings (-want +got):\n%s", diff)
	}

	// What two readings a minute apart differ by is noise.
	e = effect(-2, -1, 1, 2)
	if c := e.Changes[0]; !c.Mean.Known || c.Slope.Known || c.Slope.Days != 0 {
		t.Errorf("of two readings a minute apart: %+v", c)
	}
}

func meanAndDeviation(of []float64) (mean, deviation float64) {
	for _, v := range of {
		mean += v / float64(len(of))
	}
	for _, v := range of {
		deviation += (v - mean) * (v - mean) / float64(len(of)-1)
	}
	return mean, math.Sqrt(deviation)
}

// What is gone from a selection is told from what came to it.
func TestHeld(t *testing.T) {
	f := airtest.Open(t)
	now := time.Now()
	old, recent := now.AddDate(0, 0, -5), now.Add(-time.Hour)
	for i := range 10 {
		f.Read("co2", "ppm", measured("school", "d1", classA, old.Add(time.Duration(i)*time.Minute), 500), measured("school", "d1", classA, recent.Add(time.Duration(i)*time.Minute), 500))
	}
	a := of(t, f, "school")
	s := air.Selection{Where: air.Where{Room: &classA}, Metric: "co2", From: now.AddDate(0, 0, -7)}
	before, err := a.Held(t.Context(), s, now.Add(time.Minute))
	if err != nil || before.Older != 10 || before.Recent != 10 {
		t.Fatalf("Held() = %+v, %v", before, err)
	}
	still := func() air.Held {
		t.Helper()
		h, err := a.HeldStill(t.Context(), s, before)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	f.Read("co2", "ppm", measured("school", "d1", classA, recent.Add(30*time.Minute), 500))
	if still().Lost(before) {
		t.Error("something is lost when a reading came")
	}
	before = still()
	for _, at := range []time.Time{old, recent} {
		// The next tenant's, as of a placement that was corrected.
		f.Add("iot_analytics.readings", warehousetest.Row{
			"reading_id": warehouse.String(mesh.ReadingID("d1", "co2", mesh.At(at))), "tenant_id": warehouse.String("office"),
			"device_id": warehouse.String("d1"), "metric": warehouse.String("co2"), "value": warehouse.Float(500), "unit": warehouse.String("ppm"),
			"observed_at": warehouse.Instant(mesh.At(at)), "received_at": warehouse.Instant(mesh.At(at)), "revision": warehouse.Int(0), "assignment_version": warehouse.Int(2),
			"event_source": warehouse.String("/test"), "event_id": warehouse.String("later"), "join_version": warehouse.Int(2), "deleted": warehouse.Bool(false),
		})
		if !still().Lost(before) {
			t.Errorf("nothing is lost though the reading of %s is: %+v, %+v", at, before, still())
		}
		before = still()
	}
}

func TestMovesAndActionsOfADevice(t *testing.T) {
	f := airtest.Open(t)
	f.Place("school", "d1", classA, noon, noon.Add(time.Hour))
	f.Place("school", "d1", classB, noon.Add(time.Hour), noon.Add(2*time.Hour))
	f.Place("school", "d1", classB, noon.Add(2*time.Hour), noon.Add(3*time.Hour)) // the same room: it did not move
	f.Act("a1", "", "", classA, "in A while it was there", noon.Add(30*time.Minute))
	f.Act("a2", "", "", classB, "in B later", noon.Add(90*time.Minute))
	f.Act("a3", "", "d1", nowhere, "at it", noon.Add(100*time.Minute))
	a := of(t, f, "school")
	p, err := a.Places(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range p.Moves(air.Where{Room: &classB}, noon.AddDate(0, 0, -1), noon.AddDate(0, 0, 1)) {
		got = append(got, fmt.Sprint(m.Device, " ", m.Room.Name, " ", m.Came, " ", m.Other, " ", m.At.Sub(noon)))
	}
	if diff := cmp.Diff([]string{"d1 o'neill/2 true &{North 1 1.01} 1h0m0s", "d1 o'neill/2 false <nil> 3h0m0s"}, got); diff != "" {
		t.Errorf("Moves() (-want +got):\n%s", diff)
	}
	for _, test := range []struct {
		w    air.Where
		want []string
	}{
		{air.Where{}, []string{"a1", "a2", "a3"}},
		{air.Where{Device: "d1"}, []string{"a1", "a2", "a3"}},
		{air.Where{Device: "d1", Room: &classB}, []string{"a2", "a3"}},
		{air.Where{Room: &classA}, []string{"a1"}},
		{air.Where{Device: "d2"}, nil},
	} {
		actions, err := a.Actions(t.Context(), p, test.w, noon, noon.AddDate(0, 0, 1))
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, x := range actions {
			ids = append(ids, x.ID)
		}
		if !slices.Equal(ids, test.want) {
			t.Errorf("Actions(%+v) = %v, want %v", test.w, ids, test.want)
		}
	}
}

func TestRoomKey(t *testing.T) {
	for _, r := range []air.Room{{}, classA, classB, {Building: "a/b%2Fc", Floor: "é ", Name: "#?&"}} {
		if got, err := air.ParseRoom(r.Key()); err != nil || got != r {
			t.Errorf("ParseRoom(%q) = %+v, %v, want %+v", r.Key(), got, err, r)
		}
	}
	for _, key := range []string{"", "a", "a/b", "a/b/c/d", "%/b/c"} {
		if got, err := air.ParseRoom(key); err == nil {
			t.Errorf("ParseRoom(%q) = %+v", key, got)
		}
	}
}
