package device

import (
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// sensorThings reads Observations of the OGC SensorThings API, one by one as a
// server publishes them over MQTT or takes them over HTTP, lists of them, and
// data arrays: https://docs.ogc.org/is/18-088/18-088.html
// They are told by their topic, …/Datastreams(ID)/Observations, or by a result
// beside a phenomenonTime or a Datastream.
var sensorThings = reader{
	format: "sensorthings",
	sent: func(m *mesh.Message) bool {
		topic, _, _ := strings.Cut(m.Attributes[topic], "?")
		return strings.HasSuffix(topic, "/Observations") && (datastreamIn(topic) != "" || strings.Contains("/"+topic, "/v1."))
	},
	shaped: func(d *document, i int32) bool {
		if list := d.member(i, "value"); list != 0 {
			return d.kind(list) == array && d.end(list) > list+1 && d.observation(list+1)
		}
		return d.observation(i)
	},
	marks: []string{"result", "value", "dataArray"},
	read:  (*Parser).readSensorThings,
}

// observation tells an Observation and a data array of some.
func (d *document) observation(i int32) bool {
	if d.is(array, i, "dataArray") {
		return d.is(array, i, "components")
	}
	if _, ok := d.find(i, "result"); !ok {
		return false
	}
	return d.member(i, "phenomenonTime") != 0 || d.first(i, datastreams[:]...) != 0
}

// datastreams are the members by which an Observation names its Datastream.
var datastreams = [...]string{
	"Datastream", "MultiDatastream", "Datastream@iot.navigationLink", "MultiDatastream@iot.navigationLink",
}

// readSensorThings reads an Observation, or several. Its metric is the name of
// the Datastream's ObservedProperty, else that of the Datastream, else result.
// The device is the Thing of the Datastream, by its name, else by its id, as
// Things(ID); else the one that the transport names; else all that is known is
// the Datastream, as Datastreams(ID). The time is the phenomenonTime, of an
// interval its end, else the resultTime. The unit is the Datastream's
// unitOfMeasurement.
func (p *Parser) readSensorThings(i int32) error {
	d := p.doc
	list := d.member(i, "value")
	if list == 0 || d.kind(list) != array {
		return p.observations(i)
	}
	for e := list + 1; e < d.end(list); e = d.end(e) {
		if d.kind(e) != object {
			return p.fault(e, "an Observation is %s, not an object", d.kind(e))
		}
		if err := p.observations(e); err != nil {
			return err
		}
	}
	return nil
}

// observations reads Observation or data array i, each as an object of its own.
func (p *Parser) observations(i int32) error {
	d := p.doc
	s, err := p.datastream(i)
	if err != nil {
		return err
	}
	rows := d.member(i, "dataArray")
	if rows == 0 {
		result, ok := d.find(i, "result")
		if !ok {
			return p.fault(i, "an Observation without a result")
		}
		return p.observation(s, result, d.member(i, "phenomenonTime"), d.member(i, "resultTime"))
	}
	components := d.member(i, "components")
	if components == 0 || d.kind(components) != array || d.kind(rows) != array {
		return p.fault(rows, `a dataArray has to be an array, and to have an array "components" beside it`)
	}
	at := [3]int{-1, -1, -1} // of result, phenomenonTime and resultTime in a row
	n := 0
	for c := components + 1; c < d.end(components); c = d.end(c) {
		switch string(d.chars(c)) {
		case "result":
			at[0] = n
		case "phenomenonTime":
			at[1] = n
		case "resultTime":
			at[2] = n
		}
		n++
	}
	if at[0] < 0 {
		return p.fault(components, "a dataArray without results")
	}
	for row := rows + 1; row < d.end(rows); row = d.end(row) {
		var cells [3]int32
		n := 0
		for c := row + 1; d.kind(row) == array && c < d.end(row); c = d.end(c) {
			for k := range at {
				if at[k] == n && (k == 0 || d.kind(c) != null) {
					cells[k] = c
				}
			}
			n++
		}
		if cells[0] == 0 {
			return p.fault(row, "a row of the dataArray has no result")
		}
		if err := p.observation(s, cells[0], cells[1], cells[2]); err != nil {
			return err
		}
	}
	return nil
}

// datastream is what Observations have in common.
type datastream struct{ device, metric, unit string }

// observation reads a result.
func (p *Parser) observation(s datastream, result, phenomenon, resulted int32) error {
	p.due++
	if err := p.device(s.device); err != nil {
		return err
	}
	if err := p.ended(phenomenon, resulted); err != nil {
		return err
	}
	if err := p.put(result, s.metric, "", s.unit); err != nil {
		return err
	}
	p.finish()
	p.begin()
	return nil
}

// datastream reads of which Datastream an Observation or a data array is.
func (p *Parser) datastream(of int32) (datastream, error) {
	d := p.doc
	s := datastream{device: datastreamIn(p.m.Attributes[topic]), metric: "result"}
	if link := datastreamIn(p.scalar(d.first(of, datastreams[2:]...))); link != "" {
		s.device = link
	}
	kind := "Datastreams"
	stream := d.member(of, "Datastream")
	if stream == 0 {
		kind = "MultiDatastreams"
		stream = d.member(of, "MultiDatastream")
	}
	if stream != 0 {
		if id := d.member(stream, "@iot.id"); id != 0 {
			s.device = kind + key(d, id)
		}
		for _, c := range [...]int32{d.member(stream, "name"), d.at(stream, "ObservedProperty", "name")} {
			if name := p.scalar(c); name != "" {
				s.metric = name
			}
		}
		s.unit = p.measuredIn(d.member(stream, "unitOfMeasurement"))
		if thing := d.member(stream, "Thing"); thing != 0 {
			if name := p.scalar(d.member(thing, "name")); name != "" {
				s.device = name
				return s, nil
			}
			if id := d.member(thing, "@iot.id"); id != 0 {
				s.device = "Things" + key(d, id)
				return s, nil
			}
		}
	}
	switch told := p.m.DeviceID + p.m.Attributes["deviceId"]; {
	case told != "":
		s.device = ""
	case s.device == "":
		return s, p.fault(of, "no device: nothing says of which Datastream the Observation is; subscribe to …/Datastreams(ID)/Observations, or expand the Datastream")
	}
	return s, nil
}

// key writes an entity's id as it stands in links to it.
func key(d *document, id int32) string {
	if d.kind(id) == text {
		return "('" + string(d.chars(id)) + "')"
	}
	return "(" + string(d.raw(id)) + ")"
}

// datastreamIn gives the part of a topic or link that names a Datastream.
func datastreamIn(link string) string {
	for part := range strings.SplitSeq(link, "/") {
		if rest, ok := strings.CutPrefix(strings.TrimPrefix(part, "Multi"), "Datastreams("); ok && strings.HasSuffix(rest, ")") {
			return part
		}
	}
	return ""
}

// measuredIn gives the UCUM code of a unitOfMeasurement, 0 is none: that of its
// definition, if it is one of UCUM, else that of its symbol.
func (p *Parser) measuredIn(unit int32) string {
	d := p.doc
	if unit == 0 || d.kind(unit) != object {
		return ""
	}
	if code, ok := strings.CutPrefix(p.scalar(d.member(unit, "definition")), "ucum:"); ok && code != "" && len(code) <= maxUnit {
		return code
	}
	return toldUnit(p.scalar(d.member(unit, "symbol")))
}
