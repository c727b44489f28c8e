package mesh

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Kind says which of a reading's values counts.
type Kind uint8

const (
	Number  Kind = iota // Value; ValueString too where a float64 cannot hold the number exactly
	Boolean             // Value, 0 or 1
	Text                // ValueString
)

// Reading is one metric of one device at one instant: a row.
type Reading struct {
	ReadingID   string // ReadingID(DeviceID, Metric, ObservedAt)
	DeviceID    string
	Metric      string
	Kind        Kind
	Value       float64 // finite
	ValueString string
	Unit        string  // UCUM code; empty: not known
	ObservedAt  Instant // when the device measured
	ReceivedAt  Instant // when Telemesh first saw the message
	EventSource string  // source and id of the message it came in
	EventID     string
	Quality     string // QualityOK or a flag
	Judged      int64  // what knew more has a higher one; 0: as its message says it, nobody looked at its neighbours
	Revision    int64  // 0 as measured; a correction counts up
	Attributes  string // JSON object; empty: none

	TenantID          string // who held the device at ObservedAt; empty: nobody
	AssignmentVersion int64  // version of the placements (ExtVersion) that decided it; 0: nothing ever did
}

// Quality flags. A suspect reading is kept as it is: the flag says by which rule
// it is doubted. The first three are said by the message alone, the others by what
// the device measured before and after.
const (
	QualityOK     = ""
	QualityNoTime = "no_time" // the message had no time: ObservedAt is ReceivedAt

	SuspectUnit     = "suspect:unit_mismatch"      // its unit is none of the metric that its name says
	SuspectRange    = "suspect:out_of_range"       // beyond what the metric can be
	SuspectClock    = "suspect:clock_skew"         // measured after it was received
	SuspectStuck    = "suspect:stuck"              // the value stands still for longer than it can
	SuspectSpike    = "suspect:spike"              // far from all around it, before and after
	SuspectIdentity = "suspect:duplicate_identity" // two devices take turns under one name
)

// EncodeReadings gives the data of telemetry.flattened, telemetry.enriched
// and telemetry.unassigned: {"readings":[…]}, members named as the columns of
// iot_telemetry.readings. Members that are empty or zero are left out.
func EncodeReadings(readings []Reading) []byte {
	var w ReadingsWriter
	w.Grow(32 + 384*len(readings))
	for i := range readings {
		w.Add(&readings[i])
	}
	return w.Data()
}

// appendJSON appends the object of r without its closing brace, in one line.
// The tenancy comes last, what a join adds after it: each step appends to what
// it got.
func (r *Reading) appendJSON(b []byte, last *lastInstants) []byte {
	return r.appendTenancy(r.appendBare(b, last))
}

func (r *Reading) appendBare(b []byte, last *lastInstants) []byte {
	b = append(b, `{"reading_id":`...)
	b = appendString(b, r.ReadingID)
	b = appendString(append(b, `,"device_id":`...), r.DeviceID)
	b = appendString(append(b, `,"metric":`...), r.Metric)
	switch r.Kind {
	case Number:
		b = appendFloat(append(b, `,"value":`...), r.Value)
	case Boolean:
		if r.Value != 0 {
			b = append(b, `,"value":1,"value_bool":true`...)
		} else {
			b = append(b, `,"value":0,"value_bool":false`...)
		}
	}
	if r.Kind == Text || r.ValueString != "" {
		b = appendString(append(b, `,"value_string":`...), r.ValueString)
	}
	b = appendMember(b, `,"unit":`, r.Unit)
	b = last.observed.append(b, `,"observed_at":`, r.ObservedAt)
	b = last.received.append(b, `,"received_at":`, r.ReceivedAt)
	b = appendMember(b, `,"event_source":`, r.EventSource)
	b = appendMember(b, `,"event_id":`, r.EventID)
	b = appendMember(b, `,"quality":`, r.Quality)
	if r.Judged != 0 {
		b = appendInt(b, `,"judged":`, r.Judged)
	}
	if r.Revision != 0 {
		b = appendInt(b, `,"revision":`, r.Revision)
	}
	if r.Attributes != "" {
		b = append(b, `,"attributes":`...)
		from := len(b)
		b = append(b, r.Attributes...)
		if strings.IndexByte(r.Attributes, '\n') >= 0 { // white space: no JSON string holds one
			for i := from; i < len(b); i++ {
				if b[i] == '\n' {
					b[i] = ' '
				}
			}
		}
	}
	return b
}

func (r *Reading) appendTenancy(b []byte) []byte {
	if r.TenantID != "" {
		b = appendString(append(b, `,"tenant_id":`...), r.TenantID)
	}
	if r.AssignmentVersion != 0 {
		b = appendInt(b, `,"assignment_version":`, r.AssignmentVersion)
	}
	return b
}

