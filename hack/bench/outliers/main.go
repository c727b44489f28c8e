// Command outliers measures what the rules of package outlier find, of faults that
// it puts into measured data, beside two rules without a window over the same data.
//
//	cd hack/bench && go run ./outliers [-data ../../../shared/data] [-seeds 20]
//
// The data are those of docs/quality.md: the rooms of the UCI data sets and of
// Windesheim. A fault is put in by a seed, each of its readings is marked, and every
// flag on another reading counts as false, also where the data as they were
// published are doubtful.
//
//	spike     one reading in 200, off by 2 to 10 times what a step of the air is
//	stuck     the value of one reading for 6 to 24 hours, twice a week
//	drift     a slow ramp, to 5 steps above in three days, once a week
//	identity  another device's readings between a device's own, for 6 to 24 hours, once a week
//
// Printed are precision, recall and F1 over all seeds, of the flags of the rule that is
// to find the fault, and how long it took from the
// first reading of a fault to the first moment at which the readings so far were
// enough to find it. The peers are given the whole series at once.
package main

import (
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/outlier"
	"github.com/telemesh/telemesh/products"
)

func main() {
	data := flag.String("data", filepath.Join("..", "..", "..", "shared", "data"), "folder of the data sets")
	seeds := flag.Int("seeds", 20, "how often each fault is put in")
	flag.Parse()
	if err := run(filepath.Join(*data, "indoor-air"), *seeds); err != nil {
		fmt.Fprintln(os.Stderr, "outliers:", err)
		os.Exit(1)
	}
}

// series is what one device measured of one metric.
type series struct {
	set, device, metric string
	readings            []mesh.Reading
}

// steps are what the metrics' values change by when something happens in a room.
var steps = map[string]float64{"co2": 100, "temperature": 1, "relative_humidity": 5, "relative_humidity_fraction": 0.05}

func run(folder string, seeds int) error {
	dictionary, err := products.FS.ReadFile("iot-telemetry/metrics.yaml")
	if err != nil {
		return err
	}
	rules, err := outlier.ReadRules(dictionary)
	if err != nil {
		return err
	}
	all, err := read(folder)
	if err != nil {
		return err
	}
	var sets []string
	for _, s := range all {
		if !slices.Contains(sets, s.set) {
			sets = append(sets, s.set)
		}
	}
	finders := []finder{
		{"telemesh", func(s *series) []string { return judged(rules[s.metric], s) }},
		{"z-score", zScore},
		{"MAD", globalMAD},
	}
	fmt.Println("As published: flags on the data without a fault.")
	fmt.Printf("%-12s %9s %9s %9s %9s %9s\n", "data", "readings", "stuck", "spike", "identity", "z-score")
	for _, set := range sets {
		counts, n, z := map[string]int{}, 0, 0
		for _, s := range all {
			if s.set != set {
				continue
			}
			n += len(s.readings)
			for _, flag := range judged(rules[s.metric], s) {
				counts[flag]++
			}
			for _, flag := range zScore(s) {
				if flag != "" {
					z++
				}
			}
		}
		fmt.Printf("%-12s %9d %9d %9d %9d %9d\n", set, n, counts[mesh.SuspectStuck], counts[mesh.SuspectSpike], counts[mesh.SuspectIdentity], z)
	}
	fmt.Printf("\n%-9s %-12s %-9s %9s %9s %9s %12s\n", "fault", "data", "rule", "precision", "recall", "F1", "until found")
	for _, f := range faults {
		for _, set := range sets {
			for i, find := range finders {
				var c count
				for _, s := range all {
					if s.set != set {
						continue
					}
					for seed := range seeds {
						random := rand.New(rand.NewPCG(uint64(seed), 7))
						faulty, marks := f.put(s, random)
						c.add(find.find(faulty), marks, f.rule)
						if i == 0 && seed < 3 {
							c.delays = append(c.delays, delays(rules[s.metric], faulty, marks)...)
						}
					}
				}
				fmt.Printf("%-9s %-12s %-9s %9s %9s %9s %12s\n", f.name, set, find.name, share(c.precision()), share(c.recall()), share(c.f1()), c.delay(i == 0))
			}
		}
	}
	return nil
}

