package device

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Births remembers the birth certificates of Sparkplug B, which are what tells
// the names of the metrics in data messages: those have an alias alone. Who
// holds the MQTT session shows it each message in the order of arrival; only
// one goroutine may do so at a time.
//
// It follows the life of edge nodes and devices as Sparkplug 3.0 has it: an
// NBIRTH replaces all that was known of a node and its devices, a DBIRTH what
// was known of a device; an NDEATH of the same session (bdSeq) ends a node, a
// DDEATH a device. An alias is looked up among the metrics of the device of the
// message alone, or of the node: many nodes number each device's from 1.
//
// From its NBIRTH on a node counts its messages (seq, 0 to 255 and 0 again). One
// that is missing may have been a birth: then all that was known of the node is
// forgotten, and it is asked. The number of the last message once more is that
// message come again, which counts for nothing; an earlier one is taken for a
// gap. What is not noticed is a loss of just 255 messages, and any loss of a
// node that does not count or whose NBIRTH was not seen.
//
// What it holds is bounded. A node that was forgotten is asked to tell its
// births again when its next data message comes.
type Births struct {
	nodes map[string]*edgeNode
	size  int // of all definitions, in bytes
}

const (
	maxBirthNodes = 10_000
	// maxBirthBytes bounds what all births take.
	maxBirthBytes = 64 << 20
	// definitionSize is what a definition or a device takes besides its texts, about.
	definitionSize = 200
	// maxSparkplugNames, in bytes, of the attribute: what brokers of events and
	// the store of rejected messages bear with ease.
	maxSparkplugNames = 16 << 10
	// rebirthEvery is how often a node is asked: a birth of thousands of metrics
	// takes it a while.
	rebirthEvery = mesh.Instant(time.Minute / time.Microsecond)
)

// edgeNode is what is known of a node.
type edgeNode struct {
	session int64 // bdSeq of its NBIRTH; -1: not told
	seq     int   // of its last message; -1: not told, or no NBIRTH seen
	asked   mesh.Instant
	devices map[string]*bornDevice // by name; the node itself is the device ""
	size    int
}

// bornDevice is what the birth certificate of a device says.
type bornDevice struct {
	names   map[string]*definition
	aliases map[uint64]*definition
	size    int
}

// definition is what a birth certificate says of a metric.
type definition struct {
	name     string
	datatype uint64
	unit     string
	shared   bool // the last part of its name is another metric's of the device too
}

func (d *definition) size() int { return definitionSize + len(d.name) + len(d.unit) }

// NewBirths makes one that knows of no birth.
func NewBirths() *Births { return &Births{nodes: map[string]*edgeNode{}} }

// Forget forgets all births: the MQTT session was without a connection, and
// births are not kept for it. When nodes were asked is not forgotten.
func (b *Births) Forget() {
	for key := range b.nodes {
		b.forget(key)
	}
}

// Take remembers what m says, if it is a birth or a death, and adds to a data
// message the attribute by which its reader knows the metrics in it. What no
// birth has explained is left out; then rebirth is the topic to which a
// RebirthRequest should be published, at most once a minute for each node, by
// the time at which messages were received; else it is empty.
func (b *Births) Take(m *mesh.Message) (rebirth string) {
	t, ok, err := topicOfSparkplug(m)
	if !ok || err != nil {
		return ""
	}
	delete(m.Attributes, sparkplugNames) // nobody else may name metrics
	if opensJSON(m.Payload) || strings.HasSuffix(t.kind, "CMD") {
		return ""
	}
	payload, err := decodeB(m.Payload, func(b []byte) string { return string(b) })
	if err != nil {
		return "" // its reader rejects it
	}
	key := t.group + "/" + t.node
	ask := t.kind != "NBIRTH" && t.kind != "NDEATH" && b.missed(key, payload.seq)
	switch t.kind {
	case "NBIRTH":
		b.forget(key)
		n := b.node(key)
		n.session, n.seq = session(payload.metrics), payload.seq
		b.born(n, "", payload.metrics)
	case "DBIRTH":
		n := b.node(key)
		b.dead(n, t.device)
		b.born(n, t.device, payload.metrics)
	case "NDEATH":
		// The will of an older session may come when the next one has begun.
		if n := b.nodes[key]; n != nil && (n.session < 0 || n.session == session(payload.metrics)) {
			b.forget(key)
		}
	case "DDEATH":
		if n := b.nodes[key]; n != nil {
			b.dead(n, t.device)
		}
	case "NDATA", "DDATA":
		ask = !b.explain(m, key, t.device, payload.metrics) || ask
	}
	if !ask || strings.ContainsAny(key, "+#") {
		return ""
	}
	if n := b.node(key); n.asked == 0 || m.ReceivedAt-n.asked >= rebirthEvery {
		n.asked = m.ReceivedAt
		return sparkplugSpace + "/" + t.group + "/NCMD/" + t.node
	}
	return ""
}

