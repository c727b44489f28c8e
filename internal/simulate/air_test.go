package simulate

import (
	"math"
	"testing"
	"time"
)

func testRoom() *room {
	return &room{persons: 28, volume: 180, airChange: 2, outsideCO2: 420}
}

func outside(co2 float64) air { return air{co2: co2, temperature: 8, water: 6} }

func TestCO2ComesToSteadyState(t *testing.T) {
	r := testRoom()
	l := load{persons: 28, airChange: r.airChange, setPoint: 21, outside: outside(420)}
	a := l.outside
	for range 24 * 60 {
		a = r.step(a, l, time.Minute)
	}
	// 28 persons of 0.0186 m³/h each in 360 m³/h of fresh air.
	want := 420 + 1e6*28*0.0186/360
	if math.Abs(a.co2-want) > 1e-6 {
		t.Errorf("CO2 after a day = %v, want %v", a.co2, want)
	}
	// Water and heat balance as well: what comes in goes out.
	if water := l.airChange * r.volume * (a.water - l.outside.water); math.Abs(water-28*45*3.6/2.45) > 1e-6 {
		t.Errorf("water leaves at %v g/h, want what 28 persons give off", water)
	}
	heater := heaterGain * max(l.setPoint-a.temperature, 0) * r.volume
	loss := (wallLoss + l.airChange*heatOfAir/3600) * r.volume * (a.temperature - l.outside.temperature)
	if math.Abs(loss-heater-28*70) > 1 {
		t.Errorf("heat leaves at %v W, want %v of the heater and 28 persons", loss, heater+28*70)
	}
}

// The length of a step must not show: the solution is exact.
func TestCO2StepsAddUp(t *testing.T) {
	r := testRoom()
	l := load{persons: 12, airChange: 1.3, setPoint: 21, outside: outside(430)}
	begin := air{co2: 900, temperature: 21, water: 8}
	long := r.step(begin, l, time.Hour)
	short := begin
	for range 3600 {
		short = r.step(short, l, time.Second)
	}
	if math.Abs(long.co2-short.co2) > 1e-6 || math.Abs(long.water-short.water) > 1e-9 {
		t.Errorf("an hour in one step gives %+v, in 3600 %+v", long, short)
	}
	// An empty room loses a share of 1−1/e of its surplus in 1/λ.
	l.persons = 0
	if got, want := r.step(begin, l, time.Duration(float64(time.Hour)/l.airChange)).co2-430, 470/math.E; math.Abs(got-want) > 1e-6 {
		t.Errorf("surplus after one air change = %v, want %v", got, want)
	}
}

func TestOpenWindowLowersCO2(t *testing.T) {
	r := testRoom()
	shut := load{persons: 28, airChange: r.airChange, setPoint: 21, outside: outside(420)}
	open := shut
	open.airChange += windowAirChange
	a := air{co2: 1500, temperature: 21, water: 9}
	with, without := r.step(a, open, 10*time.Minute), r.step(a, shut, 10*time.Minute)
	if !(with.co2 < a.co2 && with.co2 < without.co2 && with.temperature < without.temperature) {
		t.Errorf("from %+v with open windows %+v, with shut ones %+v: want CO2 and temperature lower", a, with, without)
	}
}

// What holds at every minute of every room of the sample, and that it is a
// world worth looking at.
func TestRoomsOfSample(t *testing.T) {
	f, err := New(Sample())
	if err != nil {
		t.Fatal(err)
	}
	var most float64
	for i := range f.rooms {
		r := f.run(i)
		for at := f.origin; at.Before(f.End()); at = at.Add(time.Minute) {
			before, hour := r.air.co2, r.hour
			r.to(at)
			// Nothing but people brings CO2, and no air has less than that outside.
			if r.air.co2 < r.outsideCO2-1e-9 {
				t.Fatalf("room %d at %s: CO2 %v under the %v outside", i, at, r.air.co2, r.outsideCO2)
			}
			if hour.persons == 0 && r.hour.persons == 0 && r.air.co2 > before+1e-9 {
				t.Fatalf("room %d at %s: CO2 rises from %v to %v with nobody there", i, at, before, r.air.co2)
			}
			if h := r.air.humidity(); h < 5 || h > 100+1e-9 || r.air.temperature < 10 || r.air.temperature > 32 {
				t.Fatalf("room %d at %s: %v °C and %v %% humidity", i, at, r.air.temperature, h)
			}
			most = max(most, r.air.co2)
		}
	}
	if most < 1200 || most > 4000 {
		t.Errorf("highest CO2 = %v, want what is seen in rooms that are too full", most)
	}
}