type finder struct {
	name string
	find func(*series) []string
}

// judged is the rules of the mesh.
func judged(m outlier.Metric, s *series) []string {
	flags := make([]string, len(s.readings))
	if m == (outlier.Metric{}) {
		return flags
	}
	at := map[mesh.Instant]int{}
	for i := range s.readings {
		at[s.readings[i].ObservedAt] = i
	}
	for _, r := range m.Judge(s.readings, math.MinInt64, math.MaxInt64) {
		flags[at[r.ObservedAt]] = r.Quality
	}
	return flags
}

func values(s *series) []float64 {
	v := make([]float64, len(s.readings))
	for i := range v {
		v[i] = s.readings[i].Value
	}
	return v
}

// zScore flags what is more than three standard deviations from the mean.
func zScore(s *series) []string {
	v := values(s)
	var sum, squares float64
	for _, x := range v {
		sum += x
	}
	mean := sum / float64(len(v))
	for _, x := range v {
		squares += (x - mean) * (x - mean)
	}
	return beyond(v, mean, 3*math.Sqrt(squares/float64(len(v))))
}

// globalMAD flags what is more than 3.5 median absolute deviations, scaled, from the
// median of the whole series.
func globalMAD(s *series) []string {
	v := values(s)
	sorted := slices.Sorted(slices.Values(v))
	middle := sorted[len(sorted)/2]
	deviations := make([]float64, len(v))
	for i, x := range v {
		deviations[i] = math.Abs(x - middle)
	}
	slices.Sort(deviations)
	return beyond(v, middle, 3.5*1.4826*deviations[len(deviations)/2])
}

// peer is the flag of the rules to compare with.
const peer = "beyond"

func beyond(v []float64, middle, far float64) []string {
	flags := make([]string, len(v))
	for i, x := range v {
		if math.Abs(x-middle) > far {
			flags[i] = peer
		}
	}
	return flags
}

// count is of readings.
type count struct {
	right, wrong, missed int
	delays               []time.Duration // of the faults that are found; -1: of one that is not
}

// add counts the flags of a rule, empty: of any; a peer has but one.
func (c *count) add(flags []string, marks []int, rule string) {
	for i, flag := range flags {
		if rule != "" && flag != rule && flag != peer {
			flag = ""
		}
		switch {
		case flag != "" && marks[i] > 0:
			c.right++
		case flag != "":
			c.wrong++
		case marks[i] > 0:
			c.missed++
		}
	}
}

func (c *count) precision() float64 { return float64(c.right) / float64(c.right+c.wrong) }
func (c *count) recall() float64    { return float64(c.right) / float64(c.right+c.missed) }
func (c *count) f1() float64 {
	return 2 * float64(c.right) / float64(2*c.right+c.wrong+c.missed)
}

func share(f float64) string {
	if math.IsNaN(f) {
		return "-"
	}
	return fmt.Sprintf("%.3f", f)
}

// delay is the median, and how many faults were found at all.
func (c *count) delay(own bool) string {
	if !own {
		return ""
	}
	all := len(c.delays)
	found := slices.Sorted(slices.Values(slices.DeleteFunc(c.delays, func(d time.Duration) bool { return d < 0 })))
	if len(found) == 0 {
		return fmt.Sprintf("- 0/%d", all)
	}
	return fmt.Sprintf("%s %d/%d", strings.TrimSuffix(found[len(found)/2].Round(time.Minute).String(), "0s"), len(found), all)
}

