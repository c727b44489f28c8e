package device

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/mesh"
)

// senML reads packs and streams of SenML in JSON, CBOR and XML, RFC 8428
// (https://www.rfc-editor.org/rfc/rfc8428), with the units of RFC 8798. It is
// recognized by its media types, by an array whose first element is a record,
// and by the namespace of its XML. Which of the three it is, the first byte says.
var senML = reader{
	format: "senml",
	media: []string{
		"application/senml+json", "application/sensml+json", "application/senml+cbor", "application/sensml+cbor",
		"application/senml+xml", "application/sensml+xml",
	},
	shaped: isSenML,
	pack:   true,
	looks: func(payload []byte) bool {
		return senMLForm(payload) == '<' && bytes.Contains(payload, []byte(senMLNamespace))
	},
	raw:  (*Parser).readBinarySenML,
	read: (*Parser).readSenML,
}

const (
	senMLNamespace = "urn:ietf:params:xml:ns:senml"
	senMLVersion   = "10" // of RFC 8428, and what a pack has that tells none
	// senMLRelative: a time below, in s, is relative to now (RFC 8428 section 4.5.3).
	senMLRelative = 1 << 28
	// maxSenMLField, in bytes of JSON, of a field that is no value: names and
	// units may be 256 long.
	maxSenMLField = 1024
	// maxSenMLFields of a record; RFC 8428 has 15.
	maxSenMLFields = 64
)

// senMLField is a field of a record.
type senMLField uint8

const (
	fieldBN senMLField = iota
	fieldBT
	fieldBU
	fieldBV
	fieldBS
	fieldBVer // the last that holds for the records behind, too
	fieldN
	fieldU
	fieldT
	fieldUT
	fieldS
	fieldV // and from here on one of which a record has
	fieldVS
	fieldVB
	fieldVD
	senMLFieldCount
)

// senMLFields are the fields by their order above.
var senMLFields = [senMLFieldCount]struct {
	label string
	cbor  int64
	kind  kind
}{
	{"bn", -2, text}, {"bt", -3, number}, {"bu", -4, text}, {"bv", -5, number}, {"bs", -6, number}, {"bver", -1, number},
	{"n", 0, text}, {"u", 1, text}, {"t", 6, number}, {"ut", 7, number}, {"s", 5, number},
	{"v", 2, number}, {"vs", 3, text}, {"vb", 4, boolean}, {"vd", 8, text},
}

// senMLLabels finds a field by its label.
var senMLLabels = func() map[string]senMLField {
	m := map[string]senMLField{}
	for f, field := range senMLFields {
		m[field.label] = senMLField(f)
	}
	return m
}()

// IsPack says whether body is an array of JSON that is one SenML pack: what its
// first element says holds for the others. It reads that one alone.
func IsPack(body []byte) bool {
	decoder := jsontext.NewDecoder(bytes.NewReader(body))
	if decoder.PeekKind() != '[' {
		return false
	}
	if _, err := decoder.ReadToken(); err != nil || decoder.PeekKind() != '{' {
		return false
	}
	first, err := decoder.ReadValue()
	if err != nil {
		return false
	}
	var d document
	return d.parse(first) == nil && isSenMLRecord(&d, 0)
}

func isSenML(d *document, i int32) bool {
	return d.kind(i) == array && i+1 < d.end(i) && isSenMLRecord(d, i+1)
}

// isSenMLRecord says whether value i has a name and a value as a record has
// them, or a base name, and nothing that a record has not: no field of another
// type, and no member that would be the device or the time of plain JSON.
func isSenMLRecord(d *document, i int32) bool {
	if d.kind(i) != object {
		return false
	}
	var has [senMLFieldCount]bool
	for c := i + 1; c < d.end(i); c = d.end(c) {
		if f, ok := senMLLabels[string(d.name(c))]; ok {
			if k := d.kind(c); k != senMLFields[f].kind && !(k == null && f >= fieldS) {
				return false
			}
			has[f] = true
		} else if roles[fold(d.name(c))].of != ofMetric {
			return false
		}
	}
	return has[fieldBN] || has[fieldN] && slices.Contains(has[fieldS:], true)
}

