package device_test

import (
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

// What many values of a message share is neither read nor copied again for
// each of them: a notifiedAt of 1 MiB, read for each of 9,000 entities, took 5 s. The limit is a
// multiple of a bare token scan of the same bytes, in CPU time of this thread:
// other work on the machine does not count.
func TestHostileMessagesAreCheap(t *testing.T) {
	many := func(n int, form string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(strings.ReplaceAll(form, "#", fmt.Sprint(i)))
			b.WriteByte(',')
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	long, blank := strings.Repeat("x", 2<<20), strings.Repeat(" ", 2<<20)
	pairs := many(9000, "[1,#]")
	p := device.NewParser(dictionary(t))
	for _, c := range []struct{ format, payload string }{
		{"aws-iot-shadow", `{"state":{"reported":{` + many(50_000, `"a#":{}`) + `}},"metadata":{"reported":{"z":1,` + many(50_000, `"a#":{"timestamp":1}`) + `}}}`},
		{"aws-iot-shadow", `{"state":{"reported":{"` + long + `":{` + many(50_000, `"a#":null`) + `}}}}`},
		{"aws-iot-shadow", `{"state":{"reported":{` + many(9000, `"a#":{"v":1,"ts":#}`) + `}},"timestamp":"` + blank + `"}`},
		{"ngsi-ld", `{"id":"` + long + `","type":"` + long + `","a":{"type":"Property","values":[` + pairs + `]}}`},
		{"ngsi-ld", `{"id":"urn:ngsi-ld:a","type":"` + long + `","a":{"type":"Property","values":[` + pairs + `]}}`},
		{"ngsi-ld", `{"id":"urn:ngsi-ld:a","type":"t","` + long + `":{"type":"Property","values":[` + pairs + `]}}`},
		{"ngsi-ld", `{"id":"urn:ngsi-ld:a","type":"t","a":{"type":"Property","unitCode":"` + long + `","values":[` + pairs + `]}}`},
		{"ngsi-ld", `{"id":"urn:ngsi-ld:a","type":"t","dateObserved":"` + blank + `","a":{"type":"Property","values":[` + pairs + `]}}`},
		{"ngsi-ld", `{"type":"Notification","subscriptionId":"x","notifiedAt":"` + blank + `","data":[` + many(9000, `{"id":"#","type":"t","a":1}`) + `]}`},
		{"sensorthings", `{"Datastream":{"@iot.id":1,"name":"` + long + `","unitOfMeasurement":{"symbol":"` + long + `"}},"components":["result"],"dataArray":[` + many(50_000, "[null]") + `]}`},
		{"tasmota", `{"Time":"2024-05-01T10:00:00",` + many(50_000, `"s#":{"Temperature":null}`) + `,"Q":{"Humidity":3}}`},
		{"azure-iot-hub", `{"SystemProperties":{"connectionDeviceId":"d"},"Properties":{` + many(50_000, `"a#":1`) + `},"Body":[` + many(9000, `{"a":1}`) + `]}`},
	} {
		m := message(c.payload)
		m.Format, m.DeviceID = c.format, "d"
		var readings []mesh.Reading
		var decoder jsontext.Decoder
		bare := cpu(t, func() { scan(t, &decoder, m.Payload) })
		took := cpu(t, func() { readings, _, _ = p.Parse(nil, m) })
		if took > 40*bare+100*time.Millisecond {
			t.Errorf("%s: %s for %d bytes, which are scanned in %s: %.300s", c.format, took, len(c.payload), bare, c.payload)
		}
		size := 0
		for i := range readings {
			size += len(mesh.EncodeReadings(readings[i : i+1]))
		}
		if size > 20<<20 {
			t.Errorf("%s: %d bytes of readings of %d bytes: %.300s", c.format, size, len(c.payload), c.payload)
		}
	}
}

// cpu gives the CPU time that this thread spends in do.
func cpu(t *testing.T, do func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	spent := func() time.Duration {
		const thread = 1 // RUSAGE_THREAD, getrusage(2)
		var u syscall.Rusage
		if err := syscall.Getrusage(thread, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	began := spent()
	do()
	return spent() - began
}