// missed forgets a node if there is a gap before its message with this number;
// -1: it does not tell one.
func (b *Births) missed(key string, seq int) bool {
	n := b.nodes[key]
	switch {
	case n == nil || n.seq < 0 || seq < 0 || seq == n.seq:
	case seq != (n.seq+1)%256:
		b.forget(key)
		return true
	default:
		n.seq = seq
	}
	return false
}

// session gives the bdSeq among metrics, -1 if there is none.
func session(metrics []metricB) int64 {
	for i := range metrics {
		if m := &metrics[i]; m.name == "bdSeq" && (m.kind == intValue || m.kind == longValue) {
			return int64(m.bits & 0xff) // 0 to 255, then 0 again
		}
	}
	return -1
}

// node gives what is known of a node, of which there may be nothing yet.
func (b *Births) node(key string) *edgeNode {
	n := b.nodes[key]
	if n == nil {
		b.room(maxBirthNodes-1, maxBirthBytes, "")
		n = &edgeNode{}
		b.nodes[strings.Clone(key)] = n
		n.clear()
	}
	return n
}

func (n *edgeNode) clear() {
	n.session, n.seq, n.size, n.devices = -1, -1, 0, map[string]*bornDevice{}
}

// room forgets nodes, any but one, until there are at most so many and so many
// bytes.
func (b *Births) room(nodes, size int, but string) {
	for key, n := range b.nodes {
		if len(b.nodes) <= nodes && b.size <= size {
			return
		}
		if key != but {
			b.size -= n.size
			delete(b.nodes, key)
		}
	}
}

// forget forgets the births of a node and its devices, but not when it was
// asked for them.
func (b *Births) forget(key string) {
	if n := b.nodes[key]; n != nil {
		b.size -= n.size
		n.clear()
	}
}

// dead forgets the metrics of a device.
func (b *Births) dead(n *edgeNode, device string) {
	if known := n.devices[device]; known != nil {
		n.size -= known.size
		b.size -= known.size
		delete(n.devices, device)
	}
}

// born remembers the metrics of a device, as far as there is room.
func (b *Births) born(n *edgeNode, device string, metrics []metricB) {
	born := &bornDevice{names: map[string]*definition{}, aliases: map[uint64]*definition{}, size: definitionSize + len(device)}
	if n.size+born.size > maxBirthBytes/8 {
		return
	}
	last := map[string]*definition{}
	twice := map[uint64]bool{}
	for i := range metrics {
		m := &metrics[i]
		if m.name == "" || born.names[m.name] != nil || ofSession(m.name) {
			continue
		}
		d := &definition{name: m.name, datatype: m.datatype, unit: m.unit}
		if n.size+born.size+d.size() > maxBirthBytes/8 {
			break
		}
		born.names[d.name] = d
		born.size += d.size()
		if m.aliased {
			// An alias of two metrics of a birth is a mistake, and explains neither.
			if born.aliases[m.alias] != nil {
				twice[m.alias] = true
			}
			born.aliases[m.alias] = d
		}
		folded := fold([]byte(lastPart(d.name)))
		if other := last[folded]; other != nil {
			other.shared, d.shared = true, true
		}
		last[folded] = d
	}
	for alias := range twice {
		delete(born.aliases, alias)
	}
	n.devices[strings.Clone(device)] = born
	n.size += born.size
	b.size += born.size
	if b.size > maxBirthBytes {
		for key, other := range b.nodes {
			if other == n {
				b.room(maxBirthNodes, maxBirthBytes, key)
				return
			}
		}
	}
}

