package mesh

import (
	"strings"
	"unsafe"
)

// Entry is a reading as it stands in the data of an event, for a step that
// looks at who and when and adds members: the text is handed on, not taken
// apart and put together again.
type Entry struct {
	DeviceID          string
	ObservedAt        Instant
	TenantID          string
	AssignmentVersion int64
	text              string // the object without its closing brace
	bare              int    // length of text without the tenancy, which comes last
}

// Size is about how many bytes the reading takes in an event.
func (e *Entry) Size() int { return len(e.text) }

// DecodeEntries reads what DecodeReadings reads. It does not look at the
// members between: what is broken there is found by who reads them. The
// entries share data, which must not change while they are in use.
func DecodeEntries(data []byte) ([]Entry, error) {
	p := scan{s: unsafe.String(unsafe.SliceData(data), len(data))}
	out := make([]Entry, 0, len(data)/256)
	var same sameInstant
	p.list(`"readings"`, func() {
		out = append(out, Entry{})
		p.entry(&out[len(out)-1], &same)
	})
	if p.ok {
		return out, nil
	}
	readings, err := decodeGeneral(data)
	if err != nil {
		return nil, err
	}
	out = make([]Entry, len(readings))
	for i := range readings {
		r := &readings[i].Reading
		e := &out[i]
		e.DeviceID, e.ObservedAt, e.TenantID, e.AssignmentVersion = r.DeviceID, r.ObservedAt, r.TenantID, r.AssignmentVersion
		b := r.appendBare(nil, &lastInstants{})
		e.bare = len(b)
		e.text = string(r.appendTenancy(b))
	}
	return out, nil
}

// entry consumes one element. It relies on what appendJSON keeps: an element
// is a line, and a quote inside of a string is escaped, so that a member's
// name with its quotes is found nowhere but as a member, unless in attributes.
func (p *scan) entry(e *Entry, same *sameInstant) {
	const observed, attributes, tenant, version = `,"observed_at":"`, `,"attributes":`, `,"tenant_id":"`, `,"assignment_version":`
	end := strings.IndexByte(p.s, '\n')
	if end < 0 {
		p.ok = false
		return
	}
	line := p.s[:end]
	rest := p.s[end:]
	if strings.HasSuffix(line, ",") {
		line, rest = line[:len(line)-1], p.s[end-1:]
	}
	in := scan{s: line, ok: true}
	in.must(`{"reading_id":"`)
	in.str()
	in.must(`,"device_id":"`)
	e.DeviceID = in.str()
	at := strings.Index(in.s, observed)
	if at < 0 || !strings.HasSuffix(line, "}") {
		p.ok = false
		return
	}
	in.s = in.s[at+len(observed):]
	e.ObservedAt = in.instant(same)
	if at := strings.Index(in.s, attributes); at >= 0 {
		in.s = in.s[at+len(attributes):]
		in.value()
	}
	e.text = line[:len(line)-1]
	e.bare = len(e.text)
	if at := strings.Index(in.s, tenant); at >= 0 {
		e.bare = len(line) - len(in.s) + at
		in.s = in.s[at+len(tenant):]
		e.TenantID = in.str()
		if in.lit(version) {
			e.AssignmentVersion = in.int()
		}
		in.must("}")
	} else if at := strings.Index(in.s, version); at >= 0 {
		e.bare = len(line) - len(in.s) + at
		in.s = in.s[at+len(version):]
		e.AssignmentVersion = in.int()
		in.must("}")
	}
	p.ok = p.ok && in.ok
	p.s = rest
}

// AddTenancy appends e with the given members in place of its tenancy.
func (w *ReadingsWriter) AddTenancy(e *Entry, members []byte) {
	w.add(e.text[:e.bare], members)
}

// AddMembers appends e with the given members added.
func (w *ReadingsWriter) AddMembers(e *Entry, members []byte) {
	w.add(e.text, members)
}

func (w *ReadingsWriter) add(text string, members []byte) {
	w.open()
	w.b = append(w.b, text...)
	w.b = append(w.b, members...)
	w.b = append(w.b, "},"...)
}

// AppendTenancy appends the members that say whose a reading is, nothing where
// no placement ever said so.
func AppendTenancy(b []byte, tenant string, version int64) []byte {
	r := Reading{TenantID: tenant, AssignmentVersion: version}
	return r.appendTenancy(b)
}

// AppendJoin appends the members that a join adds to a reading.
func (r *JoinedReading) AppendJoin(b []byte) []byte {
	b = appendMember(b, `,"building":`, r.Building)
	b = appendMember(b, `,"floor":`, r.Floor)
	b = appendMember(b, `,"room":`, r.Room)
	if r.Persons != nil {
		b = appendInt(b, `,"persons":`, *r.Persons)
	}
	if r.OutsideCO2 != nil {
		b = appendFloat(append(b, `,"outside_co2":`...), *r.OutsideCO2)
	}
	b = appendMember(b, `,"customer_name":`, r.CustomerName)
	if r.LastAction != "" {
		b = appendString(append(b, `,"last_action":`...), r.LastAction)
		b = appendInstant(b, `,"last_action_at":`, r.LastActionAt)
		b = appendFloat(append(b, `,"minutes_since_action":`...), r.MinutesSinceAction())
	}
	if r.JoinVersion != 0 {
		b = appendInt(b, `,"join_version":`, r.JoinVersion)
	}
	return b
}
