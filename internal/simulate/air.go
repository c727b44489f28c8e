package simulate

import (
	"math"
	"time"
)

// What a person adds to the air of a room, sitting and working.
const (
	// 0.31 l/min at 1.2 met: ASHRAE Standard 62.1-2016, appendix D.
	co2PerPerson = 0.31 * 60 / 1000 // m³/h
	// Seated, very light work: ASHRAE Handbook Fundamentals, representative
	// rates at which people give off heat and moisture.
	heatPerPerson   = 70.0                                   // W, sensible
	waterPerPerson  = latentPerPerson * 3600 / 2.45e6 * 1000 // g/h, by the heat of vaporization of 2.45 MJ/kg
	latentPerPerson = 45.0                                   // W
)

const (
	windowAirChange = 6.0  // per hour, added by open windows: a few to ten, by wind and size
	leakage         = 0.1  // per hour, of a room with shut windows and no ventilation: through doors and cracks
	heatOfAir       = 1206 // J/(m³ K): 1.2 kg/m³ of 1005 J/(kg K)
	// Furniture and the surface of the walls follow the air: together they hold
	// a multiple of its heat. An assumption that gives a room some hours.
	heatOfRoom   = 20 * heatOfAir // J/(m³ K)
	wallLoss     = 0.5            // W/(m³ K)
	heaterGain   = 20.0           // W/(m³ K) below the set point
	heaterMax    = 30.0           // W/m³
	setPointDay  = 21.0           // °C
	setPointRest = 17.0
)

// air is the state of a room's air.
type air struct {
	co2         float64 // ppm
	temperature float64 // °C
	water       float64 // g/m³
}

// humidity is relative humidity in percent.
func (a air) humidity() float64 { return 100 * a.water / saturation(a.temperature) }

// saturation is how much water air can hold, in g/m³: the Magnus formula with
// the coefficients of Alduchov and Eskridge (1996) and the gas law.
func saturation(celsius float64) float64 {
	hPa := 6.1094 * math.Exp(17.625*celsius/(celsius+243.04))
	return 216.7 * hPa / (celsius + 273.15)
}

// load is what acts on a room for some time.
type load struct {
	persons   float64
	airChange float64 // per hour
	setPoint  float64 // °C
	outside   air
}

// steady is the CO2 that a room comes to under a load that stays:
//
//	C = C_outside + 10⁶ · n · G / (λ · V)
//
// n persons that give off G m³/h each, air change λ per hour, volume V.
func (r *room) steady(l load) float64 {
	return l.outside.co2 + 1e6*l.persons*co2PerPerson/(l.airChange*r.volume)
}

// step lets a load act on a for dt.
//
// CO2 and water follow the mass balance V·dC/dt = n·G + λ·V·(C_outside − C)
// (ASTM D6245) by its exact solution, so that the length of a step does not
// show. Heat follows the like, with a heater that sees the temperature at the
// start of the step.
func (r *room) step(a air, l load, dt time.Duration) air {
	h := dt.Hours()
	kept := math.Exp(-l.airChange * h)
	relax := func(now, end, kept float64) float64 { return end + (now-end)*kept }

	heater := min(max(heaterGain*(l.setPoint-a.temperature), 0), heaterMax) * r.volume // W
	loss := (wallLoss + l.airChange*heatOfAir/3600) * r.volume                         // W/K
	warm := l.outside.temperature + (l.persons*heatPerPerson+heater)/loss

	next := air{
		co2:         relax(a.co2, r.steady(l), kept),
		temperature: relax(a.temperature, warm, math.Exp(-loss*h*3600/(heatOfRoom*r.volume))),
		water:       relax(a.water, l.outside.water+l.persons*waterPerPerson/(l.airChange*r.volume), kept),
	}
	next.water = min(next.water, saturation(next.temperature)) // the rest condenses on the panes
	return next
}

// weather is the air outside at t: a temperate year (warmest at the end of
// July) and day (warmest at 15:00), with as much water as makes 75 % of the
// day's mean temperature.
func weather(t time.Time, co2 float64) air {
	mean := 10.5 + 7*math.Cos(2*math.Pi*float64(t.YearDay()-209)/365)
	hour := float64(t.Hour()) + float64(t.Minute())/60
	return air{co2: co2, temperature: mean + 4*math.Cos(2*math.Pi*(hour-15)/24), water: 0.75 * saturation(mean)}
}