// readSenML reads a pack.
//
// The device is the base name without the separators (: / - . _) at its end, the
// metric is the name without those at its start. A name that stands without a
// base name and is one of its own in all the world (urn:…, or with : or / in it)
// is a device, as is a base name without a name; the metric is what the unit
// measures, where it is of one quantity alone (Cel, %RH, lx), else "value". Of
// a plain name without a base name the transport knows the device.
//
// Times are added as decimals and rounded to the nearest microsecond. One below
// 2^28 s is relative to the message's receive time. Records without one are
// timed by the transport.
//
// A sum is a reading besides the value: its metric ends in _sum, its unit in .s.
// The update time becomes an attribute. A value of base64 stays a text. Records
// that follow each other and are of the same device and time are an object.
//
// Rejected are packs with a version over 10 or two versions, with a field that
// ends in _ (it would have to be understood, and RFC 8428 has none), with a field
// of the wrong type, and with a record that has a name and no value; null for a
// value is none and is skipped.
func (p *Parser) readSenML(i int32) error {
	_, err := p.senMLRecords(i)
	return err
}

// senMLPack is what the records of a pack have in common.
type senMLPack struct {
	base    [fieldN]int32 // the last value of each base field; 0: none
	version string
	object  at     // of the readings since begin
	update  string // and their ut, as it is written
	begun   bool
	several several
}

// senMLRecords reads a pack and says how many records it has read, not counting
// one with an error.
func (p *Parser) senMLRecords(i int32) (n int, err error) {
	d := p.doc
	switch {
	case d.kind(i) != array:
		return 0, p.fault(i, "a SenML pack is an array, this is %s", d.kind(i))
	case d.end(i) == i+1:
		return 0, p.fault(i, "the pack has no record")
	}
	p.due++
	pack := senMLPack{several: several{from: len(p.out)}}
	for c := i + 1; c < d.end(i); c = d.end(c) {
		err := p.senMLRecord(&pack, c)
		if last := d.end(c) == d.end(i); last && err == nil {
			p.finish()
			err = pack.several.check(p)
		}
		if err != nil {
			err = fmt.Errorf("record %d: %w", n, err)
			if placed := (*Error)(nil); !errors.As(err, &placed) {
				err = p.fault(c, "%w", err)
			}
			return n, err
		}
		n++
	}
	return n, nil
}

func (p *Parser) senMLRecord(pack *senMLPack, i int32) error {
	d := p.doc
	if d.kind(i) != object {
		return p.fault(i, "it is %s, not an object", d.kind(i))
	}
	var fields [senMLFieldCount]int32
	var value int32
	named := false // it has more than base fields
	for c := i + 1; c < d.end(i); c = d.end(c) {
		label, k := d.name(c), d.kind(c)
		f, known := senMLLabels[string(label)]
		switch {
		case !known && bytes.HasSuffix(label, []byte("_")):
			return p.fault(c, "the field %s has to be understood, as its _ says, and is not", quote(label))
		case !known:
			continue
		case k != senMLFields[f].kind && !(k == null && f >= fieldS):
			return p.fault(c, "%s is %s, not %s", label, k, senMLFields[f].kind)
		case f < fieldS && len(d.raw(c)) > maxSenMLField: // base fields are looked at again with every record
			return p.fault(c, "%s has %d bytes, at most %d are read", label, len(d.raw(c)), maxSenMLField)
		case f >= fieldV && value != 0:
			return p.fault(c, "it has two values, %s and %s", d.name(value), label)
		case f >= fieldV:
			value = c
		}
		fields[f] = c
		named = named || f >= fieldN
		if f < fieldN {
			pack.base[f] = c
		}
	}
	if err := p.senMLVersion(pack, fields[fieldBVer]); err != nil || !named {
		return err
	}
	if value == 0 && fields[fieldS] == 0 {
		return p.fault(i, "it has no value and no sum")
	}
	symbol := p.scalar(cmp.Or(fields[fieldU], pack.base[fieldBU]))
	metric, err := p.senMLObject(pack, &fields, symbol)
	if err != nil {
		return err
	}
	unit, ok := senMLUnits[symbol]
	if !ok {
		unit = symbol
	}
	as := ""
	if symbol == "%EL" {
		as = senMLQuantities[symbol]
	}
	if err := p.senMLValue(value, pack.base[fieldBV], metric, as, unit); err != nil {
		return err
	}
	sum, base := fields[fieldS], pack.base[fieldBS]
	if sum == 0 && fields[fieldV] != 0 { // "the missing field is considered to have a value of zero", section 4.5.4
		sum, base = base, 0
	}
	if sum == 0 {
		return nil
	}
	switch unit {
	case "":
	case "1":
		unit = "s"
	default:
		unit += ".s"
	}
	return p.senMLValue(sum, base, metric+"_sum", "", unit)
}

