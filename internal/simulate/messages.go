package simulate

import (
	"container/heap"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
	"time"
)

// Sent is a message on its way.
type Sent struct {
	At       time.Time // when it is sent
	Measured time.Time // when its values were measured, by a right clock
	Body     []byte    // JSON on one line
}

// Messages yields what is sent from an instant on, of all that is measured
// before until (zero: without end), in the order of sending. What was measured
// before until and is late comes too, after it. It may be called again, and
// for another range: the messages are the same.
func (f *Fleet) Messages(from, until time.Time) iter.Seq[Sent] {
	return func(yield func(Sent) bool) {
		rooms := make([]running, len(f.rooms))
		for i := range rooms {
			rooms[i] = f.run(i)
		}
		var way onTheWay
		for nth := 0; ; nth++ {
			for i := range f.devices {
				d := &f.devices[i]
				measured := f.Start.Add(time.Duration(nth)*f.Interval + d.phase)
				if !until.IsZero() && !measured.Before(until) {
					for len(way) > 0 {
						if !yield(heap.Pop(&way).(delivery).Sent) {
							return
						}
					}
					return
				}
				for len(way) > 0 && !way[0].At.After(measured) {
					if !yield(heap.Pop(&way).(delivery).Sent) {
						return
					}
				}
				first, again := f.deliveries(i, nth, measured)
				if first.Before(from) && again.Before(from) {
					continue
				}
				body := f.body(d, i, nth, measured, rooms)
				for n, at := range [...]time.Time{first, again} {
					if !at.IsZero() && !at.Before(from) {
						heap.Push(&way, delivery{Sent{at, measured, body}, i, nth, n})
					}
				}
			}
		}
	}
}

// deliveries says when the nth message of a device is sent, and when again;
// zero: it is not.
func (f *Fleet) deliveries(device, nth int, measured time.Time) (first, again time.Time) {
	r := f.draw(ofDelivery, device, nth)
	first = measured.Add(100*time.Millisecond + time.Duration(r.Int64N(int64(maxLatency-100*time.Millisecond)))).Truncate(time.Millisecond)
	if r.Float64() < f.Reordered {
		first = first.Add(f.Interval + time.Duration(r.Int64N(2*int64(f.Interval)))).Truncate(time.Millisecond)
	}
	repeated := r.Float64() < f.Duplicated
	pause := 5*time.Second + time.Duration(r.IntN(60))*time.Second
	if begin, end := f.outage(device, measured); !measured.Before(begin) && measured.Before(end) {
		first = end.Add(time.Duration(end.Sub(measured)/f.Interval) * backlogSpacing)
	}
	if repeated {
		again = first.Add(pause)
	}
	return first, again
}

// outage is when a device is offline on the day of t; none where both are
// zero. It ends on the day it begins.
func (f *Fleet) outage(device int, t time.Time) (begin, end time.Time) {
	nth := int(t.Sub(f.origin) / day)
	r := f.draw(ofOutage, device, nth)
	if r.Float64() >= f.Late {
		return begin, end
	}
	begin = f.origin.Add(time.Duration(nth)*day + time.Duration(r.IntN(20*60))*time.Minute)
	return begin, begin.Add(time.Hour + time.Duration(r.IntN(3*60))*time.Minute)
}

// form is how a device writes its messages.
type form int

const (
	utc        form = iota // plain, RFC 3339
	withOffset             // plain, an offset without colon
	unix                   // plain, seconds
	unixMilli              // plain, milliseconds; degrees Fahrenheit
	ttn                    // The Things Stack v3
	chirpStack             // ChirpStack v4
	forms
)

func formOf(device int) form { return form(device % int(forms)) }

// network says whether a network server puts the time on the messages.
func (f form) network() bool { return f == ttn || f == chirpStack }

func deviceID(i int) string {
	if formOf(i).network() {
		return fmt.Sprintf("70B3D57ED%07X", i) // a DevEUI
	}
	return fmt.Sprintf("air-%04d", i)
}