// delays gives for each fault how long after its first reading the readings so far
// show it.
func delays(m outlier.Metric, s *series, marks []int) []time.Duration {
	var out []time.Duration
	faults := slices.Max(marks)
	reach := 2 * mesh.Instant(m.Window().Microseconds())
	for fault := 1; fault <= faults; fault++ {
		first, last := slices.Index(marks, fault), len(marks)-1
		if first < 0 {
			continue
		}
		for marks[last] != fault {
			last--
		}
		from, to := s.readings[first].ObservedAt, s.readings[last].ObservedAt
		begin := first
		for begin > 0 && s.readings[begin].ObservedAt > from-reach {
			begin--
		}
		found := time.Duration(-1)
		for now := first + 1; now <= len(marks) && s.readings[now-1].ObservedAt <= to+reach; now++ {
			flagged := m.Judge(s.readings[begin:now], from, s.readings[now-1].ObservedAt+1)
			if slices.ContainsFunc(flagged, func(r mesh.Reading) bool { return r.ObservedAt <= to }) {
				found = time.Duration(s.readings[now-1].ObservedAt-from) * time.Microsecond
				break
			}
		}
		out = append(out, found)
	}
	return out
}

const (
	hour = mesh.Instant(3600e6)
	week = 7 * 24 * hour
)

type fault struct {
	name string
	rule string // that is to find it; empty: there is none
	// put gives a series with the fault, and of each reading which fault it is of, 0
	// for none.
	put func(*series, *rand.Rand) (*series, []int)
}

var faults = []fault{{"spike", mesh.SuspectSpike, spikes}, {"stuck", mesh.SuspectStuck, stuck}, {"drift", "", drift}, {"identity", mesh.SuspectIdentity, identity}}

func spikes(s *series, random *rand.Rand) (*series, []int) {
	out, marks := clone(s), make([]int, len(s.readings))
	n := 0
	for i := range out.readings {
		if random.IntN(200) > 0 {
			continue
		}
		n++
		marks[i] = n
		off := steps[s.metric] * (2 + 8*random.Float64())
		if random.IntN(2) == 0 && out.readings[i].Value > off {
			off = -off
		}
		out.readings[i].Value += off
	}
	return out, marks
}

// episodes calls do with spans of readings, so many a week, which do not touch.
func episodes(s *series, random *rand.Rand, perWeek, least, most float64, do func(n int, from, to mesh.Instant)) {
	begin, end := s.readings[0].ObservedAt, s.readings[len(s.readings)-1].ObservedAt
	n := 0
	for at := begin; at < end; at += mesh.Instant(float64(week) / perWeek) {
		long := mesh.Instant((least + (most-least)*random.Float64()) * float64(hour))
		from := at + mesh.Instant(random.Float64()*(float64(week)/perWeek-float64(long)))
		n++
		do(n, from, from+long)
	}
}

func stuck(s *series, random *rand.Rand) (*series, []int) {
	out, marks := clone(s), make([]int, len(s.readings))
	episodes(s, random, 2, 6, 24, func(n int, from, to mesh.Instant) {
		var value *float64
		for i := range out.readings {
			if r := &out.readings[i]; r.ObservedAt >= from && r.ObservedAt < to {
				if value == nil {
					value = &r.Value
				}
				r.Value, marks[i] = *value, n
			}
		}
	})
	return out, marks
}

func drift(s *series, random *rand.Rand) (*series, []int) {
	out, marks := clone(s), make([]int, len(s.readings))
	episodes(s, random, 1, 72, 72, func(n int, from, to mesh.Instant) {
		for i := range out.readings {
			if r := &out.readings[i]; r.ObservedAt >= from && r.ObservedAt < to {
				r.Value += 5 * steps[s.metric] * float64(r.ObservedAt-from) / float64(to-from)
				marks[i] = n
			}
		}
	})
	return out, marks
}

// identity puts between the readings those of another room: the same a day earlier,
// three steps off.
func identity(s *series, random *rand.Rand) (*series, []int) {
	out := &series{set: s.set, device: s.device, metric: s.metric}
	var marks []int
	spans := map[int][2]mesh.Instant{}
	episodes(s, random, 1, 6, 24, func(n int, from, to mesh.Instant) { spans[n] = [2]mesh.Instant{from, to} })
	for i, r := range s.readings {
		fault := 0
		for n, span := range spans {
			if r.ObservedAt >= span[0] && r.ObservedAt < span[1] {
				fault = n
			}
		}
		out.readings, marks = append(out.readings, r), append(marks, fault)
		if fault == 0 || i+1 == len(s.readings) {
			continue
		}
		other := r
		other.ObservedAt = (r.ObservedAt + s.readings[i+1].ObservedAt) / 2
		other.Value = s.readings[max(0, i-max(1, i/10))].Value + 3*steps[s.metric]
		out.readings, marks = append(out.readings, other), append(marks, fault)
	}
	return out, marks
}