// senMLVersion takes the version of a record, c is 0 if it tells none.
func (p *Parser) senMLVersion(pack *senMLPack, c int32) error {
	version := cmp.Or(pack.version, senMLVersion)
	if c != 0 {
		version = p.scalar(c)
		if v, err := strconv.Atoi(version); err != nil || v < 1 || v > 10 {
			return p.fault(c, "bver is %s, known are the versions 1 to %s", quote(version), senMLVersion)
		}
	}
	if pack.version != "" && pack.version != version {
		return p.fault(c, "bver is %s, and of the records before it is %s", version, pack.version)
	}
	pack.version = version
	return nil
}

// senMLObject takes the device and the time of a record and gives the name of
// its value. If they are not those of the record before, it begins an object.
func (p *Parser) senMLObject(pack *senMLPack, fields *[senMLFieldCount]int32, symbol string) (metric string, err error) {
	const separators = ":/-._"
	device := p.scalar(pack.base[fieldBN])
	metric = p.scalar(fields[fieldN])
	switch {
	case device != "":
		device, metric = strings.TrimRight(device, separators), strings.TrimLeft(metric, separators)
	case metric == "":
		return "", errors.New("it has no name and no base name")
	case strings.ContainsAny(metric, ":/"):
		device, metric = metric, ""
	}
	if metric == "" {
		metric = cmp.Or(senMLQuantities[symbol], "value")
	}
	if len(symbol) > maxName {
		return "", p.fault(cmp.Or(fields[fieldU], pack.base[fieldBU]), "the unit %s has %d bytes, at most %d are read", quote(symbol), len(symbol), maxName)
	}
	if err := p.device(device); err != nil {
		return "", err
	}
	if err := p.senMLTime(pack.base[fieldBT], fields[fieldT]); err != nil {
		return "", err
	}
	update := p.scalar(fields[fieldUT])
	if next := p.at; !pack.begun || next != pack.object || update != pack.update {
		p.at = pack.object
		p.finish()
		if err := pack.several.check(p); err != nil {
			return "", err
		}
		p.begin()
		p.at, pack.object, pack.update, pack.begun = next, next, update, true
		p.attribute("update_time", fields[fieldUT])
	}
	return metric, nil
}

// senMLTime takes the time of a record, the sum of two values; 0 is none.
func (p *Parser) senMLTime(base, time int32) error {
	if base == 0 && time == 0 {
		return p.untimed()
	}
	var sum int64
	for _, c := range [...]int32{base, time} {
		if c == 0 {
			continue
		}
		ns, ok := nanoseconds(p.doc.raw(c))
		if added := sum + ns; ok && (ns < 0) == (added < sum) {
			sum = added
			continue
		}
		return p.fault(c, "time %s is beyond the year 2261", quote(p.doc.raw(c)))
	}
	at := mesh.Instant((sum + 500) / 1000)
	if sum+500 < 0 && (sum+500)%1000 != 0 {
		at--
	}
	if sum < senMLRelative*1e9 {
		at += p.m.ReceivedAt
	}
	if !InRange(at) {
		return fmt.Errorf("time %s is not in the years 1970 to 2261", at)
	}
	p.observed(at)
	return nil
}

// nanoseconds reads a decimal number of seconds; what is finer is truncated.
func nanoseconds(literal []byte) (ns int64, ok bool) {
	const most = 10 // digits of whole seconds in an int64 of ns
	digits, exponent := decimal(literal)
	if exponent > most {
		return 0, false
	}
	for i := range max(exponent+9, 0) {
		if ns > (math.MaxInt64-9)/10 {
			return 0, false
		}
		if ns *= 10; i < len(digits) {
			ns += int64(digits[i] - '0')
		}
	}
	if literal[0] == '-' {
		ns = -ns
	}
	return ns, true
}

// senMLValue puts value c, 0 is none, with base value base added to it if it is
// a number, 0 is none: as decimals where that makes no monster, else as
// float64.
func (p *Parser) senMLValue(c, base int32, own, as, unit string) error {
	if c == 0 {
		return nil
	}
	if base == 0 || p.doc.kind(c) != number {
		return p.put(c, own, as, unit)
	}
	var r mesh.Reading
	sum, ok := addDecimals(p.doc.raw(base), p.doc.raw(c))
	if !ok {
		a, _ := parseNumber(p.doc.raw(base))
		b, _ := parseNumber(p.doc.raw(c))
		r.Value = a + b
	} else if !setNumber(&r, sum) {
		r.Value = math.Inf(1)
	}
	if err := p.putReading(r, own, as, unit); err != nil {
		return p.fault(c, "%w", err)
	}
	return nil
}

