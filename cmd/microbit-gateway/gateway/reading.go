package gateway

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/spool"
)

// measured is the type of the events.
const measured = "dev.telemesh.microbit.measured.v1"

// reading is a notification as it stands in the spool.
type reading struct {
	Device         string `json:"d"`
	Characteristic string `json:"c"`
	At             int64  `json:"t"` // µs since 1970 by the clock as it was
	Value          []byte `json:"v"`
	// Where the clock was not set: of which boot it is, and how long after its
	// begin, in µs.
	Boot   string `json:"b,omitempty"`
	Uptime int64  `json:"u,omitempty"`
}

func (r reading) record() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings, numbers and bytes
	}
	return b
}

// event makes the CloudEvent of a reading whose At is right: the same each time.
func (r reading) event(source string) event.Event {
	e := event.New()
	e.SetID(mesh.Hash(r.Device, r.Characteristic, strconv.FormatInt(r.At, 10), string(r.Value)))
	e.SetType(measured)
	e.SetSource(source)
	e.SetTime(time.UnixMicro(r.At))
	e.SetExtension("deviceid", r.Device)
	e.SetExtension("characteristic", r.Characteristic)
	e.SetExtension("format", "microbit")
	e.SetDataContentType("application/octet-stream")
	e.DataEncoded, e.DataBase64 = r.Value, true
	return e
}

// line is a frame as microbit.Record writes it, with why it is not sent. One whose
// time nobody knows has none, so that no replay sends it with a wrong one.
func (r reading) line(cause string) ([]byte, error) {
	line := struct {
		Device         string     `json:"device"`
		Characteristic string     `json:"characteristic"`
		At             *time.Time `json:"at,omitempty"`
		Value          string     `json:"value"`
		Cause          string     `json:"cause"`
		Boot           string     `json:"boot,omitempty"` // which start of the machine
		Uptime         string     `json:"uptime,omitempty"`
	}{Device: r.Device, Characteristic: r.Characteristic, Value: hex.EncodeToString(r.Value), Cause: cause}
	if r.Boot == "" {
		at := time.UnixMicro(r.At).UTC()
		line.At = &at
	} else {
		line.Boot, line.Uptime = r.Boot, (time.Duration(r.Uptime) * time.Microsecond).String()
	}
	b, err := json.Marshal(line)
	return append(b, '\n'), err
}

// outgoing is a reading on its way.
type outgoing struct {
	record  spool.Record
	reading reading
	event   []byte // in the JSON format
}

// body is a batch of CloudEvents:
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md#4-json-batch-format
func body(batch []outgoing) []byte {
	events := make([][]byte, len(batch))
	for i, o := range batch {
		events[i] = o.event
	}
	return slices.Concat([]byte("["), bytes.Join(events, []byte(",")), []byte("]"))
}
