package portal

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // an image need not have the time zones

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/air"
)

func (p *Portal) airRoutes() []route {
	return []route{
		{"GET /air", signedIn, ofRooms, p.airPage},
		{"GET /api/air/series", signedIn, ofRooms, p.airSeries},
		{"GET /api/air/rooms", signedIn, ofRooms, p.airRooms},
		{"GET /api/air/now", signedIn, ofRooms, p.airNow},
		{"GET /api/air/stream", signedIn, ofRooms, p.streams.of(p.airStream)},
		{"GET /api/air/readings.csv", signedIn, byItself, p.exports.of(p.airCSV)},
		{"GET /api/air/readings.parquet", signedIn, byItself, p.exports.of(p.airParquet)},
	}
}

// Where the default bands of CO2 come from is on the page; there are values of
// others to choose. config/classify/co2-level.yaml has them, too: what is drawn as
// poor is what people are told of.
const (
	lowCO2, highCO2 = 900, 1200
	co2             = "co2"
	present         = "people_count" // metric of the persons in a room
)

// preset is a range that ends now.
type preset struct {
	Name, Words string
	years, days int
}

var presets = []preset{{"24h", "24 h", 0, 1}, {"7d", "7 days", 0, 7}, {"30d", "30 days", 0, 30}, {"1y", "1 year", 1, 0}}

const (
	defaultPreset = "24h"
	maxYears      = 10 // that one range may have
)

// airState is what the address of a page of the area says. The same address shows
// the same.
type airState struct {
	asked     url.Values // as it came, without what is empty
	tenant    string     // empty: the first that the viewer has
	building  string
	room      *air.Room
	device    string
	metric    string
	preset    string // a name of presets; empty: from and to were given
	from, to  time.Time
	zone      *time.Location
	low, high float64
	bands     bool // low and high are drawn
	step      air.Step
	action    string // whose effect is asked for
	now       time.Time
}

// readAir reads the address of a page or of what is behind it.
func readAir(r *http.Request, now time.Time) (s airState, err error) {
	s = airState{asked: url.Values{}, now: now, zone: time.UTC}
	for name, values := range r.URL.Query() {
		if len(values) > 0 && values[0] != "" {
			s.asked.Set(name, values[0])
		}
	}
	get := s.asked.Get
	s.tenant, s.building, s.device, s.action = get("tenant"), get("building"), get("device"), get("action")
	if s.metric = get("metric"); s.metric == "" {
		s.metric = co2
	}
	if key := get("room"); key != "" {
		room, err := air.ParseRoom(key)
		if err != nil {
			return s, badRequest(err.Error())
		}
		s.room = &room
	}
	if name := get("tz"); name != "" {
		zone, err := time.LoadLocation(name)
		if err != nil || zone == time.Local {
			return s, badRequest(fmt.Sprintf("tz %q is no time zone: give a name of the IANA database, as Europe/Amsterdam or UTC", name))
		}
		s.zone = zone
	}
	if s.step, err = air.ParseStep(get("step")); err != nil {
		return s, badRequest(err.Error())
	}
	if err := s.readRange(get); err != nil {
		return s, err
	}
	return s, s.readBands(get)
}

func (s *airState) readRange(get func(string) string) error {
	from, to := get("from"), get("to")
	if from == "" && to == "" {
		s.preset = get("range")
		if s.preset == "" {
			s.preset = defaultPreset
		}
		var names []string
		for _, p := range presets {
			if p.Name == s.preset {
				s.from, s.to = s.now.AddDate(-p.years, 0, -p.days), s.now
				return nil
			}
			names = append(names, p.Name)
		}
		return badRequest(fmt.Sprintf("range %q is none of %s: for another one give from and to", s.preset, strings.Join(names, ", ")))
	}
	var err error
	if s.to = s.now; to != "" {
		if s.to, err = readTime("to", to, s.zone); err != nil {
			return err
		}
	}
	if s.from = s.to.AddDate(0, 0, -1); from != "" {
		if s.from, err = readTime("from", from, s.zone); err != nil {
			return err
		}
	}
	switch {
	case !s.from.Before(s.to):
		return badRequest("the range ends before it begins: let from be earlier than to")
	case s.from.AddDate(maxYears, 0, 0).Before(s.to):
		return badRequest(fmt.Sprintf("the range is longer than %d years: let from be later", maxYears))
	}
	return nil
}