// addDecimals adds two numbers in JSON's notation; ok is false if the sum has
// more than about 60 digits.
func addDecimals(a, b []byte) (sum []byte, ok bool) {
	const most = 60
	digitsA, endA := decimal(a)
	digitsB, endB := decimal(b)
	switch {
	case len(digitsA) == 0:
		return b, true
	case len(digitsB) == 0:
		return a, true
	}
	endA, endB = endA-len(digitsA), endB-len(digitsB) // the power of ten of the last digit
	low := min(endA, endB)
	if len(digitsA) > most || len(digitsB) > most || endA-low > most || endB-low > most {
		return nil, false
	}
	total := new(big.Int)
	for _, n := range []struct {
		literal, digits []byte
		zeros           int
	}{{a, digitsA, endA - low}, {b, digitsB, endB - low}} {
		v, _ := new(big.Int).SetString(string(n.digits)+strings.Repeat("0", n.zeros), 10)
		if n.literal[0] == '-' {
			v.Neg(v)
		}
		total.Add(total, v)
	}
	if low >= -most && low < 0 { // as people write it
		negative := total.Sign() < 0
		all := fmt.Sprintf("%0*s", -low+1, total.Abs(total).String())
		sum = fmt.Appendf(sum, "%s.%s", all[:len(all)+low], all[len(all)+low:])
		if sum = bytes.TrimRight(bytes.TrimRight(sum, "0"), "."); negative {
			sum = append([]byte("-"), sum...)
		}
		return sum, true
	}
	return fmt.Appendf(nil, "%se%d", total, low), true
}

// senMLForm says how a pack is written: '[' JSON, '<' XML, 'c' CBOR.
func senMLForm(payload []byte) byte {
	if len(payload) == 0 {
		return '['
	}
	if payload[0]>>5 == 4 || bytes.HasPrefix(payload, selfDescribed) { // an array
		return 'c'
	}
	if bytes.HasPrefix(bytes.TrimLeft(bytes.TrimPrefix(payload, byteOrderMark), " \t\r\n"), []byte("<")) {
		return '<'
	}
	return '['
}

var (
	byteOrderMark = []byte("\ufeff")
	selfDescribed = []byte{0xd9, 0xd9, 0xf7} // tag 55799, RFC 8949 section 3.4.6
)

// readBinarySenML makes JSON of a pack in CBOR or XML and reads that.
func (p *Parser) readBinarySenML() (isJSON bool, err error) {
	var w senMLWriter
	switch senMLForm(p.m.Payload) {
	case 'c':
		err = w.fromCBOR(p.m.Payload)
	case '<':
		err = w.fromXML(p.m.Payload)
	default:
		return true, nil
	}
	if err != nil {
		return false, err
	}
	// The document's positions are of the JSON: of an error, its record is told.
	if err := p.doc.parse(append(w.text, ']')); err != nil {
		return false, errors.New(err.Error())
	}
	if n, err := p.senMLRecords(0); err != nil {
		position := -1
		if n < len(w.starts) {
			position = w.starts[n]
		}
		return false, fault(position, "%s", err)
	}
	return false, nil
}

// senMLWriter writes a pack in JSON.
type senMLWriter struct {
	text   []byte // without the last bracket
	starts []int  // where each record is in the payload
	labels []string
}

// record begins a record.
func (w *senMLWriter) record(start int) {
	if len(w.starts) == 0 {
		w.text = append(w.text, '[')
	} else {
		w.text = append(w.text, ',')
	}
	w.starts, w.labels = append(w.starts, start), w.labels[:0]
}

// fault is about the record that is written.
func (w *senMLWriter) fault(format string, args ...any) error {
	n := len(w.starts) - 1
	return fault(w.starts[n], "record %d: %w", n, fmt.Errorf(format, args...))
}

// label begins a field.
func (w *senMLWriter) label(label string) error {
	if slices.Contains(w.labels, label) {
		return w.fault("it has the field %s twice", quote(label))
	}
	if len(w.labels) == maxSenMLFields {
		return w.fault("it has more than %d fields", maxSenMLFields)
	}
	mark := byte(',')
	if len(w.labels) == 0 {
		mark = '{'
	}
	w.labels = append(w.labels, label)
	var err error
	if w.text, err = jsontext.AppendQuote(append(w.text, mark), label); err != nil {
		return w.fault("the field %s is not UTF-8", quote(label))
	}
	w.text = append(w.text, ':')
	return nil
}

