package portal

import (
	"errors"
	"math"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/air"
)

// airQuery is what the routes of the area are asked with, as its page is.
var airQuery = []parameter{
	{Name: "tenant", Description: "default: the first that the user sees"},
	{Name: "building", Description: "default: all"},
	{Name: "room", Description: "key of a room, as the page of the room has it; default: all"},
	{Name: "device", Description: "default: all"},
	{Name: "metric", Description: "default: co2"},
	{Name: "range", Description: "a time that ends now; default: 24h", Enum: []string{"24h", "7d", "30d", "1y"}},
	{Name: "from", Description: "instead of range, as 2026-03-02T08:00 or 2026-03-02T08:00:00Z"},
	{Name: "to", Description: "default: now"},
	{Name: "tz", Description: "name of a time zone, as Europe/Amsterdam; default: UTC"},
	{Name: "step", Description: "of one point; default: what the time asks for", Enum: []string{"raw", "5m", "15m", "1h", "1d"}},
	{Name: "low", Description: "threshold, with high; default, of CO2: 900"},
	{Name: "high", Description: "threshold, with low; default, of CO2: 1200"},
}

var (
	airErrors     = []int{http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound}
	boundedErrors = append(slices.Clone(airErrors), http.StatusTooManyRequests)
)

var airAPI = api{
	"GET /api/air/series":           {Summary: "A metric over time, a line for each device in each room, and what happened there", Query: airQuery, Answer: airAnswer{}, Errors: airErrors},
	"GET /api/air/rooms":            {Summary: "A metric over time, a line for each room", Query: airQuery, Answer: airAnswer{}, Errors: airErrors},
	"GET /api/air/now":              {Summary: "How it is now, room by room", Query: airQuery, Answer: map[string]any{}, Errors: airErrors},
	"GET /api/air/stream":           {Summary: "Says when there is something new", Query: append(slices.Clone(airQuery), parameter{Name: "after", Description: "id of the last event that is known, as the header Last-Event-ID"}), Media: "text/event-stream", Errors: boundedErrors},
	"GET /api/air/readings.csv":     {Summary: "The readings that are shown, as CSV", Query: airQuery, Media: "text/csv", Errors: boundedErrors},
	"GET /api/air/readings.parquet": {Summary: "The readings that are shown, as Parquet", Query: airQuery, Media: "application/vnd.apache.parquet", Errors: boundedErrors},
}

// airAnswer is what a chart is drawn from. Times are milliseconds since 1970, as
// scripts have them.
type airAnswer struct {
	Metric  string      `json:"metric"`
	Name    string      `json:"name"` // of the metric, to people
	Unit    string      `json:"unit"` // sign of it
	Step    string      `json:"step"` // raw, 5m, 15m, 1h, 1d
	Words   string      `json:"words"`
	From    int64       `json:"from"`
	To      int64       `json:"to"`
	Zone    string      `json:"zone"`
	Bands   []float64   `json:"bands,omitempty"` // the low and the high threshold
	Series  []airSeries `json:"series"`
	Present []airSeries `json:"present,omitempty"` // persons in the room, as devices count them
	Persons int64       `json:"persons,omitempty"` // that the room is meant for
	Actions []airActed  `json:"actions,omitempty"`
	Moves   []airMoved  `json:"moves,omitempty"`
}

// airSeries is one line. A null among the means is a gap.
type airSeries struct {
	Key     string     `json:"key"`
	Name    string     `json:"name"`
	Link    string     `json:"link,omitempty"`
	Times   []int64    `json:"t"`
	Mean    []*float64 `json:"mean"`
	Min     []*float64 `json:"min,omitempty"` // where a point is several readings
	Max     []*float64 `json:"max,omitempty"`
	Outside []*float64 `json:"outside,omitempty"` // CO2 of the air outside
}

type airActed struct {
	air.Action
	At   int64  `json:"at"`
	Key  string `json:"key"` // of the room
	Link string `json:"link"`
}

type airMoved struct {
	At    int64  `json:"at"`
	Words string `json:"words"`
	Came  bool   `json:"came"`
}

// thousandths are what a chart shows no more than.
func thousandths(v float64) *float64 {
	v = math.Round(v*1000) / 1000
	return &v
}

func drawn(s *airState, each *air.Series, step air.Step, outside bool) airSeries {
	out := airSeries{Key: each.Room.Key() + "/" + each.Device, Name: each.Device, Times: []int64{}, Mean: []*float64{}}
	if s.room == nil || each.Device == "" {
		out.Name = placeName(each.Room, each.Device)
	}
	gaps, interval := each.Gaps(step), each.Interval()
	known := false
	add := func(t time.Time, mean, least, most, fresh *float64) {
		out.Times, out.Mean = append(out.Times, t.UnixMilli()), append(out.Mean, mean)
		if step != air.Raw {
			out.Min, out.Max = append(out.Min, least), append(out.Max, most)
		}
		out.Outside = append(out.Outside, fresh)
		known = known || fresh != nil
	}
	for i, point := range each.Points {
		if len(gaps) > 0 && gaps[0] == i {
			gaps = gaps[1:]
			add(each.Points[i-1].At.Add(interval), nil, nil, nil, nil)
		}
		var fresh *float64
		if point.Outside != nil {
			fresh = thousandths(*point.Outside)
		}
		add(point.At, thousandths(point.Mean), thousandths(point.Min), thousandths(point.Max), fresh)
	}
	if !known || !outside {
		out.Outside = nil
	}
	return out
}