// readTime reads an instant: with an offset, or as the clocks of a zone show it,
// which is what browsers send of a field for date and time.
func readTime(name, value string, zone *time.Location) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, value)
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", time.DateOnly} {
		if err != nil {
			t, err = time.ParseInLocation(layout, value, zone)
		}
	}
	// The warehouses hold these years.
	if err != nil || t.UTC().Year() < 1 || t.UTC().Year() > 9998 {
		return t, badRequest(fmt.Sprintf("%s %q is no time: give it as 2026-03-02T08:00, or with an offset as 2026-03-02T08:00:00Z", name, value))
	}
	return t.UTC(), nil
}

func (s *airState) readBands(get func(string) string) error {
	// Those of another metric, of which they were when a form was sent, are no more.
	if of := get("of"); of != "" && of != s.metric {
		s.asked.Del("low")
		s.asked.Del("high")
	}
	s.asked.Del("of")
	low, high := get("low"), get("high")
	if s.metric == co2 {
		s.bands, s.low, s.high = true, lowCO2, highCO2
	}
	if low == "" && high == "" {
		return nil
	}
	for _, each := range []struct {
		name, value string
		to          *float64
	}{{"low", low, &s.low}, {"high", high, &s.high}} {
		if each.value == "" && s.metric == co2 {
			continue // the default
		}
		v, err := strconv.ParseFloat(each.value, 64)
		if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
			return badRequest(fmt.Sprintf("%s %q is no number: give both low and high, as 900 and 1200", each.name, each.value))
		}
		*each.to = v
	}
	if s.bands = true; s.low >= s.high {
		return badRequest(fmt.Sprintf("low is not below high: the first band ends at %s, let it end below the second, which ends at %s", quantity(s.low), quantity(s.high)))
	}
	return nil
}

