package portal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/air"
)

// Bounds of a page.
const (
	maxTiles = 120 // rooms that one page shows; the others are a building away
	maxTable = 400 // lines of the table of a series
)

// airView is what templates/air.html shows.
type airView struct {
	State   airState
	Tenants []air.Tenant
	Form    airForm
	Title   string
	Place   string // of the title; empty: all that the tenant has
	Metric  string
	Unit    string
	Zone    string
	Range   string
	Step    string // of the chart, in words

	Keep     []airLink // parameters that a change of the tenant leaves
	None     string    // why there is nothing to see; empty: there is
	Wrong    string    // what cannot be read of the address
	Team     bool
	Last     *airLink // the range that has the last readings, if this one has none
	Detail   bool     // of one room or device; else an overview of rooms
	Tiles    []airTile
	More     int  // rooms that are not shown
	Roomless bool // some tiles are devices of which no room is known

	Numbers []airNumbers
	Actions []airAction
	Moves   []string
	Heat    *airHeat
	Effect  *airEffect
	Series  string // addresses of what scripts fetch
	Rooms   string
	Now     string
	Stream  string
	CSV     string
	Parquet string
	// Addresses of the page with the bands of others.
	Bands900, Bands950, Bands1000 string
}

type airLink struct{ Name, To string }

// airForm is the choice.
type airForm struct {
	Buildings []string
	Rooms     []airRooms
	Devices   []string
	Metrics   []airLink // name and metric
	Presets   []airPreset
	From, To  string // of a range that was given
	Steps     []airLink
	Step      string
}

type airRooms struct {
	Building string
	Rooms    []airRoom
}

type airRoom struct {
	Key, Name string
	Chosen    bool
}

type airPreset struct {
	Words, To string
	Chosen    bool
}

// airTile is a room now.
type airTile struct {
	Key, Name, To string
	Place         string // the building and the floor
	Value, Unit   string
	Band, Word    string // class and name of the band that the value is in
	Trend, Slope  string
	At            time.Time
	Says          string // how old it is, or why there is none
	Stale         bool
	Spark         bool // there is room for a small chart
	Persons       int64
	Devices       int
}

type airAction struct {
	At, Text, Where, To string
	Chosen              bool
}

// airNumbers is the table of a series.
type airNumbers struct {
	Name string
	Step string
	Rows []airNumber
}

type airNumber struct {
	At, Mean, Min, Max string
	Readings           int64
}

func (p *Portal) airPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	err := p.airShown(w, r, v)
	var wrong badRequest
	if !errors.As(err, &wrong) {
		return err
	}
	return p.airWrong(w, r, v, wrong)
}

// airWrong shows the form as it was filled in, and what is wrong about it.
func (p *Portal) airWrong(w http.ResponseWriter, r *http.Request, v access.Viewer, wrong badRequest) error {
	asked := r.URL.Query()
	// What is right among what was chosen is chosen still.
	for _, kept := range [][]string{{"tenant", "building", "room", "device", "metric"}, {"tenant", "metric"}, {"tenant"}} {
		q := url.Values{}
		for _, name := range kept {
			q.Set(name, asked.Get(name))
		}
		again := r.Clone(r.Context())
		again.URL.RawQuery = q.Encode()
		s, tenants, a, places, err := p.air(again, v)
		var bad badRequest
		if err == nil && a == nil {
			return wrong
		}
		var metrics []air.Metric
		if err == nil {
			if metrics, err = a.Metrics(r.Context(), s.where(), time.Unix(0, 0), s.now); err == nil && s.metric != co2 && !slices.ContainsFunc(metrics, func(m air.Metric) bool { return m.Name == s.metric }) {
				err = badRequest(s.metric)
			}
		}
		if errors.As(err, &bad) {
			continue
		}
		if err != nil {
			return err
		}
		view := viewOf(s, tenants, v)
		view.None, view.Wrong = "wrong", wrong.Error()
		view.form(&s, places, metrics)
		view.head()
		view.Range, view.Stream = "", ""
		if zone, err := time.LoadLocation(asked.Get("tz")); err == nil && zone != time.Local {
			s.zone = zone
		}
		view.Form.From, view.Form.To, view.Zone = s.field(asked.Get("from")), s.field(asked.Get("to")), cmp.Or(asked.Get("tz"), view.Zone)
		for _, name := range []string{"low", "high"} {
			view.State.asked.Set(name, asked.Get(name))
		}
		return p.page(w, r, v, http.StatusBadRequest, "air", view.Title, view)
	}
	return wrong
}