// end ends a record.
func (w *senMLWriter) end() {
	if len(w.labels) == 0 {
		w.text = append(w.text, '{')
	}
	w.text = append(w.text, '}')
}

// senMLDecoding is how CBOR is decoded. Records are 2 deep, 3 with a decimal
// fraction.
var senMLDecoding = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 8, MaxArrayElements: maxReadings, MaxMapPairs: maxSenMLFields,
		TimeTag: cbor.DecTagIgnored,
	}.DecMode()
	if err != nil {
		panic(err) // the options above
	}
	return mode
}()

// fromCBOR reads the form of section 6, in which labels are integers, table 4.
func (w *senMLWriter) fromCBOR(payload []byte) error {
	at := 0
	if bytes.HasPrefix(payload, selfDescribed) {
		at = len(selfDescribed)
	}
	var records []cbor.RawMessage
	if err := senMLDecoding.Unmarshal(payload[at:], &records); err != nil {
		return fault(at, "not a SenML pack in CBOR: %s", brief(err))
	}
	switch info := payload[at] & 31; info { // the length of an array takes 0, 1, 2, 4 or 8 bytes
	case 24, 25, 26, 27:
		at += 1 << (info - 24)
	}
	at++
	for _, raw := range records {
		w.record(at)
		at += len(raw)
		var record map[any]any
		if err := senMLDecoding.Unmarshal(raw, &record); err != nil {
			return w.fault("%s", brief(err))
		}
		fields := map[string]any{}
		for key, value := range record {
			label := ""
			switch key := key.(type) {
			case string:
				label = key
			case int64:
				label = senMLLabelOf(key)
			case uint64:
				if label = ""; key <= math.MaxInt64 {
					label = senMLLabelOf(int64(key))
				}
			default:
				return w.fault("a label is neither an integer nor a text")
			}
			if label == "" {
				continue // an integer that is not in the table, which is conclusive
			}
			if _, twice := fields[label]; twice {
				return w.fault("it has the field %s twice", quote(label))
			}
			fields[label] = value
		}
		for _, label := range slices.Sorted(maps.Keys(fields)) {
			if err := w.label(label); err != nil {
				return err
			}
			if err := w.cborValue(label, fields[label]); err != nil {
				return err
			}
		}
		w.end()
	}
	if len(records) == 0 {
		w.text = append(w.text, '[')
	}
	return nil
}

func senMLLabelOf(key int64) string {
	for _, field := range senMLFields {
		if field.cbor == key {
			return field.label
		}
	}
	return ""
}

// cborValue writes a value as the JSON that means the same; that of a field that
// nobody knows is not needed.
func (w *senMLWriter) cborValue(label string, value any) error {
	f, known := senMLLabels[label]
	if !known {
		value = nil
	}
	switch v := value.(type) {
	case nil:
		w.text = append(w.text, "null"...)
	case bool:
		w.text = strconv.AppendBool(w.text, v)
	case string:
		var err error
		if w.text, err = jsontext.AppendQuote(w.text, v); err != nil {
			return w.fault("%s is not UTF-8", label)
		}
	case []byte:
		if f != fieldVD {
			return w.fault("%s is a byte string, not %s", label, senMLFields[f].kind)
		}
		w.text = append(base64.RawURLEncoding.AppendEncode(append(w.text, '"'), v), '"')
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			w.text = append(w.text, "null"...)
		} else {
			w.text = strconv.AppendFloat(w.text, v, 'g', -1, 64)
		}
	case cbor.Tag:
		parts, _ := v.Content.([]any)
		if v.Number != 4 || len(parts) != 2 {
			return w.fault("%s has the tag %d, for numbers there is 4, of decimal fractions", label, v.Number)
		}
		exponent, ok := cborInteger(parts[0])
		mantissa, also := cborInteger(parts[1])
		if !ok || !also || exponent.BitLen() > 10 {
			return w.fault("%s is no decimal fraction within float64", label)
		}
		w.text = fmt.Appendf(w.text, "%de%d", mantissa, exponent)
	default:
		n, ok := cborInteger(v)
		if !ok {
			return w.fault("%s is %s", label, cborKind(v))
		}
		w.text = n.Append(w.text, 10)
	}
	return nil
}

