package device

import (
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// ngsiLD reads entities of NGSI-LD, normalized, concise or simplified, and
// notifications that hold some:
// https://www.etsi.org/deliver/etsi_gs/CIM/001_099/009/
// An entity is told by its type beside an id that begins with urn:ngsi-ld:, or
// beside any URI and an attribute of NGSI-LD's types.
var ngsiLD = reader{
	format: "ngsi-ld",
	shaped: func(d *document, i int32) bool { return d.ngsi(i) == isLD },
	marks:  []string{"id"},
	read:   (*Parser).readNGSI,
}

// ngsiV2 reads entities of NGSI-v2 and notifications that hold some:
// https://fiware.github.io/specifications/ngsiv2/stable/
// An entity is told by id and type beside attributes that all have a type and a
// value; a notification by its subscriptionId.
var ngsiV2 = reader{
	format: "ngsi-v2",
	shaped: func(d *document, i int32) bool { return d.ngsi(i) == isV2 },
	marks:  []string{"id", "subscriptionId"},
	read:   (*Parser).readNGSI,
}

type ngsiKind uint8

const (
	isNoNGSI ngsiKind = iota
	isLD
	isV2
)

// ngsi tells what of NGSI object i is.
func (d *document) ngsi(i int32) ngsiKind {
	id, kind := d.member(i, "id"), d.member(i, "type")
	if d.is(array, i, "data") && d.is(text, i, "subscriptionId") {
		if kind != 0 && string(d.chars(kind)) == "Notification" {
			return isLD
		}
		return isV2
	}
	if id == 0 || d.kind(id) != text || kind == 0 || d.kind(kind) != text && d.kind(kind) != array {
		return isNoNGSI
	}
	attributes, all := 0, true
	for c := i + 1; c < d.end(i); c = d.end(c) {
		if c == id || c == kind {
			continue
		}
		_, valued := d.find(c, "value")
		_, object := d.find(c, "object")
		told := d.is(text, c, "type")
		if _, known := partsOfLD[string(d.chars(d.member(c, "type")))]; told && known && (valued || object) && d.member(c, "metadata") == 0 &&
			strings.Contains(string(d.chars(id)), ":") {
			return isLD
		}
		attributes++
		all = all && told && valued
	}
	switch {
	case attributes > 0 && all && d.kind(kind) == text:
		return isV2
	case d.hasPrefix(id, urnLD):
		return isLD
	}
	return isNoNGSI
}

const urnLD = "urn:ngsi-ld:"

// partsOfLD are the types of attributes in NGSI-LD; true: it may measure
// something.
var partsOfLD = map[string]bool{
	"Property": true, "ListProperty": false, "GeoProperty": false, "LanguageProperty": false, "VocabProperty": false, "JsonProperty": false,
	"Relationship": false, "ListRelationship": false,
}

// otherParts are the types of attributes in NGSI-v2, and of values in both,
// that measure nothing: places, times, addresses, and what IoT Agents keep of
// commands.
var otherParts = map[string]bool{
	"Relationship": true, "Reference": true, "DateTime": true, "ISO8601": true, "PostalAddress": true, "Address": true,
	"geo:point": true, "geo:line": true, "geo:box": true, "geo:polygon": true, "geo:json": true,
	"Point": true, "LineString": true, "Polygon": true, "MultiPoint": true, "MultiLineString": true, "MultiPolygon": true, "GeometryCollection": true, "Feature": true,
	"command": true, "commandStatus": true, "commandResult": true,
}

// aboutEntity are the members of an entity that the Smart Data Models have for
// what it is, whose and where; names that begin with ref are such, too.
var aboutEntity = map[string]bool{
	"id": true, "type": true, "@context": true, "scope": true, "name": true, "alternateName": true, "description": true,
	"location": true, "address": true, "areaServed": true, "dataProvider": true, "source": true, "owner": true, "seeAlso": true,
	"dateObserved": true, "dateObservedFrom": true, "dateObservedTo": true, "TimeInstant": true, "observedAt": true,
	"dateCreated": true, "dateModified": true, "createdAt": true, "modifiedAt": true, "deletedAt": true, "expiresAt": true,
	"firmwareVersion": true, "hardwareVersion": true, "softwareVersion": true,
}

// fractions are numbers from 0 to 1 in the Smart Data Models
// (https://smartdatamodels.org), with what they are called here. Beyond 1 they
// can only be what the dictionary takes them for.
var fractions = map[string]string{
	"relativeHumidity": "relative_humidity_fraction",
	"batteryLevel":     "device_battery_level",
	"rssi":             "device_rssi_fraction",
}

// readNGSI reads an entity or the entities of a notification, of NGSI-LD and of
// NGSI-v2, a temporal entity too. The metrics are the properties, one of an
// expanded name by what stands behind its last / or #; where an attribute has
// several instances, the datasetId follows the name. The unit is that of the
// unitCode.
//
// The device is the entity's id, which is always there and stays. A refDevice
// may name several devices, or none. The time of a property is its observedAt
// (NGSI-v2: the metadata TimeInstant or observedAt), else the entity's
// dateObserved, dateObservedTo, TimeInstant, observedAt, dateModified or
// modifiedAt, in this order, of an interval its end, else the notification's
// notifiedAt. The entity's type and versions are attributes.
//
// Relationships, places (where a device stood is for its placement to say),
// addresses, names and times measure nothing.
func (p *Parser) readNGSI(i int32) error {
	d := p.doc
	if !d.is(array, i, "data") || !d.is(text, i, "subscriptionId") {
		return p.entity(i, untold)
	}
	notified := untold
	if c := d.member(i, "notifiedAt"); c != 0 {
		var err error
		if notified, err = p.instant(c); err != nil {
			return err
		}
	}
	data := d.member(i, "data")
	for e := data + 1; e < d.end(data); e = d.end(e) {
		if d.kind(e) != object {
			return p.fault(e, "an entity of the notification is %s, not an object", d.kind(e))
		}
		if err := p.entity(e, notified); err != nil {
			return err
		}
	}
	return nil
}

// entity reads entity i, of a notification of that time.
func (p *Parser) entity(i int32, notified mesh.Instant) error {
	d := p.doc
	var times [6]int32
	for at, name := range [...]string{"dateObserved", "dateObservedTo", "TimeInstant", "observedAt", "dateModified", "modifiedAt"} {
		times[at] = d.ngsiValue(d.member(i, name))
	}
	s := series{p: p}
	for c := i + 1; c < d.end(i); c = d.end(c) {
		if err := s.attribute(c, p.text(d.name(c))); err != nil {
			return err
		}
	}
	id, kind := p.scalar(d.member(i, "id")), d.member(i, "type")
	firmware, hardware, software := d.ngsiValue(d.member(i, "firmwareVersion")), d.ngsiValue(d.member(i, "hardwareVersion")), d.ngsiValue(d.member(i, "softwareVersion"))
	return s.put(func() error {
		p.attribute("type", kind)
		p.attribute("firmware_version", firmware)
		p.attribute("hardware_version", hardware)
		p.attribute("software_version", software)
		return p.device(id)
	}, func() error {
		at, err := p.firstTime(times[:]...)
		switch {
		case err != nil:
			return err
		case at != untold:
			p.observed(at)
		case notified != untold:
			p.observed(notified)
		default:
			return p.untimed()
		}
		return nil
	})
}

// ngsiValue gives what attribute c says, 0 for none: its value, which may be a
// JSON-LD one, or itself.
func (d *document) ngsiValue(c int32) int32 {
	for c != 0 && d.kind(c) == object {
		c = d.first(c, "value", "@value")
	}
	return c
}

// attribute adds the value of attribute c.
func (s *series) attribute(c int32, name string) error {
	p, d := s.p, s.p.doc
	if aboutEntity[name] || len(name) > 3 && strings.HasPrefix(name, "ref") && name[3] >= 'A' && name[3] <= 'Z' {
		return nil
	}
	if _, err := p.called(name); err != nil {
		return p.fault(c, "%w", err)
	}
	v := value{node: c, own: name, at: untold}
	unit := ""
	switch d.kind(c) {
	case array:
		if first := c + 1; first < d.end(c) && (d.is(text, first, "type") || d.member(first, "datasetId") != 0) {
			for e := first; e < d.end(c); e = d.end(e) {
				instance := name
				if id := p.scalar(d.member(e, "datasetId")); id != "" {
					instance += "_" + id[strings.LastIndexByte(id, ':')+1:]
				}
				if err := s.attribute(e, instance); err != nil {
					return err
				}
			}
			return nil
		}
	case text:
		if d.hasPrefix(c, urnLD) {
			return nil
		}
	case object:
		kind := string(d.chars(d.member(c, "type")))
		if measures, known := partsOfLD[kind]; known && !measures || otherParts[kind] {
			return nil
		}
		for _, other := range [...]string{"object", "objectList", "languageMap", "vocab", "json", "valueList", "coordinates"} {
			if _, ok := d.find(c, other); ok && kind == "" {
				return nil
			}
		}
		metadata := d.member(c, "metadata")
		if code := p.scalar(d.either(c, metadata, "unitCode")); code != "" {
			unit = unece(code)
		}
		if inner, ok := d.find(c, "value"); ok {
			v.node = inner
			for _, at := range [...]int32{d.either(c, metadata, "observedAt"), d.either(c, metadata, "TimeInstant")} {
				if at == 0 || v.at != untold {
					continue
				}
				var err error
				if v.at, err = p.instant(at); err != nil {
					return err
				}
			}
		} else if kind == "Property" {
			return s.temporal(d.member(c, "values"), name, unit)
		}
		if kind := d.first(v.node, "type", "@type"); d.kind(v.node) == object && kind != 0 && otherParts[string(d.chars(kind))] {
			return nil
		}
	}
	return s.described(v, name, unit)
}

// temporal adds the values of a property over time, pairs of a value and when
// it was observed, which is how temporal entities are simplified; 0 is none.
func (s *series) temporal(values int32, name, unit string) error {
	p, d := s.p, s.p.doc
	if values == 0 || d.kind(values) != array {
		p.skipped++
		return nil
	}
	for pair := values + 1; pair < d.end(values); pair = d.end(pair) {
		node, time := pair+1, int32(0)
		if d.kind(pair) == array && node < d.end(pair) {
			time = d.end(node)
		}
		if time == 0 || time >= d.end(pair) {
			return p.fault(pair, "%s: not a pair of a value and a time", quote(name))
		}
		at, err := p.instant(time)
		if err != nil {
			return err
		}
		if err := s.described(value{node: node, own: name, at: at}, name, unit); err != nil {
			return err
		}
	}
	return nil
}

// described adds a value of the attribute of that name, in that UCUM unit.
func (s *series) described(v value, name, unit string) error {
	s.p.due++
	if short := name[strings.LastIndexAny(name, "/#")+1:]; short != name && short != "" {
		v.as, name = short, short
	}
	v.unit = unit
	if own, ok := fractions[name]; ok && (unit == "" || unit == "1") && s.p.isFraction(v.node) {
		v.own, v.as, v.unit = own, "", "1"
	}
	return s.add(v)
}

// isFraction says whether value c is a number from 0 to 1.
func (p *Parser) isFraction(c int32) bool {
	if p.doc.kind(c) != number {
		return false
	}
	f, _ := parseNumber(p.doc.raw(c))
	return f >= 0 && f <= 1
}

// either gives member name of attribute c, else what its metadata, 0 is none,
// say of it.
func (d *document) either(c, metadata int32, name string) int32 {
	if own := d.member(c, name); own != 0 || metadata == 0 {
		return own
	}
	return d.ngsiValue(d.member(metadata, name))
}