// link is the address of a page with some parameters of this one changed, pairs of
// a name and a value. An empty value drops a parameter.
func (s *airState) link(path string, changes ...string) string {
	q := url.Values{}
	for name, values := range s.asked {
		q[name] = values
	}
	for i := 0; i+1 < len(changes); i += 2 {
		if changes[i+1] == "" {
			q.Del(changes[i])
		} else {
			q.Set(changes[i], changes[i+1])
		}
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// What templates ask.

func (s airState) Tenant() string   { return s.tenant }
func (s airState) Building() string { return s.building }
func (s airState) Device() string   { return s.device }
func (s airState) Metric() string   { return s.metric }
func (s airState) Preset() string   { return s.preset }
func (s airState) CO2() bool        { return s.metric == co2 }
func (s airState) Low() string      { return s.asked.Get("low") }
func (s airState) High() string     { return s.asked.Get("high") }

// Set says whether what is rarely set is set.
func (s airState) Set() bool { return s.Low() != "" || s.High() != "" || s.step != air.Auto }

// selection is the readings that the page is about.
func (s *airState) selection() air.Selection {
	return air.Selection{Where: s.where(), Metric: s.metric, From: s.from, To: s.to}
}

func (s *airState) where() air.Where {
	return air.Where{Building: s.building, Room: s.room, Device: s.device}
}

// local is an instant as the page's clocks show it.
func (s *airState) local(t time.Time) string { return t.In(s.zone).Format("Mon 2 Jan 2006 15:04") }

// day is the layout of a day within the range: with the year where that is not the
// same for all.
func (s *airState) day() string {
	if s.from.In(s.zone).Year() != s.to.In(s.zone).Year() {
		return "Mon 2 Jan 2006"
	}
	return "Mon 2 Jan"
}

// clock is the layout of a time of the day: with the name of the zone's time where
// that changes within the range, so that the hour that comes twice is told apart.
func (s *airState) clock() string {
	if _, end := s.from.In(s.zone).ZoneBounds(); !end.IsZero() && end.Before(s.to) {
		return "15:04 MST"
	}
	return "15:04"
}

// air opens the air of the tenant that an address names, with the places that the
// tenant has; of one that names none, of the first. What the address names beside
// must be the tenant's.
func (p *Portal) air(r *http.Request, v access.Viewer) (s airState, tenants []air.Tenant, a *air.Air, places *air.Places, err error) {
	if s, err = readAir(r, p.now()); err != nil {
		return s, nil, nil, nil, err
	}
	if s.tenant == "" || forPeople(r) {
		if tenants, err = air.Tenants(r.Context(), p.data, v); err != nil {
			return s, nil, nil, nil, err
		}
		if s.tenant == "" && len(tenants) > 0 {
			s.tenant = tenants[0].ID
		}
	}
	if s.tenant == "" {
		return s, nil, nil, nil, nil
	}
	if a, err = air.Of(p.counted, v, s.tenant); err != nil {
		return s, nil, nil, nil, err
	}
	if places, err = a.Places(r.Context()); err != nil {
		return s, nil, nil, nil, err
	}
	// What nobody has and nobody is: who sees every tenant has mistyped it.
	if len(places.Stays) == 0 && v.SeesAll() {
		if tenants == nil {
			if tenants, err = air.Tenants(r.Context(), p.data, v); err != nil {
				return s, nil, nil, nil, err
			}
		}
		if !slices.ContainsFunc(tenants, func(t air.Tenant) bool { return t.ID == s.tenant }) {
			return s, nil, nil, nil, noTenant(s.tenant)
		}
	}
	if forPeople(r) {
		s.widen(places)
	}
	if w := s.where(); w != (air.Where{}) && len(places.Devices(w)) == 0 {
		return s, nil, nil, nil, badRequest("none of your devices was ever there: choose a building, a room and a device of the lists")
	}
	return s, tenants, a, places, nil
}

// noTenant is the errNotFound of a tenant that there is not.
type noTenant string

func (e noTenant) Error() string   { return fmt.Sprintf("there is no tenant %q", string(e)) }
func (e noTenant) Is(o error) bool { return o == errNotFound }

// widen drops the room or the device where it is not within what is chosen above
// it: a form without a script sends what was chosen before, too.
func (s *airState) widen(places *air.Places) {
	drop := func(narrow, wide air.Where) bool {
		return len(places.Devices(narrow)) > 0 && len(places.Devices(wide)) > 0 &&
			len(places.Devices(air.Where{Building: wide.Building, Room: cmp.Or(narrow.Room, wide.Room), Device: narrow.Device})) == 0
	}
	if s.room != nil && drop(air.Where{Room: s.room}, air.Where{Building: s.building}) {
		s.room = nil
		s.asked.Del("room")
	}
	if s.device != "" && drop(air.Where{Device: s.device}, air.Where{Building: s.building, Room: s.room}) {
		s.device = ""
		s.asked.Del("device")
	}
}

// names of what is measured, where the name is no word.
var metricNames = map[string]string{co2: "CO₂", "eco2": "eCO₂", "pm1": "PM1", "pm2_5": "PM2.5", "pm10": "PM10", "tvoc": "TVOC", "no2": "NO₂", "people_count": "persons"}

func metricName(metric string) string {
	if name := metricNames[metric]; name != "" {
		return name
	}
	return strings.ReplaceAll(metric, "_", " ")
}

// signs of units, by UCUM code.
var unitSigns = strings.NewReplacer("Cel", "°C", "[degF]", "°F", "ug/m3", "µg/m³", "mg/m3", "mg/m³", "{person}", "persons", "{", "", "}", "")

func unitSign(code string) string { return unitSigns.Replace(code) }

// quantity prints a value with about three digits.
func quantity(v float64) string {
	digits := 0
	switch a := math.Abs(v); {
	case a < 10:
		digits = 2
	case a < 100:
		digits = 1
	case a >= 10_000:
		return strings.Replace(count(int64(math.Round(v))), "-", "−", 1)
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Trim(text, "-0.") == "" {
		return "0"
	}
	return strings.Replace(text, "-", "−", 1)
}

// signed prints a change.
func signed(v float64) string {
	text := quantity(v)
	if v > 0 && text != "0" {
		return "+" + text
	}
	return text
}