// cborInteger gives an integer, if value is one within the range of float64.
func cborInteger(value any) (n *big.Int, ok bool) {
	n = new(big.Int)
	switch v := value.(type) {
	case uint64:
		n.SetUint64(v)
	case int64:
		n.SetInt64(v)
	case big.Int:
		n.Set(&v)
	default:
		return nil, false
	}
	return n, n.BitLen() <= 1024
}

func cborKind(value any) string {
	switch value.(type) {
	case map[any]any:
		return "a map"
	case []any:
		return "an array"
	case big.Int:
		return "an integer beyond float64"
	}
	return "of a type that RFC 8428 has not"
}

// fromXML reads the form of section 7: fields are attributes.
func (w *senMLWriter) fromXML(payload []byte) error {
	at := len(payload) - len(bytes.TrimPrefix(payload, byteOrderMark))
	decoder := xml.NewDecoder(bytes.NewReader(payload[at:]))
	root := false
	for depth := 0; ; {
		start := at + int(decoder.InputOffset())
		token, err := decoder.Token()
		if err == io.EOF && root {
			break
		} else if err != nil {
			return fault(start, "not a SenML pack in XML: %s", brief(err))
		}
		switch token := token.(type) {
		case xml.StartElement:
			want := "senml"
			if depth++; depth == 1 {
				want = "sensml"
			}
			switch {
			case depth == 1 && root:
				return fault(start, "not a SenML pack in XML: more than one element")
			case depth > 2:
				return w.fault("it has an element %s in it", quote(token.Name.Local))
			case token.Name.Local != want || token.Name.Space != "" && token.Name.Space != senMLNamespace:
				return fault(start, "not a SenML pack in XML: an element %s instead of %s", quote(token.Name.Local), want)
			}
			if root = true; depth == 1 {
				continue
			}
			w.record(start)
			for _, attr := range token.Attr {
				if attr.Name.Space != "" || attr.Name.Local == "xmlns" {
					continue
				}
				if err := w.xmlValue(attr.Name.Local, attr.Value); err != nil {
					return err
				}
			}
			w.end()
		case xml.EndElement:
			depth--
		}
	}
	if len(w.starts) == 0 {
		w.text = append(w.text, '[')
	}
	return nil
}

// xmlValue writes a field with the JSON that means the same.
func (w *senMLWriter) xmlValue(label, value string) error {
	if err := w.label(label); err != nil {
		return err
	}
	f, known := senMLLabels[label]
	if !known {
		w.text = append(w.text, "null"...)
		return nil
	}
	literal := strings.Trim(value, " \t\r\n")
	switch senMLFields[f].kind {
	case number:
		digits, err := xmlNumber(literal)
		if err != nil {
			return w.fault("%s: %w", label, err)
		}
		w.text = append(w.text, digits...)
	case boolean:
		switch literal {
		case "true", "1":
			w.text = append(w.text, "true"...)
		case "false", "0":
			w.text = append(w.text, "false"...)
		default:
			return w.fault("%s is %s, not a boolean", label, quote(value))
		}
	default:
		var err error
		if w.text, err = jsontext.AppendQuote(w.text, value); err != nil {
			return w.fault("%s is not UTF-8", label)
		}
	}
	return nil
}

// xmlNumber gives a double of XML Schema in JSON's notation.
func xmlNumber(s string) (string, error) {
	switch s {
	case "INF", "-INF", "NaN":
		return "null", nil
	}
	if isJSONNumber(s) {
		return s, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || strings.Trim(s, "+-.0123456789eE") != "" {
		return "", fmt.Errorf("%s is not a number", quote(s))
	}
	return strconv.FormatFloat(f, 'g', -1, 64), nil
}

// isJSONNumber says whether s is a number as JSON writes it.
func isJSONNumber(s string) bool {
	digits := func() bool {
		rest := strings.TrimLeft(s, "0123456789")
		some := len(rest) < len(s)
		s = rest
		return some
	}
	s = strings.TrimPrefix(s, "-")
	zero := strings.HasPrefix(s, "0")
	if before := len(s); !digits() || zero && before-len(s) > 1 {
		return false
	}
	if rest, ok := strings.CutPrefix(s, "."); ok {
		if s = rest; !digits() {
			return false
		}
	}
	if s != "" && (s[0] == 'e' || s[0] == 'E') {
		if s = s[1:]; s != "" && (s[0] == '+' || s[0] == '-') {
			s = s[1:]
		}
		if !digits() {
			return false
		}
	}
	return s == ""
}

// brief says what a library's error says, which may hold all that was sent.
func brief(err error) string {
	const most = 200
	s := err.Error()
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
