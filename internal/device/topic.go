package device

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/telemesh/telemesh/internal/mesh"
)

// topic is the attribute that holds the topic of an MQTT message.
const topic = "topic"

// matches says whether a message's topic matches an MQTT topic filter.
func matches(m *mesh.Message, filter string) bool {
	t := m.Attributes[topic]
	if t == "" {
		return false
	}
	for {
		f, restF, moreF := strings.Cut(filter, "/")
		l, restT, moreT := strings.Cut(t, "/")
		switch {
		case f == "#":
			return true
		case f != "+" && f != l:
			return false
		case !moreF || !moreT:
			return moreF == moreT || moreF && restF == "#"
		}
		filter, t = restF, restT
	}
}

// levelsOf gives the levels of a message's topic; none, if it has none.
func levelsOf(m *mesh.Message) []string {
	if t := m.Attributes[topic]; t != "" {
		return strings.Split(t, "/")
	}
	return nil
}

// topicValue reads what has one value in a message and its name in the topic,
// as in home/desk-1/temperature: the last level is the metric, those before it
// are the device. The value is JSON, or a short text as it stands.
var topicValue = reader{
	format: "topic-value",
	raw:    (*Parser).readTopicText,
	read:   (*Parser).readTopicValue,
}

// maxPlainText, in bytes, of a text that is a value and not a broken document.
const maxPlainText = 256

func (p *Parser) readTopicText() (isJSON bool, err error) {
	if len(bytes.TrimSpace(p.m.Payload)) == 0 { // clears a retained message
		return false, nil
	}
	metric, err := p.topicMetric()
	if err != nil {
		return false, err
	}
	return false, p.single(metric, "", "")
}

// plainText reads a text that is a value.
func plainText(b []byte) (mesh.Reading, error) {
	if len(b) > maxPlainText || !utf8.Valid(b) || bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' }) {
		return mesh.Reading{}, fault(0, "neither JSON nor a text of at most %d bytes on one line", maxPlainText)
	}
	return mesh.Reading{Kind: mesh.Text, ValueString: string(b)}, nil
}

// joined gives names as one, of which a Parser makes one copy for all messages.
func (p *Parser) joined(a, b, c string) string {
	var buf [128]byte
	return p.text(append(append(append(buf[:0], a...), b...), c...))
}

// cutLast cuts a topic before its last level.
func cutLast(t string) (before, last string) {
	at := strings.LastIndexByte(t, '/')
	if at < 0 {
		return "", t
	}
	return t[:at], t[at+1:]
}

// single reads the payload as one value, JSON or a text as it stands, by names
// and unit as in put. An empty one clears a retained message.
func (p *Parser) single(own, as, unit string) error {
	b := bytes.TrimSpace(p.m.Payload)
	if len(b) == 0 {
		return nil
	}
	if p.doc.parse(p.m.Payload) == nil {
		return p.put(0, own, as, unit)
	}
	r, err := plainText(b)
	if err != nil {
		return err
	}
	return p.putReading(r, own, as, unit)
}

func (p *Parser) readTopicValue(i int32) error {
	metric, err := p.topicMetric()
	if err != nil {
		return err
	}
	return p.put(i, metric, "", "")
}

// topicMetric takes the device and the time of the message and gives the name
// of its value.
func (p *Parser) topicMetric() (metric string, err error) {
	p.due++
	device := p.m.Attributes[topic]
	if at := strings.LastIndexByte(device, '/'); at >= 0 {
		device, metric = device[:at], device[at+1:]
	}
	if metric == "" || device == "" {
		return "", fault(0, "the topic %s has no two levels, for the device and the metric", quote(p.m.Attributes[topic]))
	}
	if p.m.DeviceID != "" {
		device = p.m.DeviceID
	}
	if err := p.device(device); err != nil {
		return "", err
	}
	return metric, p.untimed()
}
