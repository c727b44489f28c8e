// Package outlier says which readings of a device are doubtful by what the device
// measured before and after them. It does no I/O: a judgement depends on the set of
// rows that are stored around a reading, and on nothing else, neither on the order
// they came in nor on what was judged before.
//
// Three rules, of one metric of one device in the order of event time:
//
//   - duplicate_identity: the values are of two levels that lie apart, and go from
//     one to the other and back with nearly every reading, as of two devices that
//     have one name.
//   - stuck: the value is exactly the same for so long as the metric's values never
//     are, of at least twelve readings.
//   - spike: the value is far from the median of what was measured around it (the
//     Hampel filter), and on the same side of what was measured just before and just
//     after: a step is none, which stays.
//
// How far and how long is said by the metric dictionary; a metric of which it says
// nothing is not judged, nor is what a message alone makes doubtful.
//
// Sources: F. R. Hampel, The influence curve and its role in robust estimation,
// JASA 69 (1974); R. K. Pearson et al., Generalized Hampel filters, EURASIP Journal
// on Advances in Signal Processing 2016:87.
package outlier

import (
	"math"
	"slices"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
)

const (
	// sides is how many readings before and as many after decide about a spike, and
	// fewest how many of each there have to be.
	sides, fewest = 5, 3
	// deviations of the Hampel filter: three are the usual, of values that are
	// distributed normally. The ramps and steps of a room's air are not.
	deviations = 6
	// toNormal makes of a median absolute deviation a standard deviation.
	toNormal = 1.4826
	// sameValues is of how many readings what is stuck consists at least.
	sameValues = 12
	// turns is how many readings on either side of one are looked at for two devices
	// that take turns, and fewestTurns how many of each of them there have to be.
	turns, fewestTurns = 10, 5
	// apart is by how much of their own spread two levels have to differ.
	apart = 4
)

// Metric says what is to be expected of a metric.
type Metric struct {
	// Noise, in the metric's unit: what differs by less is never a spike, nor two
	// devices. 0: neither rule is applied.
	Noise float64
	// Stuck is for how long no value stays exactly the same. 0: it may for ever.
	Stuck time.Duration
}

// around bounds what is looked at for the rules but stuck, so that two readings a
// day are no window.
const around = 3 * time.Hour

// Window is how far before and after a reading what is stored counts.
func (m Metric) Window() time.Duration {
	if m.Noise == 0 {
		return m.Stuck
	}
	return max(m.Stuck, around)
}

// point is a value at an instant.
type point struct {
	at    mesh.Instant
	value float64
}

// judge gives the flag of each point, empty where there is none. The points are in
// the order of their instants, each of another one.
func (m Metric) judge(points []point) []string {
	flags := make([]string, len(points))
	if m.Stuck > 0 {
		m.stuck(points, flags)
	}
	if m.Noise > 0 {
		var b buffers
		for i := range points {
			if m.taken(points, i, &b) {
				flags[i] = mesh.SuspectIdentity
			} else if flags[i] == "" && m.spike(points, i, &b) {
				flags[i] = mesh.SuspectSpike
			}
		}
	}
	return flags
}

// stuck flags the points of runs of one value. Of a run no more is looked at than
// the window around each point, so that what lies beyond does not count.
func (m Metric) stuck(points []point, flags []string) {
	window := mesh.Instant(m.Window().Microseconds())
	long := mesh.Instant(m.Stuck.Microseconds())
	for from := 0; from < len(points); {
		to := from + 1
		for to < len(points) && points[to].value == points[from].value {
			to++
		}
		run := points[from:to]
		first, last := 0, 0
		for i, p := range run {
			for run[first].at < p.at-window {
				first++
			}
			for last < len(run) && run[last].at <= p.at+window {
				last++
			}
			if last-first >= sameValues && run[last-1].at-run[first].at >= long {
				flags[from+i] = mesh.SuspectStuck
			}
		}
		from = to
	}
}

// buffers are used again for each point.
type buffers struct{ before, after, all, deviations []float64 }

// neighbours gives up to n points before and after point i that are near enough.
func neighbours(points []point, i, n int) (from, to int) {
	const near = mesh.Instant(around / time.Microsecond)
	from, to = i, i+1
	for from > 0 && i-from < n && points[from-1].at >= points[i].at-near {
		from--
	}
	for to < len(points) && to-i <= n && points[to].at <= points[i].at+near {
		to++
	}
	return from, to
}

// spike says whether point i is one.
func (m Metric) spike(points []point, i int, b *buffers) bool {
	from, to := neighbours(points, i, sides)
	if i-from < fewest || to-i-1 < fewest {
		return false
	}
	b.before, b.after, b.all, b.deviations = b.before[:0], b.after[:0], b.all[:0], b.deviations[:0]
	for j := from; j < to; j++ {
		switch v := points[j].value; {
		case j < i:
			b.before, b.all = append(b.before, v), append(b.all, v)
		case j > i:
			b.after, b.all = append(b.after, v), append(b.all, v)
		}
	}
	value, middle := points[i].value, median(b.all)
	for _, v := range b.all {
		b.deviations = append(b.deviations, math.Abs(v-middle))
	}
	far := max(m.Noise, deviations*toNormal*median(b.deviations))
	before, after := value-median(b.before), value-median(b.after)
	return math.Abs(value-middle) > far && math.Abs(before) > far && math.Abs(after) > far && before > 0 == (after > 0)
}

// taken says whether two devices take turns around point i.
func (m Metric) taken(points []point, i int, b *buffers) bool {
	from, to := neighbours(points, i, turns)
	if to-from < 2*fewestTurns {
		return false
	}
	b.all = b.all[:0]
	for _, p := range points[from:to] {
		b.all = append(b.all, p.value)
	}
	slices.Sort(b.all)
	low := fewestTurns // of that many values the lower level consists
	for n := low; n <= len(b.all)-fewestTurns; n++ {
		if b.all[n]-b.all[n-1] > b.all[low]-b.all[low-1] {
			low = n
		}
	}
	gap := b.all[low] - b.all[low-1]
	spread := max(b.all[low-1]-b.all[0], b.all[len(b.all)-1]-b.all[low])
	if gap <= m.Noise || gap <= apart*spread {
		return false
	}
	border := b.all[low]
	switches := 0
	for j := from + 1; j < to; j++ {
		if (points[j].value < border) != (points[j-1].value < border) {
			switches++
		}
	}
	// Each reading of the one that sends less stands alone, but for some.
	return 2*switches >= 3*min(low, len(b.all)-low)
}

// median sorts values, of which there is one at least.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values) / 2
	if len(values)%2 == 1 {
		return values[n]
	}
	return (values[n-1] + values[n]) / 2
}