// kind is what the rooms of a sector are like, and when there are people.
type kind struct {
	sector         string
	persons        [2]int64 // a room is made for
	volume         float64  // m³ per person
	airChange      [2]float64
	windowOpenings float64
	share          [24]float64 // of the persons that are there, by hour of a weekday
}

var kinds = [...]kind{
	{"education", [2]int64{20, 30}, 6.5, [2]float64{1.5, 3.5}, 0.4,
		[24]float64{8: 0.6, 9: 1, 10: 0.9, 11: 1, 12: 0.4, 13: 0.9, 14: 1, 15: 0.3}},
	{"office", [2]int64{4, 12}, 14, [2]float64{0.8, 2}, 0.15,
		[24]float64{7: 0.1, 8: 0.5, 9: 0.8, 10: 0.9, 11: 0.9, 12: 0.5, 13: 0.7, 14: 0.9, 15: 0.9, 16: 0.7, 17: 0.3}},
	{"health", [2]int64{6, 14}, 9, [2]float64{2, 4}, 0.1,
		[24]float64{7: 0.2, 8: 0.7, 9: 0.9, 10: 0.9, 11: 0.8, 12: 0.5, 13: 0.6, 14: 0.8, 15: 0.7, 16: 0.5, 17: 0.2}},
}

// hour is what happens in a room in one hour.
type hour struct {
	persons    float64
	open, shut int // minutes within which the windows are open; equal: they stay shut
	setPoint   float64
	still      bool // the ventilation is off
}

// crowdedAt is the hour of the day in which rooms are crowded.
const crowdedAt = 10

// crowd gives the hour in which the rooms are crowded that are.
func (f *Fleet) crowd() time.Time {
	day := f.origin
	if f.Start.Hour() >= crowdedAt {
		day = day.AddDate(0, 0, 1)
	}
	for day.Weekday() == time.Saturday || day.Weekday() == time.Sunday {
		day = day.AddDate(0, 0, 1)
	}
	return day.Add(crowdedAt * time.Hour)
}

// hour gives the nth hour after the origin in a room. It depends on nothing
// that was before.
func (f *Fleet) hour(room, nth int) hour {
	r := &f.rooms[room]
	t := f.origin.Add(time.Duration(nth) * time.Hour)
	out := hour{setPoint: setPointRest}
	if t.Weekday() == time.Saturday || t.Weekday() == time.Sunday {
		return out
	}
	if h := t.Hour(); h >= 6 && h < 18 {
		out.setPoint = setPointDay
	}
	share := f.tenants[r.tenant].kind.share[t.Hour()]
	if share == 0 {
		return out
	}
	if room < f.Crowded && t.Equal(f.crowd()) {
		out.persons, out.still = 2*float64(r.persons), true
		return out
	}
	d := f.draw(ofHour, room, nth)
	out.persons = math.Round(float64(r.persons) * share * (0.75 + 0.25*d.Float64()))
	if out.persons > 0 && d.Float64() < r.windowOpenings {
		out.open = 5 + d.IntN(25)
		out.shut = out.open + 10 + d.IntN(16)
	}
	return out
}

// tick is how long a load is taken to stay as it is.
const tick = time.Minute

// running is a room in time.
type running struct {
	*room
	fleet   *Fleet
	index   int
	air     air
	minutes int // since the origin
	hour    hour
	outside air
}

func (f *Fleet) run(index int) running {
	r := &f.rooms[index]
	inside := weather(f.origin, r.outsideCO2)
	inside.temperature = setPointRest
	return running{room: r, fleet: f, index: index, air: inside}
}

// to lets the time pass until t, to the minute.
func (r *running) to(t time.Time) {
	for until := int(t.Sub(r.fleet.origin) / tick); r.minutes < until; r.minutes++ {
		minute := r.minutes % 60
		if minute == 0 {
			r.hour = r.fleet.hour(r.index, r.minutes/60)
		}
		if minute%10 == 0 { // the weather takes its time
			r.outside = weather(r.fleet.origin.Add(time.Duration(r.minutes)*tick), r.outsideCO2)
		}
		l := load{persons: r.hour.persons, airChange: r.airChange, setPoint: r.hour.setPoint, outside: r.outside}
		if r.hour.still {
			l.airChange = leakage
		}
		if minute >= r.hour.open && minute < r.hour.shut {
			l.airChange += windowAirChange
		}
		r.air = r.step(r.air, l, tick)
	}
}