// explain adds the attribute to a data message; ok: all its metrics are known.
func (b *Births) explain(m *mesh.Message, key, device string, metrics []metricB) (ok bool) {
	var born bornDevice
	if n := b.nodes[key]; n != nil && n.devices[device] != nil {
		born = *n.devices[device]
	}
	ok = true
	said := map[string]bool{}
	out := []byte("{")
	for i := range metrics {
		metric := &metrics[i]
		var d *definition
		member := ":" + metric.name
		if metric.name == "" {
			d, member = born.aliases[metric.alias], strconv.FormatUint(metric.alias, 10)
		} else {
			d = born.names[metric.name]
		}
		if d == nil {
			ok = ok && (metric.null || metric.name != "" && !ambiguous(metric))
			continue
		}
		if said[member] {
			continue
		}
		said[member] = true
		before := len(out)
		if out = d.append(out, member, metric); len(out) > before {
			out = append(out, ',')
		}
	}
	if len(out) == 1 {
		return ok
	}
	out[len(out)-1] = '}'
	if len(out) > maxSparkplugNames {
		out, _ = jsontext.AppendQuote(nil, fmt.Sprintf("the names of the message's metrics have %d bytes, at most %d are passed on with it", len(out), maxSparkplugNames))
	}
	m.Attributes[sparkplugNames] = string(out)
	return ok
}

// append appends what m does not say itself of the metric as a member.
func (d *definition) append(b []byte, member string, m *metricB) []byte {
	name, datatype, unit := d.name, d.datatype, d.unit
	if m.name != "" {
		name = ""
	}
	if m.datatype != 0 || m.kind > longValue {
		datatype = 0 // told, or told by the field
	}
	if m.unit != "" {
		unit = ""
	}
	if name == "" && datatype == 0 && unit == "" && !d.shared {
		return b
	}
	b, _ = jsontext.AppendQuote(b, member)
	b = append(b, ':', '[')
	b, _ = jsontext.AppendQuote(b, name)
	if datatype != 0 || unit != "" || d.shared {
		b = strconv.AppendUint(append(b, ','), datatype, 10)
	}
	if unit != "" || d.shared {
		b, _ = jsontext.AppendQuote(append(b, ','), unit)
	}
	if d.shared {
		b = append(b, ",true"...)
	}
	return append(b, ']')
}

// definitions reads the attribute: the metrics by member, or why there are
// none.
func definitions(attribute string) (told map[string]definition, none string, err error) {
	switch {
	case attribute == "":
		return nil, "", nil
	case attribute[0] == '"':
		if json.Unmarshal([]byte(attribute), &none) == nil {
			return nil, none, nil
		}
	}
	d := &document{}
	if err := d.parse([]byte(attribute)); err != nil || d.kind(0) != object {
		return nil, "", fmt.Errorf("attribute %s: not a JSON object", sparkplugNames)
	}
	told = map[string]definition{}
	for c := int32(1); c < d.end(0); c = d.end(c) {
		var says definition
		if d.kind(c) != array {
			return nil, "", fmt.Errorf("attribute %s: %s is %s, not an array", sparkplugNames, quote(d.name(c)), d.kind(c))
		}
		i := 0
		for e := c + 1; e < d.end(c); e = d.end(e) {
			switch k := d.kind(e); {
			case i == 0 && k == text:
				says.name = string(d.chars(e))
			case i == 1 && k == number:
				says.datatype, _ = strconv.ParseUint(string(d.raw(e)), 10, 32)
			case i == 2 && k == text:
				says.unit = string(d.chars(e))
			case i == 3 && k == boolean:
				says.shared = d.raw(e)[0] == 't'
			default:
				return nil, "", fmt.Errorf("attribute %s: %s is not name, datatype, unit, shared", sparkplugNames, quote(d.name(c)))
			}
			i++
		}
		member := string(d.name(c))
		if named, ok := strings.CutPrefix(member, ":"); ok {
			says.name = cmp.Or(says.name, named)
		}
		if says.name == "" {
			return nil, "", fmt.Errorf("attribute %s: %s has no name", sparkplugNames, quote(member))
		}
		told[member] = says
	}
	return told, "", nil
}

// RebirthRequest gives the payload by which a node is asked to tell its births
// again: the metric Node Control/Rebirth, true.
func RebirthRequest(now mesh.Instant) []byte {
	at := uint64(now / 1000)
	var m []byte
	m = protowire.AppendString(protowire.AppendTag(m, 1, protowire.BytesType), "Node Control/Rebirth")
	m = protowire.AppendVarint(protowire.AppendTag(m, 3, protowire.VarintType), at)
	m = protowire.AppendVarint(protowire.AppendTag(m, 4, protowire.VarintType), typeBoolean)
	m = protowire.AppendVarint(protowire.AppendTag(m, 14, protowire.VarintType), 1)
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), at)
	return protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), m)
}