// body is the nth message of device i. It lets the time pass in its room.
func (f *Fleet) body(d *device, i, nth int, measured time.Time, rooms []running) []byte {
	here := weather(measured, f.rooms[i].outsideCO2)
	outside := f.rooms[i].outsideCO2
	if s := d.stay(measured); s != nil {
		r := &rooms[s.room]
		r.to(measured)
		here, outside = r.air, r.outsideCO2
	}
	r := f.draw(ofNoise, i, nth)
	// A sensor of this kind repeats itself within ±10 ppm, 0.1 K and 0.4 %; it
	// takes the lowest it sees in days for the air outside, and shows no less.
	co2 := strconv.Itoa(int(math.Round(max(here.co2+5*r.NormFloat64(), outside))))
	celsius := here.temperature + 0.05*r.NormFloat64()
	humidity := tenths(min(max(here.humidity()+0.2*r.NormFloat64(), 0), 100))
	temperature := tenths(celsius)

	clock := measured.Add(d.skew).UTC()
	since := measured.Sub(f.origin)
	lost := d.loses && since >= timelessFrom && since < timelessUntil
	var b []byte
	switch d.form {
	case ttn:
		at := clock.Format(time.RFC3339Nano)
		return fmt.Appendf(b, `{"end_device_ids":{"device_id":"eui-%s","dev_eui":"%s","application_ids":{"application_id":"air"}},"received_at":"%s",`+
			`"uplink_message":{"f_port":2,"f_cnt":%d,"decoded_payload":{"co2":%s,"temp":%s,"humidity":%s},"received_at":"%s"}}`,
			strings.ToLower(d.id), d.id, at, nth, co2, temperature, humidity, at)
	case chirpStack:
		return fmt.Appendf(b, `{"time":"%s","deviceInfo":{"applicationName":"air","deviceName":"%s","devEui":"%s"},"fCnt":%d,"fPort":2,`+
			`"object":{"air":{"co2":%s,"temperature":%s,"humidity":%s}}}`,
			clock.Format(time.RFC3339Nano), d.id, strings.ToLower(d.id), nth, co2, temperature, humidity)
	case unixMilli:
		b = fmt.Appendf(b, `{"device_id":"%s","timestamp":%d,`, d.id, clock.UnixMilli())
		temperature = `"temperature_f":` + tenths(celsius*9/5+32)
	case unix:
		b = fmt.Appendf(b, `{"device_id":"%s","timestamp":%d,`, d.id, clock.Unix())
		temperature = `"temperature":` + temperature
	case withOffset:
		b = fmt.Appendf(b, `{"device_id":"%s","time":"%s",`, d.id, clock.In(cet).Format("2006-01-02T15:04:05-0700"))
		temperature = `"temperature":` + temperature
	default:
		b = fmt.Appendf(b, `{"device_id":"%s","time":"%s",`, d.id, clock.Format(time.RFC3339))
		temperature = `"temperature":` + temperature
	}
	if lost {
		b = fmt.Appendf(b[:0], `{"device_id":"%s",`, d.id)
	}
	return fmt.Appendf(b, `"metrics":{"co2":%s,%s,"relative_humidity":%s}}`, co2, temperature, humidity)
}

var cet = time.FixedZone("CET", 60*60)

// tenths prints v as a sensor of that resolution does.
func tenths(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// onTheWay is the messages that are not sent yet, a heap by the instant.
type onTheWay []delivery

// delivery is a message with what orders it among those of the same instant.
type delivery struct {
	Sent
	device, nth, copy int
}

func (w onTheWay) Len() int { return len(w) }
func (w onTheWay) Less(i, j int) bool {
	a, b := &w[i], &w[j]
	if c := a.At.Compare(b.At); c != 0 {
		return c < 0
	}
	if a.device != b.device {
		return a.device < b.device
	}
	if a.nth != b.nth {
		return a.nth < b.nth
	}
	return a.copy < b.copy
}
func (w onTheWay) Swap(i, j int) { w[i], w[j] = w[j], w[i] }
func (w *onTheWay) Push(d any)   { *w = append(*w, d.(delivery)) }
func (w *onTheWay) Pop() any {
	last := len(*w) - 1
	d := (*w)[last]
	*w = (*w)[:last]
	return d
}