// airAsked is air for programs, which name what there is.
func (p *Portal) airAsked(r *http.Request, v access.Viewer) (s airState, a *air.Air, places *air.Places, err error) {
	s, _, a, places, err = p.air(r, v)
	if err == nil && a == nil {
		err = badRequest("no tenant has a device yet: give one a placement first")
	}
	if err == nil && s.metric != co2 {
		var last time.Time
		if last, err = a.Last(r.Context(), air.Where{}, s.metric); err == nil && last.IsZero() {
			err = unmeasured(r.Context(), &s, a)
		}
	}
	return s, a, places, err
}

// tooMany tells who asks what to ask instead.
func tooMany(err error) error {
	if errors.Is(err, air.ErrTooMany) {
		return badRequest(err.Error())
	}
	return err
}

// airSeries answers with the lines of a chart, one for each device in each room, and what
// happened there.
func (p *Portal) airSeries(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	return p.airChart(w, r, v, air.ByDevice, air.MaxPoints)
}

// tilePoints are what the small chart of one room of many has at most.
const tilePoints = 750

// airRooms answers with one line for each room.
func (p *Portal) airRooms(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	return p.airChart(w, r, v, air.ByRoom, tilePoints)
}

func (p *Portal) airChart(w http.ResponseWriter, r *http.Request, v access.Viewer, by air.By, points int) error {
	s, a, places, err := p.airAsked(r, v)
	if err != nil {
		return err
	}
	var series, persons []air.Series
	var step air.Step
	var actions []air.Action
	g, ctx := errgroup.WithContext(r.Context())
	g.Go(func() (err error) {
		if step, err = a.Resolve(ctx, s.selection(), s.step, by, points); err == nil {
			series, err = a.Series(ctx, s.selection(), step, by, s.zone)
		}
		return err
	})
	g.Go(func() (err error) { actions, err = a.Actions(ctx, places, s.where(), s.from, s.to); return err })
	var personsStep air.Step
	if by == air.ByDevice && s.metric != present {
		g.Go(func() (err error) {
			counted := s.selection()
			counted.Metric, counted.Device = present, "" // another device may count them
			if personsStep, err = a.Resolve(ctx, counted, air.Auto, air.ByRoom, points); err == nil {
				persons, err = a.Series(ctx, counted, personsStep, air.ByRoom, s.zone)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return tooMany(err)
	}
	out := airAnswer{Metric: s.metric, Name: metricName(s.metric), Step: step.String(), Words: step.Words(),
		From: s.from.UnixMilli(), To: s.to.UnixMilli(), Zone: s.zone.String(), Series: []airSeries{}}
	if s.bands {
		out.Bands = []float64{s.low, s.high}
	}
	if s.room != nil {
		out.Persons = places.Persons(*s.room)
	}
	for i := range series {
		each := drawn(&s, &series[i], step, s.metric == co2)
		if by == air.ByRoom {
			link := []string{"building", "", "action", "", "room", series[i].Room.Key(), "device", ""}
			if series[i].Room.Name == "" {
				link = []string{"building", "", "action", "", "room", "", "device", series[i].Device}
			}
			each.Link = s.link("/air", link...)
		}
		out.Series = append(out.Series, each)
		out.Unit = max(out.Unit, unitSign(series[i].Unit))
	}
	for i := range persons {
		out.Present = append(out.Present, drawn(&s, &persons[i], personsStep, false))
	}
	for _, x := range actions {
		out.Actions = append(out.Actions, airActed{x, x.At.UnixMilli(), x.Room.Key(), s.link("/air", "room", x.Room.Key(), "building", "", "device", "", "action", x.ID) + "#effect"})
	}
	if by == air.ByDevice {
		for _, m := range places.Moves(s.where(), s.from, s.to) {
			out.Moves = append(out.Moves, airMoved{m.At.UnixMilli(), moveWords(m), m.Came})
		}
	}
	return answer(w, http.StatusOK, out)
}

// airNow answers with how it is now, room by room.
func (p *Portal) airNow(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	s, a, places, err := p.airAsked(r, v)
	if err != nil {
		return err
	}
	now, err := a.Now(r.Context(), places, s.where(), s.metric, s.now)
	if err != nil {
		return err
	}
	type room struct {
		Key   string    `json:"key"`
		Name  string    `json:"name"`
		Unit  string    `json:"unit"`
		Value *float64  `json:"value"` // null: nothing was measured within the last hour
		At    time.Time `json:"at,omitzero"`
		Stale bool      `json:"stale"`
		Slope *float64  `json:"slope"` // per hour
		// As the page shows them.
		Text  string `json:"text"`
		Band  string `json:"band"`
		Word  string `json:"word"`
		Trend string `json:"trend"`
		Age   string `json:"age"`
	}
	out := []room{}
	for i := range now {
		n, t := &now[i], tileOf(&s, &now[i])
		each := room{Key: t.Key, Name: placeName(n.Room, n.Device), Unit: t.Unit, At: t.At, Stale: t.Stale, Slope: n.Slope,
			Text: t.Value, Band: t.Band, Word: t.Word, Trend: t.Trend, Age: t.Says}
		if n.Exact {
			each.Value = &n.Value
		}
		out = append(out, each)
	}
	return answer(w, http.StatusOK, map[string]any{"to": s.to.UnixMilli(), "rooms": out})
}