func (p *scan) reading(r *Reading, same *sameInstants) {
	p.must(`{"reading_id":"`)
	r.ReadingID = p.str()
	p.must(`,"device_id":"`)
	r.DeviceID = p.str()
	p.must(`,"metric":"`)
	r.Metric = p.str()
	r.Kind = Text
	if p.lit(`,"value":`) {
		r.Kind = Number
		r.Value = p.float()
		if p.lit(`,"value_bool":true`) || p.lit(`,"value_bool":false`) {
			r.Kind = Boolean
		}
	}
	if p.lit(`,"value_string":"`) {
		r.ValueString = p.str()
	}
	if p.lit(`,"unit":"`) {
		r.Unit = p.str()
	}
	p.must(`,"observed_at":"`)
	r.ObservedAt = p.instant(&same.observed)
	p.must(`,"received_at":"`)
	r.ReceivedAt = p.instant(&same.received)
	if p.lit(`,"event_source":"`) {
		r.EventSource = p.str()
	}
	if p.lit(`,"event_id":"`) {
		r.EventID = p.str()
	}
	if p.lit(`,"quality":"`) {
		r.Quality = p.str()
	}
	if p.lit(`,"judged":`) {
		r.Judged = p.int()
	}
	if p.lit(`,"revision":`) {
		r.Revision = p.int()
	}
	if p.lit(`,"attributes":`) {
		r.Attributes = p.value()
	}
	if p.lit(`,"tenant_id":"`) {
		r.TenantID = p.str()
	}
	if p.lit(`,"assignment_version":`) {
		r.AssignmentVersion = p.int()
	}
}

type sameInstants struct{ observed, received, action sameInstant }

// DecodeReadings reads what EncodeReadings writes, and the same members in
// any order and spacing.
func DecodeReadings(data []byte) ([]Reading, error) {
	p := scan{s: string(data)}
	out := make([]Reading, 0, len(data)/256)
	var same sameInstants
	p.list(`"readings"`, func() {
		out = append(out, Reading{})
		p.reading(&out[len(out)-1], &same)
		p.must("}")
	})
	if p.ok {
		return out, nil
	}
	joined, err := decodeGeneral(data)
	if err != nil {
		return nil, err
	}
	out = out[:0]
	for i := range joined {
		out = append(out, joined[i].Reading)
	}
	return out, nil
}

// JoinedReading is a reading with its place, customer and last action.
type JoinedReading struct {
	Reading
	Building     string
	Floor        string
	Room         string
	Persons      *int64   // nil: not known
	OutsideCO2   *float64 // ppm; nil: not known
	CustomerName string
	LastAction   string  // empty: none before the reading
	LastActionAt Instant // when it was taken; meaningful with LastAction

	// JoinVersion is the version of the placements, actions and customers together
	// (ExtVersion) that the join knew.
	JoinVersion int64
}

// MinutesSinceAction is the time from the last action to the reading.
func (r *JoinedReading) MinutesSinceAction() float64 {
	return float64(r.ObservedAt-r.LastActionAt) / 60e6
}

// EncodeJoined gives the data of analytics.joined: {"readings":[…]}, members
// named as the columns of iot_analytics.readings.
func EncodeJoined(readings []JoinedReading) []byte {
	var w ReadingsWriter
	w.Grow(32 + 512*len(readings))
	for i := range readings {
		w.AddJoined(&readings[i])
	}
	return w.Data()
}

func (r *JoinedReading) appendJSON(b []byte, last *lastInstants) []byte {
	return r.AppendJoin(r.Reading.appendJSON(b, last))
}

// DecodeJoined reads what EncodeJoined writes, and the same members in any
// order and spacing.
func DecodeJoined(data []byte) ([]JoinedReading, error) {
	p := scan{s: string(data)}
	out := make([]JoinedReading, 0, len(data)/384)
	var same sameInstants
	p.list(`"readings"`, func() {
		out = append(out, JoinedReading{})
		p.joined(&out[len(out)-1], &same)
		p.must("}")
	})
	if p.ok {
		return out, nil
	}
	return decodeGeneral(data)
}

func (p *scan) joined(r *JoinedReading, same *sameInstants) {
	p.reading(&r.Reading, same)
	if p.lit(`,"building":"`) {
		r.Building = p.str()
	}
	if p.lit(`,"floor":"`) {
		r.Floor = p.str()
	}
	if p.lit(`,"room":"`) {
		r.Room = p.str()
	}
	if p.lit(`,"persons":`) {
		n := p.int()
		r.Persons = &n
	}
	if p.lit(`,"outside_co2":`) {
		f := p.float()
		r.OutsideCO2 = &f
	}
	if p.lit(`,"customer_name":"`) {
		r.CustomerName = p.str()
	}
	if p.lit(`,"last_action":"`) {
		r.LastAction = p.str()
		p.must(`,"last_action_at":"`)
		r.LastActionAt = p.instant(&same.action)
		if p.lit(`,"minutes_since_action":`) {
			p.float()
		}
	}
	if p.lit(`,"join_version":`) {
		r.JoinVersion = p.int()
	}
}

