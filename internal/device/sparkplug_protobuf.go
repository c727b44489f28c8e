package device

import (
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/telemesh/telemesh/internal/mesh"
)

// fieldsOf calls do for each field of a protobuf message that begins at byte
// at: with the value of a varint or fixed one, or the bytes of others.
func fieldsOf(b []byte, at int, do func(n protowire.Number, t protowire.Type, v uint64, bytes []byte, at int) error) error {
	for len(b) > 0 {
		n, t, length := protowire.ConsumeTag(b)
		if length < 0 {
			return fault(at, "no Sparkplug payload: %s", cause(length))
		}
		b, at = b[length:], at+length
		var v uint64
		var content []byte
		inside := at
		switch t {
		case protowire.VarintType:
			v, length = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var short uint32
			short, length = protowire.ConsumeFixed32(b)
			v = uint64(short)
		case protowire.Fixed64Type:
			v, length = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			content, length = protowire.ConsumeBytes(b)
			inside += length - len(content)
		default:
			length = protowire.ConsumeFieldValue(n, t, b)
		}
		if length < 0 {
			return fault(at, "no Sparkplug payload: %s", cause(length))
		}
		if err := do(n, t, v, content, inside); err != nil {
			return err
		}
		b, at = b[length:], at+length
	}
	return nil
}

func cause(length int) error {
	err := protowire.ParseError(length)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends within a field")
	}
	return err
}

// decodeB decodes a payload. The fields are those of sparkplug_b.proto, with
// their wire types: a field of another type is none that is known. name makes
// strings of names and units.
// https://github.com/eclipse-tahu/tahu/blob/master/sparkplug_b/sparkplug_b.proto
func decodeB(b []byte, name func([]byte) string) (out payloadB, err error) {
	out.seq = -1
	err = fieldsOf(b, 0, func(n protowire.Number, t protowire.Type, v uint64, content []byte, at int) error {
		switch {
		case n == 1 && t == protowire.VarintType:
			out.time, out.timed, err = millis(v)
			return placed(at, err)
		case n == 2 && t == protowire.BytesType:
			if len(out.metrics) == maxReadings {
				return fault(at, "more than %d metrics", maxReadings)
			}
			out.metrics = append(out.metrics, metricB{})
			return decodeMetric(&out.metrics[len(out.metrics)-1], content, at, name)
		case n == 3 && t == protowire.VarintType && v < 256:
			out.seq = int(v)
		}
		return nil
	})
	return out, err
}

func placed(at int, err error) error {
	if err != nil {
		return fault(at, "%w", err)
	}
	return nil
}

// millis gives a timestamp; 0 is that of a clock that is not set.
func millis(v uint64) (at mesh.Instant, set bool, err error) {
	at = mesh.Instant(v) * 1000
	if v > math.MaxInt64/1000 || !InRange(at) {
		return 0, false, fmt.Errorf("timestamp %d is not in the years 1970 to 2261", v)
	}
	return at, v != 0, nil
}

func decodeMetric(m *metricB, b []byte, at int, name func([]byte) string) error {
	m.at, m.quality = at, goodQuality
	return fieldsOf(b, at, func(n protowire.Number, t protowire.Type, v uint64, content []byte, at int) (err error) {
		varint, fixed32, fixed64, packed := t == protowire.VarintType, t == protowire.Fixed32Type, t == protowire.Fixed64Type, t == protowire.BytesType
		switch {
		case n == 1 && packed:
			if !utf8.Valid(content) {
				return fault(at, "the name %s is no UTF-8", quote(content))
			}
			m.name = name(content)
		case n == 2 && varint:
			m.alias, m.aliased = v, true
		case n == 3 && varint:
			m.time, m.timed, err = millis(v)
			return placed(at, err)
		case n == 4 && varint:
			m.datatype = v
		case n == 6 && varint:
			m.transient = v != 0
		case n == 7 && varint:
			m.null = v != 0
		case n == 9 && packed:
			return decodeProperties(m, content, at, name)
		case n == 10 && varint:
			m.kind, m.bits = intValue, v
		case n == 11 && varint:
			m.kind, m.bits = longValue, v
		case n == 12 && fixed32:
			m.kind, m.bits = floatValue, v
		case n == 13 && fixed64:
			m.kind, m.bits = doubleValue, v
		case n == 14 && varint:
			m.kind, m.bits = booleanValue, v
		case n == 15 && packed:
			if !utf8.Valid(content) {
				return fault(at, "a string value is no UTF-8")
			}
			m.kind, m.text = stringValue, content
		case n >= 16 && n <= 19 && packed:
			m.kind = otherValue
		}
		return nil
	})
}

// decodeProperties takes unit and quality from a property set: keys, and their
// values in the same order.
func decodeProperties(m *metricB, b []byte, at int, name func([]byte) string) error {
	unit, quality := -1, -1
	keys, values := 0, 0
	err := fieldsOf(b, at, func(n protowire.Number, t protowire.Type, _ uint64, content []byte, _ int) error {
		if n == 1 && t == protowire.BytesType {
			switch {
			case isUnit(content):
				unit = keys
			case string(content) == "Quality":
				quality = keys
			}
			keys++
		}
		return nil
	})
	if err != nil || unit < 0 && quality < 0 {
		return err
	}
	return fieldsOf(b, at, func(n protowire.Number, t protowire.Type, _ uint64, content []byte, at int) error {
		if n != 2 || t != protowire.BytesType {
			return nil
		}
		index := values
		values++
		if index != unit && index != quality {
			return nil
		}
		return fieldsOf(content, at, func(n protowire.Number, t protowire.Type, v uint64, content []byte, at int) error {
			switch {
			case index == unit && n == 8 && t == protowire.BytesType && utf8.Valid(content):
				m.unit = name(content)
			case index == quality && (n == 3 || n == 4) && t == protowire.VarintType:
				m.quality = int64(int32(v))
			}
			return nil
		})
	})
}