// A crowd without ventilation makes the air bad within its hour, by physics: nothing
// before it changes, the next day is as it was, and others' rooms are not touched.
func TestCrowd(t *testing.T) {
	for name, start := range map[string]time.Time{"Monday": Sample().Start, "Saturday": Sample().Start.AddDate(0, 0, -2), "a Friday at ten": Sample().Start.AddDate(0, 0, -3).Add(10 * time.Hour)} {
		o := Sample()
		o.Start, o.Duration = start, 5*24*time.Hour
		plain, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		o.Crowded = 3 // one of each tenant
		f, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		begin := Sample().Start.Add(crowdedAt * time.Hour)
		for i := range f.rooms[:6] {
			with, without := f.run(i), plain.run(i)
			var before float64
			for at := f.origin; at.Before(f.End()); at = at.Add(time.Minute) {
				with.to(at)
				without.to(at)
				switch same := with.air == without.air; {
				case i >= o.Crowded || !at.After(begin):
					if !same {
						t.Fatalf("%s: room %d at %s has %+v with crowds elsewhere or later, and else %+v", name, i, at, with.air, without.air)
					}
					before = with.air.co2
				case at.Equal(begin.Add(time.Hour)):
					r := &f.rooms[i]
					rise := 2 * float64(r.persons) * co2PerPerson / r.volume * 1e6
					if got := with.air.co2 - before; with.air.co2 < 2000 || got > rise || got < 0.7*rise {
						t.Errorf("%s: room %d rises from %.0f by %.0f ppm in the hour, want bad air, by not quite the %.0f that its people give off", name, i, before, got, rise)
					}
				case at.Equal(begin.Add(24 * time.Hour)):
					if math.Abs(with.air.co2-without.air.co2) > 1 {
						t.Errorf("%s: room %d has %v ppm a day after, want the %v of a day without a crowd", name, i, with.air.co2, without.air.co2)
					}
				}
			}
		}
	}
}

// Who asks for a crowd gets one.
func TestCrowdAfterTheEnd(t *testing.T) {
	for name, want := range map[string]struct {
		start    time.Time
		duration time.Duration
		ok       bool
	}{
		"to the end of it":    {Sample().Start, 11 * time.Hour, true},
		"to its middle":       {Sample().Start, 10*time.Hour + 30*time.Minute, false},
		"a Saturday":          {Sample().Start.AddDate(0, 0, -2), 24 * time.Hour, false},
		"a day from its hour": {Sample().Start.Add(10 * time.Hour), 24 * time.Hour, false},
	} {
		o := Sample()
		o.Start, o.Duration = want.start, want.duration
		o.Relocations, o.Timeless = 0, 0
		if _, err := New(o); err != nil {
			t.Errorf("%s, nobody crowded: %v", name, err)
		}
		o.Crowded = 1
		if _, err := New(o); (err == nil) != want.ok {
			t.Errorf("%s: New = %v, want a crowd: %v", name, err, want.ok)
		}
	}
}

func TestSaturation(t *testing.T) {
	// CRC Handbook, density of saturated water vapour.
	for celsius, want := range map[float64]float64{0: 4.85, 20: 17.3, 30: 30.4} {
		if got := saturation(celsius); math.Abs(got-want) > 0.01*want {
			t.Errorf("saturation(%v) = %v g/m³, want %v", celsius, got, want)
		}
	}
}
