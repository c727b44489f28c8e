package device

import (
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/pubsub"
)

// pubsubPush reads wrapped pushes of Pub/Sub that nobody has unwrapped on
// their way, among them the data of the CloudEvent that Eventarc and
// knative-gcp make of a Pub/Sub message:
// https://cloud.google.com/pubsub/docs/push#receive_push
// https://github.com/googleapis/google-cloudevents/blob/main/proto/google/events/cloud/pubsub/v1/data.proto
// They are told by that event's type, or by a member "message" with an id.
var pubsubPush = reader{
	format: "pubsub-push",
	sent: func(m *mesh.Message) bool {
		return m.Attributes["type"] == "google.cloud.pubsub.topic.v1.messagePublished"
	},
	shaped: func(d *document, i int32) bool {
		return d.at(i, "message", "messageId") != 0 || d.at(i, "message", "message_id") != 0
	},
	marks: []string{"message"},
	read:  (*Parser).readPubSub,
}

// readPubSub reads the message that the push holds, as if it had come alone:
// device, format and attributes are those that its publisher gave it, its time
// is the publish time unless the publisher set one. Its readings have the
// attributes that the message alone would give them: the registry and project
// of Cloud IoT Core and its heirs stay with the message.
func (p *Parser) readPubSub(i int32) error {
	push, err := pubsub.ParsePush(p.doc.raw(i))
	if err != nil {
		return p.fault(i, "%w", err)
	}
	m, err := push.Received(p.m.ReceivedAt)
	if err != nil {
		return p.fault(i, "%w", err)
	}
	return p.inner(p.packed(m))
}

// packed gives m, which is packed in the message that is read, the identity of
// that one and what its transport said, where m does not tell the same itself.
// What a CloudEvent says of the outer payload does not hold for m.
func (p *Parser) packed(m mesh.Message) *mesh.Message {
	m.ID, m.Source, m.ReceivedAt = p.m.ID, p.m.Source, p.m.ReceivedAt
	if m.DeviceID == "" {
		m.DeviceID = p.m.DeviceID
	}
	if m.Attributes == nil {
		m.Attributes = map[string]string{}
	}
	for name, value := range p.m.Attributes {
		switch _, told := m.Attributes[name]; {
		case told || name == "type" || name == "subject" || name == "dataschema":
		default:
			m.Attributes[name] = value
		}
	}
	return &m
}

// deviceIn takes the device of the object where the payload cannot name it: the
// one that the transport names, else the level of an MQTT topic that the format
// has for it.
func (p *Parser) deviceIn(level string) error {
	if p.m.DeviceID != "" || p.m.Attributes["deviceId"] != "" {
		level = ""
	}
	return p.device(level)
}
