package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/klauspost/compress/s2"
)

// A frame is an event as the store holds it. It is not the JSON format of
// CloudEvents since that would have to read and write all of the data, which
// is most of the bytes:
//
//	kind byte, TTL, number of attributes, (name, value)…, data
//
// Numbers are varints, texts are preceded by their length. The attributes
// have the string form that they have on the wire (CloudEvents 1.0.2, 3.1),
// as they would after a hop through a cluster.
const (
	framePlain = 1 + iota
	frameS2    // data is an S2 block
)

// compressFrom is the size from which data is compressed: micro-batches shrink
// to a tenth for less than it costs to write and read what is saved. Small
// events fit into one write as they are.
const compressFrom = 2048

// frame puts e into a frame.
func frame(e *event.Event, ttl int32, arrived time.Time) ([]byte, error) {
	const attributes = 512 // is room for most
	kind, data := byte(framePlain), e.DataEncoded
	if len(data) >= compressFrom {
		// Room for the worst case is ten times what is needed: have it once.
		room := scratch.Get().(*[]byte)
		defer scratch.Put(room)
		if most := s2.MaxEncodedLen(len(data)); cap(*room) < most {
			*room = make([]byte, most)
		}
		kind, data = frameS2, s2.Encode((*room)[:cap(*room)], data)
	}
	b := append(make([]byte, 0, attributes+len(data)), kind)
	b = binary.AppendUvarint(b, uint64(ttl))

	extensions := e.Extensions()
	const required, optional = 5, 4
	pairs := make([]string, 0, 2*(required+optional+len(extensions)))
	add := func(name, value string) { pairs = append(pairs, name, value) }
	add("specversion", e.SpecVersion())
	add("id", e.ID())
	add("source", e.Source())
	add("type", e.Type())
	if v := e.DataContentType(); v != "" {
		add("datacontenttype", v)
	}
	if v := e.DataSchema(); v != "" {
		add("dataschema", v)
	}
	if v := e.Subject(); v != "" {
		add("subject", v)
	}
	if v := e.Time(); !v.IsZero() {
		add("time", types.FormatTime(v))
	}
	add(extArrival, types.FormatTime(arrived))
	for name, value := range extensions {
		if name == extTTL || name == extArrival {
			continue
		}
		s, ok := value.(string)
		if !ok {
			var err error
			if s, err = types.Format(value); err != nil {
				return nil, fmt.Errorf("extension %q: %w", name, err)
			}
		}
		add(name, s)
	}
	b = binary.AppendUvarint(b, uint64(len(pairs)))
	for _, s := range pairs {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return append(b, data...), nil
}

var scratch = sync.Pool{New: func() any { return new([]byte) }}

var errFrame = errors.New("no frame of an event: the store is damaged, or of another version")

// parts are those of a frame, and hold it.
type parts struct {
	ttl        int32
	texts      uint64 // how many names and values there are
	attributes []byte // these, each after its length
	data       []byte // an S2 block if packed
	packed     bool
}

func partsOf(b []byte) (p parts, err error) {
	if len(b) == 0 || b[0] != framePlain && b[0] != frameS2 {
		return p, errFrame
	}
	rest := b[1:]
	number := func() uint64 {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			err, rest = errFrame, nil
			return 0
		}
		rest = rest[n:]
		return v
	}
	p.packed = b[0] == frameS2
	p.ttl = int32(number())
	p.texts = number()
	if p.texts < 2 || p.texts > uint64(len(rest)) || p.texts%2 == 1 {
		return p, errFrame
	}
	p.attributes = rest
	for range p.texts {
		n := number()
		if n > uint64(len(rest)) {
			return p, errFrame
		}
		rest = rest[n:]
	}
	p.data = rest
	p.attributes = p.attributes[:len(p.attributes)-len(rest)]
	return p, err
}

// readFrame gives the event of a frame and its TTL.
func readFrame(b []byte) (e event.Event, ttl int32, err error) {
	p, err := partsOf(b)
	if err != nil {
		return e, 0, err
	}
	// One copy for all attributes: they are short and live as long as each other.
	attributes := string(p.attributes)
	text := func() string { // partsOf has read every length before
		length, n := binary.Uvarint(p.attributes)
		end := n + int(length)
		s := attributes[n:end]
		p.attributes, attributes = p.attributes[end:], attributes[end:]
		return s
	}
	if text(); text() == event.CloudEventsVersionV03 {
		e = event.New(event.CloudEventsVersionV03)
	} else {
		e = event.New()
	}
	for range p.texts/2 - 1 {
		switch name, value := text(), text(); name {
		case "id":
			e.SetID(value)
		case "source":
			e.SetSource(value)
		case "type":
			e.SetType(value)
		case "datacontenttype":
			e.SetDataContentType(value)
		case "dataschema":
			e.SetDataSchema(value)
		case "subject":
			e.SetSubject(value)
		case "time":
			at, failed := types.ParseTime(value)
			if failed != nil {
				return e, 0, errFrame
			}
			e.SetTime(at)
		default:
			e.SetExtension(name, value)
		}
	}
	switch {
	case p.packed:
		if e.DataEncoded, err = s2.Decode(nil, p.data); err != nil {
			return e, 0, fmt.Errorf("%w: %w", errFrame, err)
		}
	case len(p.data) > 0:
		e.DataEncoded = bytes.Clone(p.data)
	}
	return e, p.ttl, nil
}

// weight is what an event in a frame takes in memory while it is delivered:
// the frame, and its data unpacked.
func weight(frame []byte) int64 {
	size := int64(len(frame))
	p, err := partsOf(frame)
	if err != nil {
		return size
	}
	if !p.packed {
		return size + int64(len(p.data))
	}
	unpacked, err := s2.DecodedLen(p.data)
	if err != nil {
		return size
	}
	return size + int64(unpacked)
}