func viewOf(s airState, tenants []air.Tenant, v access.Viewer) *airView {
	return &airView{State: s, Tenants: tenants, Team: v.Team(), Metric: metricName(s.metric), Zone: s.zone.String()}
}

func (p *Portal) airShown(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	s, tenants, a, places, err := p.air(r, v)
	if err != nil {
		return err
	}
	view := viewOf(s, tenants, v)
	switch {
	case a == nil:
		view.None = "no tenant"
	case len(places.Stays) == 0:
		view.None = "no placement"
	default:
		if err := view.read(r.Context(), &s, a, places); err != nil {
			return err
		}
	}
	view.State = s
	view.head()
	return p.page(w, r, v, http.StatusOK, "air", view.Title, view)
}

// read asks for what the page shows, all at once: where the warehouse is a service
// an answer takes as long as its slowest query.
func (v *airView) read(ctx context.Context, s *airState, a *air.Air, places *air.Places) error {
	if s.where() == (air.Where{}) {
		s.room = places.Single() // a tenant of one room sees it at once
	}
	where := s.where()
	v.Detail = s.room != nil || s.device != ""

	var (
		metrics []air.Metric
		now     []air.Now
		actions []air.Action // of the weeks around, by which an effect is judged
		series  []air.Series
		hours   []air.HourMean
		step    air.Step
	)
	g, in := errgroup.WithContext(ctx)
	g.Go(func() (err error) { metrics, err = a.Metrics(in, where, s.from, s.to); return err })
	g.Go(func() (err error) { now, err = a.Now(in, places, where, s.metric, s.now); return err })
	g.Go(func() (err error) {
		around := time.Duration(air.Weeks*7+1) * 24 * time.Hour
		actions, err = a.Actions(in, places, where, s.from.Add(-around), s.to.Add(around))
		return err
	})
	g.Go(func() (err error) { hours, err = a.Hours(in, s.weeks()); return err })
	if v.Detail {
		g.Go(func() (err error) {
			if step, err = a.Resolve(in, s.selection(), air.Auto, air.ByDevice, maxTable); err == nil {
				series, err = a.Series(in, s.selection(), step, air.ByDevice, s.zone)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}

	now = append(now, gone(s, places, now)...)
	v.form(s, places, metrics)
	some := slices.ContainsFunc(hours, func(h air.HourMean) bool { return h.Start.Add(time.Hour).After(s.from) })
	if v.Heat = heatOf(air.Fold(hours, s.zone), s); v.Heat != nil && s.weeks().From.Before(s.from) {
		v.Heat.Weeks = heatWeeks
	}
	for _, n := range now {
		v.Unit = max(v.Unit, n.Unit)
	}
	for _, m := range metrics {
		if m.Name == s.metric {
			v.Unit = m.Unit
		}
	}
	v.Unit = unitSign(v.Unit)
	for i := range now {
		if i == maxTiles {
			v.More = len(now) - i
			break
		}
		t := tileOf(s, &now[i])
		t.Spark = !v.Detail && some
		if v.Detail {
			t.To = ""
		}
		v.Tiles = append(v.Tiles, t)
		v.Roomless = v.Roomless || now[i].Device != ""
	}
	for _, each := range series {
		v.Numbers = append(v.Numbers, numbersOf(s, &each, step))
	}
	v.moves(s, places)
	if !some {
		return v.nothing(ctx, s, a)
	}
	return v.acted(ctx, s, a, places, actions)
}

// gone gives the rooms that have no device now and had one in the range.
func gone(s *airState, places *air.Places, now []air.Now) (rooms []air.Now) {
	for _, stay := range places.Stays {
		n := air.Now{Room: stay.Room, Stale: true, Left: stay.To}
		if stay.Room.Name == "" {
			n.Device = stay.Device
		}
		is := func(o air.Now) bool { return o.Room == n.Room && o.Device == n.Device }
		if !s.where().Has(stay.Room, stay.Device) || !stay.From.Before(s.to) || !stay.To.After(s.from) || slices.ContainsFunc(now, is) {
			continue
		}
		if i := slices.IndexFunc(rooms, is); i < 0 {
			rooms = append(rooms, n)
		} else if rooms[i].Left.Before(n.Left) {
			rooms[i].Left = n.Left
		}
	}
	return rooms
}

// head says what the page is about.
func (v *airView) head() {
	s := &v.State
	v.Title = "Air"
	switch {
	case s.device != "" && s.room != nil:
		v.Place = s.device + " in " + roomName(*s.room)
	case s.device != "":
		v.Place = s.device
	case s.room != nil:
		v.Place = roomName(*s.room)
	case s.building != "":
		v.Place = s.building
	}
	for _, t := range v.Tenants {
		if t.ID == s.tenant && v.Place == "" {
			v.Place = t.Name
		}
	}
	if v.Place != "" {
		v.Title = v.Place
	}
	v.Range = s.local(s.from) + " – " + s.local(s.to)
	tenant := []string{"tenant", s.tenant}
	if s.room != nil {
		tenant = append(tenant, "room", s.room.Key())
	}
	v.Series, v.Rooms, v.Now = s.link("/api/air/series", tenant...), s.link("/api/air/rooms", tenant...), s.link("/api/air/now", tenant...)
	if s.preset != "" {
		v.Stream = s.link("/api/air/stream", tenant...)
	}
	bands := func(low, high string) string { return s.link("/air", "low", low, "high", high) + "#bands" }
	v.Bands900, v.Bands950, v.Bands1000 = bands("", ""), bands("950", "1200"), bands("1000", "2000")
	for _, name := range []string{"range", "from", "to", "metric", "tz", "low", "high", "step"} {
		if value := s.asked.Get(name); value != "" {
			v.Keep = append(v.Keep, airLink{name, value})
		}
	}
	v.CSV, v.Parquet = s.link("/api/air/readings.csv", tenant...), s.link("/api/air/readings.parquet", tenant...)
}

// roomName says where a room is, from wide to narrow.
func roomName(r air.Room) string {
	var parts []string
	for _, part := range []string{r.Building, r.Floor, r.Name} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, " · ")
}

func floorName(floor string) string {
	if floor == "" {
		return ""
	}
	return "floor " + floor
}

func placeName(r air.Room, device string) string {
	name := roomName(r)
	switch {
	case name == "":
		return device
	case r.Name == "" && device != "":
		return name + " · " + device
	}
	return name
}

// field is the layout of a field for date and time.
const field = "2006-01-02T15:04"

// field is an instant as such a field takes it, which shows no other; what is none is
// left as it came.
func (s *airState) field(value string) string {
	if t, err := readTime("", value, s.zone); err == nil {
		return t.In(s.zone).Format(field)
	}
	return value
}

func (v *airView) form(s *airState, places *air.Places, metrics []air.Metric) {
	f := &v.Form
	f.Buildings = places.Buildings()
	for _, r := range places.Rooms() {
		if s.building != "" && s.building != r.Building {
			continue
		}
		if len(f.Rooms) == 0 || f.Rooms[len(f.Rooms)-1].Building != r.Building {
			f.Rooms = append(f.Rooms, airRooms{Building: r.Building})
		}
		name := r.Name
		if r.Floor != "" {
			name = floorName(r.Floor) + " · " + r.Name
		}
		last := &f.Rooms[len(f.Rooms)-1]
		last.Rooms = append(last.Rooms, airRoom{r.Key(), name, s.room != nil && *s.room == r})
	}
	f.Devices = places.Devices(air.Where{Building: s.building, Room: s.room})
	seen := false
	for _, m := range metrics {
		f.Metrics = append(f.Metrics, airLink{metricName(m.Name), m.Name})
		seen = seen || m.Name == s.metric
	}
	if !seen {
		f.Metrics = append(f.Metrics, airLink{metricName(s.metric), s.metric})
	}
	slices.SortFunc(f.Metrics, func(a, b airLink) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range presets {
		f.Presets = append(f.Presets, airPreset{p.Words, s.link("/air", "range", p.Name, "from", "", "to", "", "step", ""), s.preset == p.Name})
	}
	if s.preset == "" {
		f.From, f.To = s.from.In(s.zone).Format(field), s.to.In(s.zone).Format(field)
	}
	for step := air.Auto; step <= air.Day; step++ {
		f.Steps = append(f.Steps, airLink{cmp.Or(step.Words(), "as the range asks for"), step.String()})
	}
	f.Step = s.step.String()
}

// nothing tells a range without readings from a metric that nobody measured.
func (v *airView) nothing(ctx context.Context, s *airState, a *air.Air) error {
	last, err := a.Last(ctx, s.where(), s.metric)
	switch {
	case err != nil:
		return err
	case !last.IsZero():
		v.None = "range"
		from := last.AddDate(0, 0, -7)
		v.Last = &airLink{s.local(last.Add(-time.Hour)), s.link("/air", "range", "", "from", from.Format(time.RFC3339), "to", last.Format(time.RFC3339))}
		return nil
	case s.metric == co2:
		v.None = "no reading"
		return nil
	}
	return unmeasured(ctx, s, a)
}

// unmeasured says which metrics there are instead of one that nobody measured.
func unmeasured(ctx context.Context, s *airState, a *air.Air) error {
	known, err := a.Metrics(ctx, s.where(), time.Unix(0, 0), s.now.AddDate(1, 0, 0))
	if err != nil {
		return err
	}
	var names []string
	for _, m := range known {
		names = append(names, m.Name)
	}
	return badRequest(fmt.Sprintf("nothing there measures %q: give one of these metrics: %s", s.metric, strings.Join(names, ", ")))
}

func tileOf(s *airState, n *air.Now) airTile {
	t := airTile{Key: n.Room.Key() + "/" + n.Device, Name: placeName(n.Room, n.Device), Unit: unitSign(n.Unit), At: n.At, Stale: n.Stale, Persons: n.Persons, Devices: n.Devices}
	if n.Room.Name != "" {
		t.Name, t.Place = n.Room.Name, roomName(air.Room{Building: n.Room.Building, Floor: floorName(n.Room.Floor)})
		t.To = s.link("/air", "building", "", "room", n.Room.Key(), "device", "", "action", "")
	} else {
		t.To = s.link("/air", "building", "", "room", "", "device", n.Device, "action", "")
	}
	switch {
	case !n.Left.IsZero():
		t.Says = "no device here since " + s.local(n.Left)
	case n.At.IsZero():
		t.Says = "no reading within a month"
	case n.Stale:
		t.Says = "silent: the last reading is of " + age(n.At, s.now)
	default:
		t.Says = age(n.At, s.now)
	}
	if !n.Exact {
		return t
	}
	t.Value, t.Trend = quantity(n.Value), n.Trend()
	if t.Trend != "" && t.Trend != "steady" {
		t.Trend += " " + signed(*n.Slope) + " " + t.Unit + " an hour"
	}
	if s.bands && !n.Stale {
		t.Band, t.Word = s.band(n.Value)
	}
	return t
}

// band names the band of a value, and the class it is drawn in.
func (s *airState) band(v float64) (class, word string) {
	switch {
	case v < s.low:
		return "good", "below " + quantity(s.low)
	case v < s.high:
		return "fair", quantity(s.low) + " or more"
	}
	return "poor", quantity(s.high) + " or more"
}

func numbersOf(s *airState, each *air.Series, step air.Step) airNumbers {
	n := airNumbers{Name: each.Device, Step: step.Words()}
	if s.room == nil {
		n.Name = placeName(each.Room, each.Device)
	}
	day := s.day()
	layout := day + " " + s.clock()
	if step == air.Day {
		layout = "Mon 2 Jan 2006"
	} else if step == air.Raw {
		layout = day + " " + strings.Replace(s.clock(), "15:04", "15:04:05", 1)
	}
	for _, point := range each.Points {
		n.Rows = append(n.Rows, airNumber{point.At.In(s.zone).Format(layout), quantity(point.Mean), quantity(point.Min), quantity(point.Max), point.Readings})
	}
	return n
}

// moves says which devices came and went.
func (v *airView) moves(s *airState, places *air.Places) {
	if !v.Detail {
		return
	}
	for _, m := range places.Moves(s.where(), s.from, s.to) {
		v.Moves = append(v.Moves, s.local(m.At)+": "+moveWords(m))
	}
}

func moveWords(m air.Move) string {
	switch {
	case m.Came && m.Other != nil:
		return m.Device + " came from " + roomName(*m.Other)
	case m.Came:
		return m.Device + " came"
	case m.Other != nil:
		return m.Device + " went to " + roomName(*m.Other)
	}
	return m.Device + " left"
}

// acted lists the actions of the range, and judges the one that is asked for, or
// the last of those that are long enough ago.
func (v *airView) acted(ctx context.Context, s *airState, a *air.Air, places *air.Places, around []air.Action) error {
	var chosen *air.Action
	for i := range around {
		x := &around[i]
		if x.At.Before(s.from) || !x.At.Before(s.to) {
			continue
		}
		v.Actions = append(v.Actions, airAction{
			At: x.At.In(s.zone).Format(s.day() + " 15:04"), Text: x.Text, Where: placeName(x.Room, x.Device),
			To: s.link("/air", "room", x.Room.Key(), "building", "", "device", "", "action", x.ID) + "#effect",
		})
		if s.action == x.ID || s.action == "" && v.Detail && s.now.Sub(x.At) > air.Horizons[0] {
			chosen = x
		}
		v.Actions[len(v.Actions)-1].Chosen = s.action == x.ID
	}
	slices.Reverse(v.Actions) // the newest first
	if s.action != "" && chosen == nil {
		return badRequest("there is no such action in this range: choose one of the list")
	}
	if chosen == nil || !v.Detail {
		return nil
	}
	// The device may have stood in other rooms, and what was done in this one for
	// itself is of this one alone.
	in := air.Where{Room: &chosen.Room, Device: s.device}
	if s.device != "" {
		weeks := time.Duration(air.Weeks*7+1) * 24 * time.Hour
		of := air.Where{Room: &chosen.Room}
		if chosen.Room.Name == "" {
			of.Device = s.device
		}
		var err error
		if around, err = a.Actions(ctx, places, of, chosen.At.Add(-weeks), chosen.At.Add(weeks)); err != nil {
			return err
		}
	}
	e, err := a.Effect(ctx, in, s.metric, *chosen, around, s.zone, s.now)
	if err != nil {
		return err
	}
	v.Effect = effectOf(s, e, v.Unit)
	return nil
}

// airEffect is what followed an action.
type airEffect struct {
	At, Text, Where string
	Others          []string
	Skipped         int
	Later           bool // some of the days are after the action
	Weekend         bool
	Rows            []airChange
	Scale           []string // of the drawings: the change at their left end, their right end
	Unit            string
}

// airChange is a line of the table: of the mean, then of the slope.
type airChange struct {
	Over, What      string
	Was, Is         string // before and after, on that day
	Value, Usual    string
	Days            int
	Effect          string
	Low, High       string
	Why             string // why there is no interval
	Says            string // what the interval says
	Draw            bool
	X, X1, X2, Zero float64 // of the drawing, of 0 to 200
}

func effectOf(s *airState, e *air.Effect, unit string) *airEffect {
	out := &airEffect{At: s.local(e.Action.At), Text: e.Action.Text, Where: placeName(e.Action.Room, e.Action.Device), Skipped: e.Skipped, Later: e.Later, Unit: unit}
	day := e.Action.At.In(s.zone).Weekday()
	out.Weekend = day == time.Saturday || day == time.Sunday
	for _, o := range e.Others {
		out.Others = append(out.Others, o.Text+" at "+o.At.In(s.zone).Format("15:04"))
	}
	for _, what := range []struct {
		name, unit string
		least      string // that a device has to measure before and after
		of         func(*air.Change) *air.Estimate
	}{
		{"mean", unit, "two readings of a device", func(c *air.Change) *air.Estimate { return &c.Mean }},
		{"slope", unit + "/h", "two readings of a device, ten minutes apart,", func(c *air.Change) *air.Estimate { return &c.Slope }},
	} {
		reach := 0.0
		for i := range e.Changes {
			if x := what.of(&e.Changes[i]); x.Interval {
				reach = max(reach, math.Abs(x.Low), math.Abs(x.High))
			}
		}
		for i := range e.Changes {
			x := what.of(&e.Changes[i])
			c := airChange{Over: fmt.Sprintf("%d min", int(e.Changes[i].Over.Minutes())), What: what.name, Days: x.Days}
			switch {
			case !x.Known && s.now.Sub(e.Action.At) < e.Changes[i].Over:
				c.Why = "this time is not over yet"
			case !x.Known:
				c.Why = "fewer than " + what.least + " before or after it"
			default:
				c.Was, c.Is = quantity(x.Before), quantity(x.After)+" "+what.unit
				if what.name == "slope" {
					c.Was, c.Is = signed(x.Before), signed(x.After)+" "+what.unit
				}
				c.Value = signed(x.Value) + " " + what.unit
				if x.Days > 0 {
					c.Usual = signed(x.Usual) + " " + what.unit
				}
			}
			if x.Known && !x.Interval {
				c.Why = fmt.Sprintf("%d comparable days are too few: an interval takes %d", x.Days, air.MinDays)
			}
			if x.Interval {
				c.Effect, c.Low, c.High = signed(x.Effect)+" "+what.unit, signed(x.Low), signed(x.High)
				switch {
				case x.High < 0:
					c.Says = "lower than on comparable days"
				case x.Low > 0:
					c.Says = "higher than on comparable days"
				default:
					c.Says = "may be chance"
				}
				if reach > 0 {
					scale := func(v float64) float64 { return math.Round((100+v/reach*92)*10) / 10 }
					c.Draw, c.X, c.X1, c.X2, c.Zero = true, scale(x.Effect), scale(x.Low), scale(x.High), 100
				}
			}
			out.Rows = append(out.Rows, c)
		}
	}
	return out
}

// airHeat is the table of hours and weekdays.
type airHeat struct {
	Weeks  int // that it is of, if not of the range
	Days   []airHeatDay
	Legend []airHeatStep
	Hours  []int
}

type airHeatDay struct {
	Name  string
	Cells []airHeatCell
}

type airHeatCell struct {
	Class, Value, Title string
}

type airHeatStep struct{ Class, Words string }

var weekdays = [...]string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}

// heatWeeks are what a week is the mean of at least: of a day it would say nothing.
const heatWeeks = 4

func (s *airState) weeks() air.Selection {
	of := s.selection()
	if from := s.to.AddDate(0, 0, -7*heatWeeks); from.Before(of.From) {
		of.From = from
	}
	return of
}

// heatSteps is how many colours a heat map has.
const heatSteps = 7

// heatOf draws a week. Where there are bands their edges are edges of colours, so
// that rooms are compared by the same ones; else colours share out what was measured.
func heatOf(w air.Week, s *airState) *airHeat {
	least, most := math.Inf(1), math.Inf(-1)
	for _, day := range w {
		for _, c := range day {
			if c.Hours > 0 {
				least, most = min(least, c.Mean), max(most, c.Mean)
			}
		}
	}
	if math.IsInf(least, 1) {
		return nil
	}
	var edges [heatSteps - 1]float64
	if s.bands {
		below := (s.high - s.low) / 2
		for i := range edges {
			edges[i] = s.low + float64(i-3)*below
		}
		if s.metric == co2 && s.low > 420 {
			for i := range 3 {
				edges[i] = 420 + (s.low-420)*float64(i+1)/4 // air outside has about 420 ppm
			}
		}
	} else {
		if most == least {
			most++ // or all steps were of one value
		}
		for i := range edges {
			edges[i] = least + (most-least)*float64(i+1)/heatSteps
		}
	}
	class := func(v float64) int {
		n := 0
		for n < len(edges) && v >= edges[n] {
			n++
		}
		return n
	}
	h := &airHeat{}
	for i := range heatSteps {
		words := "below " + quantity(edges[0])
		if i > 0 {
			words = "from " + quantity(edges[i-1])
		}
		h.Legend = append(h.Legend, airHeatStep{fmt.Sprintf("heat-%d", i), words})
	}
	for hour := range 24 {
		h.Hours = append(h.Hours, hour)
	}
	for day, name := range weekdays {
		row := airHeatDay{Name: name}
		for hour, c := range w[day] {
			cell := airHeatCell{Class: "heat-none", Title: fmt.Sprintf("%s %02d–%02d: no reading", name, hour, (hour+1)%24)}
			if c.Hours > 0 {
				cell = airHeatCell{fmt.Sprintf("heat-%d", class(c.Mean)), quantity(c.Mean), fmt.Sprintf("%s %02d–%02d: mean of %d hours", name, hour, (hour+1)%24, c.Hours)}
			}
			row.Cells = append(row.Cells, cell)
		}
		h.Days = append(h.Days, row)
	}
	return h
}