// jsonReading is a reading, joined or not, in any form of JSON.
type jsonReading struct {
	ReadingID         string         `json:"reading_id"`
	DeviceID          string         `json:"device_id"`
	Metric            string         `json:"metric"`
	Value             *float64       `json:"value"`
	ValueBool         *bool          `json:"value_bool"`
	ValueString       *string        `json:"value_string"`
	Unit              string         `json:"unit"`
	ObservedAt        *Instant       `json:"observed_at"`
	ReceivedAt        *Instant       `json:"received_at"`
	EventSource       string         `json:"event_source"`
	EventID           string         `json:"event_id"`
	Quality           string         `json:"quality"`
	Judged            int64          `json:"judged"`
	Revision          int64          `json:"revision"`
	Attributes        jsontext.Value `json:"attributes"`
	TenantID          string         `json:"tenant_id"`
	AssignmentVersion int64          `json:"assignment_version"`
	Building          string         `json:"building"`
	Floor             string         `json:"floor"`
	Room              string         `json:"room"`
	Persons           *int64         `json:"persons"`
	OutsideCO2        *float64       `json:"outside_co2"`
	CustomerName      string         `json:"customer_name"`
	LastAction        string         `json:"last_action"`
	LastActionAt      *Instant       `json:"last_action_at"`
	JoinVersion       int64          `json:"join_version"`
}

// decodeGeneral reads readings in any form of JSON. A member that stands twice
// is an error: two readers might take different ones.
func decodeGeneral(data []byte) ([]JoinedReading, error) {
	var general struct {
		Readings *[]jsonReading `json:"readings"`
	}
	if err := json.Unmarshal(data, &general); err != nil {
		return nil, fmt.Errorf("decode readings: %w", err)
	}
	if general.Readings == nil {
		return nil, fmt.Errorf(`decode readings: no member "readings"`)
	}
	out := make([]JoinedReading, len(*general.Readings))
	for i := range *general.Readings {
		var err error
		if out[i], err = (*general.Readings)[i].joined(); err != nil {
			return nil, fmt.Errorf("decode readings: reading %d: %w", i, err)
		}
	}
	return out, nil
}

// reading checks what every row needs; the id may be left out, since it
// follows from the rest.
func (j *jsonReading) reading() (Reading, error) {
	r := Reading{
		ReadingID: j.ReadingID, DeviceID: j.DeviceID, Metric: j.Metric, Unit: j.Unit,
		EventSource: j.EventSource, EventID: j.EventID, Quality: j.Quality, Judged: j.Judged, Revision: j.Revision,
		TenantID: j.TenantID, AssignmentVersion: j.AssignmentVersion,
	}
	switch {
	case r.DeviceID == "":
		return r, fmt.Errorf("no device_id")
	case r.Metric == "":
		return r, fmt.Errorf("device %q: no metric", r.DeviceID)
	case j.ObservedAt == nil:
		return r, fmt.Errorf("device %q, metric %q: no observed_at", r.DeviceID, r.Metric)
	case j.ReceivedAt == nil:
		return r, fmt.Errorf("device %q, metric %q: no received_at", r.DeviceID, r.Metric)
	}
	r.ObservedAt, r.ReceivedAt = *j.ObservedAt, *j.ReceivedAt
	if j.ValueString != nil {
		r.ValueString = *j.ValueString
	}
	switch {
	case j.ValueBool != nil:
		r.Kind = Boolean
		if *j.ValueBool {
			r.Value = 1
		}
	case j.Value != nil:
		r.Value = *j.Value
	case j.ValueString != nil:
		r.Kind = Text
	default:
		return r, fmt.Errorf("device %q, metric %q: no value", r.DeviceID, r.Metric)
	}
	if len(j.Attributes) > 0 && string(j.Attributes) != "null" {
		r.Attributes = string(j.Attributes)
	}
	if r.ReadingID == "" {
		r.ReadingID = ReadingID(r.DeviceID, r.Metric, r.ObservedAt)
	}
	return r, nil
}

func (j *jsonReading) joined() (JoinedReading, error) {
	r, err := j.reading()
	if err != nil {
		return JoinedReading{}, err
	}
	out := JoinedReading{
		Reading: r, Building: j.Building, Floor: j.Floor, Room: j.Room, Persons: j.Persons,
		OutsideCO2: j.OutsideCO2, CustomerName: j.CustomerName, JoinVersion: j.JoinVersion,
	}
	if j.LastAction != "" {
		if j.LastActionAt == nil {
			return out, fmt.Errorf("last_action without last_action_at")
		}
		out.LastAction, out.LastActionAt = j.LastAction, *j.LastActionAt
	}
	return out, nil
}