func clone(s *series) *series {
	out := *s
	out.readings = slices.Clone(s.readings)
	return &out
}

// read gives the series of the three data sets.
func read(folder string) ([]*series, error) {
	var all []*series
	add := func(set, device, metric string, at time.Time, text string) error {
		if text = strings.TrimSpace(text); text == "" {
			return nil
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(s *series) bool { return s.set == set && s.device == device && s.metric == metric })
		if i < 0 {
			i = len(all)
			all = append(all, &series{set: set, device: device, metric: metric})
		}
		all[i].readings = append(all[i].readings, mesh.Reading{DeviceID: device, Metric: metric, ObservedAt: mesh.At(at), Value: v})
		return nil
	}
	for _, name := range []string{"datatraining.txt", "datatest.txt", "datatest2.txt"} {
		err := rows(filepath.Join(folder, "uci-occupancy-detection", name), func(_ map[string]int, row []string) error {
			at, err := time.Parse(time.DateTime, row[1]) // a cell more than the header has
			return errors.Join(err, add("detection", "room", "temperature", at, row[2]),
				add("detection", "room", "relative_humidity", at, row[3]), add("detection", "room", "co2", at, row[5]))
		})
		if err != nil {
			return nil, err
		}
	}
	err := rows(filepath.Join(folder, "uci-room-occupancy-estimation", "Occupancy_Estimation.csv"), func(column map[string]int, row []string) error {
		at, err := time.Parse("2006/1/2 15:4:5", strings.ReplaceAll(row[column["Date"]], "-", "/")+" "+row[column["Time"]])
		if err != nil {
			return err
		}
		for _, sensor := range []string{"S1", "S2", "S3", "S4"} {
			err = errors.Join(err, add("estimation", sensor, "temperature", at, row[column[sensor+"_Temp"]]))
		}
		return errors.Join(err, add("estimation", "S5", "co2", at, row[column["S5_CO2"]]))
	})
	if err != nil {
		return nil, err
	}
	err = rows(filepath.Join(folder, "windesheim-b4b2022", "925038_raw_properties.csv"), func(column map[string]int, row []string) error {
		at, err := time.Parse("2006-01-02T15:04:05-0700", row[column["timestamp"]])
		source := row[column["source"]]
		if err != nil || !strings.HasPrefix(source, "CO2-meter") {
			return err
		}
		return errors.Join(add("windesheim", source, "co2", at, row[column["co2__ppm"]]),
			add("windesheim", source, "temperature", at, row[column["temp_in__degC"]]),
			add("windesheim", source, "relative_humidity_fraction", at, row[column["rel_humidity__0"]]))
	})
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		byTime := func(a, b mesh.Reading) int { return int(min(1, max(-1, a.ObservedAt-b.ObservedAt))) }
		slices.SortStableFunc(s.readings, byTime)
		s.readings = slices.CompactFunc(s.readings, func(a, b mesh.Reading) bool { return a.ObservedAt == b.ObservedAt })
	}
	return all, nil
}

// rows calls do with the rows of a CSV file, and the columns by name.
func rows(path string, do func(column map[string]int, row []string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	in := csv.NewReader(file)
	in.FieldsPerRecord = -1
	all, err := in.ReadAll()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	column := map[string]int{}
	for i, name := range all[0] {
		column[name] = i
	}
	for i, row := range all[1:] {
		if err := do(column, row); err != nil {
			return fmt.Errorf("%s: line %d: %w", path, i+2, err)
		}
	}
	return nil
}
