package device

import (
	"encoding/base64"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// azureIoTHub reads what Azure IoT Hub makes of a device's message:
//
//   - a record of its storage endpoint, EnqueuedTimeUtc, Properties,
//     SystemProperties and Body:
//     https://learn.microsoft.com/azure/iot-hub/iot-hub-devguide-messages-d2c
//   - an event of Event Grid, Microsoft.Devices.DeviceTelemetry, in its own
//     schema or as a CloudEvent, with properties, systemProperties and body:
//     https://learn.microsoft.com/azure/event-grid/event-schema-iot-hub
//   - a message of its Event Hubs endpoint as tools and examples show it, with
//     annotations and body.
//
// They are told by the event's type, or by the system property that names the
// device; with annotations, by what else stands beside them, too.
var azureIoTHub = reader{
	format: "azure-iot-hub",
	sent:   func(m *mesh.Message) bool { return strings.HasPrefix(m.Attributes["type"], azureDevices) },
	shaped: func(d *document, i int32) bool {
		return d.at(i, "SystemProperties", "connectionDeviceId") != 0 ||
			d.at(i, "systemProperties", "iothub-connection-device-id") != 0 ||
			d.at(i, "annotations", "iothub-connection-device-id") != 0 && d.annotated(i) ||
			d.hasPrefix(d.member(i, "eventType"), azureDevices)
	},
	marks: []string{"SystemProperties", "systemProperties", "annotations", "eventType"},
	own:   []string{"eventTime"},
	read:  (*Parser).readAzure,
}

// annotated says whether object i has only what is shown of a message with
// annotations.
func (d *document) annotated(i int32) bool {
	for c := i + 1; c < d.end(i); c = d.end(c) {
		switch string(d.name(c)) {
		case "body", "annotations", "properties", "systemProperties", "applicationProperties", "enqueuedTimeUtc", "enqueuedTime",
			"sequenceNumber", "offset", "partition", "partitionId", "partitionKey", "messageId", "correlationId", "contentType":
		default:
			return false
		}
	}
	return true
}

// azureDevices begins the types of Event Grid's events about devices.
const azureDevices = "Microsoft.Devices."

// readAzure reads the device's own message, the body, of whatever format it is.
// The device is the one that the hub has authenticated, DEVICE or
// DEVICE/MODULE, and the time the one that the device set as the message's
// creation time, else when the hub received it; where the body tells a device
// or a time of its own, as one from behind a gateway does, it has those. The
// message's application properties become attributes of its readings.
//
// A body that is no JSON, or not said to be, stands in base64. Life-cycle and
// connection events and changes of a twin measure nothing.
func (p *Parser) readAzure(i int32) error {
	d := p.doc
	kind := p.m.Attributes["type"]
	outer := i
	if c := d.member(i, "eventType"); c != 0 {
		kind = string(d.chars(c))
		if i = d.member(i, "data"); i == 0 {
			return p.fault(outer, "an event of Event Grid without data")
		}
	}
	if strings.HasPrefix(kind, azureDevices) && kind != azureDevices+"DeviceTelemetry" {
		return nil
	}
	system := d.first(i, "SystemProperties", "systemProperties", "annotations")
	if system == 0 {
		return p.fault(i, "no SystemProperties, systemProperties or annotations of Azure IoT Hub")
	}
	properties := d.first(i, "Properties", "properties")
	property := func(names ...string) int32 {
		if properties == 0 {
			return 0
		}
		return d.first(properties, names...)
	}
	source := p.scalar(d.first(system, "iothub-message-source", "messageSource", "iotcentral-message-source"))
	if source != "" && !strings.EqualFold(source, "telemetry") || property("iothub-message-schema") != 0 {
		return nil
	}
	m := mesh.Message{
		DeviceID:    withModule(p.scalar(d.first(system, "connectionDeviceId", "iothub-connection-device-id")), p.scalar(d.first(system, "connectionModuleId", "iothub-connection-module-id"))),
		ContentType: p.scalar(d.first(system, "contentType", "iothub-content-type", "content-type")),
	}
	if m.ContentType == "" {
		m.ContentType = p.scalar(property("content_type", "contentType"))
	}
	var err error
	encoded := m.ContentType == "" || mesh.MediaType(m.ContentType) != "" || d.first(system, "contentEncoding", "iothub-content-encoding", "content-encoding") == 0
	if m.Payload, err = p.azureBody(i, encoded); err != nil {
		return err
	}
	for _, c := range [...]int32{
		property(creationTime), d.member(system, creationTime),
		d.first(system, "enqueuedTime", "iothub-enqueuedtime"), d.first(i, "EnqueuedTimeUtc", "enqueuedTimeUtc"), d.member(outer, "eventTime"),
	} {
		if at := p.scalar(c); at != "" {
			m.Attributes = map[string]string{"time": at}
			break
		}
	}
	p.propertyAttributes(properties)
	return p.inner(p.packed(m))
}

// creationTime is the property by which a device says when it made a message.
const creationTime = "iothub-creation-time-utc"

// propertyAttributes makes attributes of a message's application properties; 0
// is none.
func (p *Parser) propertyAttributes(properties int32) {
	d := p.doc
	if properties == 0 || d.kind(properties) != object {
		return
	}
	for c := properties + 1; c < d.end(properties); c = d.end(c) {
		switch name := string(d.name(c)); {
		case d.kind(c) >= object || name == creationTime || name == "content_type" || name == "content_encoding":
		default:
			p.attribute(strings.TrimPrefix(name, "iothub-app-"), c)
		}
	}
}

// azureBody gives the bytes of the device's message in i. Where the device has
// not said that they are JSON in UTF, the hub has encoded them.
func (p *Parser) azureBody(i int32, encoded bool) ([]byte, error) {
	d := p.doc
	body := d.first(i, "Body", "body")
	switch {
	case body == 0:
		return nil, p.fault(i, "the message has no body")
	case d.member(i, "annotations") != 0 && d.kind(body) == text: // shown, not sent: as it is
		return d.chars(body), nil
	case d.kind(body) != text || !encoded:
		return d.raw(body), nil
	}
	payload, err := base64.StdEncoding.AppendDecode(nil, d.chars(body))
	if err != nil {
		return nil, p.fault(body, "the body: %w", err)
	}
	return payload, nil
}

// withModule names a module of a device; most devices have none.
func withModule(device, module string) string {
	if module == "" || device == "" {
		return device
	}
	return device + "/" + module
}

// azureIoTCentral reads what the data export of Azure IoT Central sends:
// https://learn.microsoft.com/azure/iot-central/core/howto-export-to-webhook
// It is told by applicationId and messageSource, which each record has.
var azureIoTCentral = reader{
	format: "azure-iot-central",
	shaped: func(d *document, i int32) bool {
		return d.is(text, i, "applicationId") && d.is(text, i, "messageSource")
	},
	marks: []string{"applicationId"},
	read:  (*Parser).readAzureCentral,
}

// readAzureCentral reads a record of telemetry, and one of properties that the
// device has reported. The metrics are their names, behind that of the
// component, if they are one's. The device is deviceId, or deviceId/module; the
// time is the creation time that the device set, else enqueuedTime. The
// enrichments of the export and the properties of the message become
// attributes.
//
// Other records measure nothing: desired and cloud properties, life cycle,
// connectivity, templates, audit.
func (p *Parser) readAzureCentral(i int32) error {
	d := p.doc
	var values int32
	switch string(d.chars(d.member(i, "messageSource"))) {
	case "telemetry":
		values = d.member(i, "telemetry")
	case "properties":
		if string(d.chars(d.member(i, "messageType"))) != "devicePropertyReportedChange" {
			return nil
		}
		values = d.member(i, "properties")
	default:
		return nil
	}
	p.due++
	device := d.member(i, "deviceId")
	if device == 0 {
		device = d.at(i, "device", "id")
	}
	if err := p.device(withModule(p.scalar(device), p.scalar(d.member(i, "module")))); err != nil {
		return err
	}
	if err := p.time(d.at(i, "messageProperties", creationTime), d.member(i, "enqueuedTime")); err != nil {
		return err
	}
	p.propertyAttributes(d.member(i, "messageProperties"))
	p.propertyAttributes(d.member(i, "enrichments"))
	if c := d.member(i, "component"); c != 0 {
		p.push(d.chars(c))
	}
	switch {
	case values == 0:
		return nil
	case d.kind(values) == object:
		return p.members(values)
	case d.kind(values) != array:
		return p.fault(values, "%s is %s, neither an object nor an array", quote(d.name(values)), d.kind(values))
	}
	for c := values + 1; c < d.end(values); c = d.end(c) {
		name := d.first(c, "name", "fieldName")
		value, set := d.find(c, "value")
		if name == 0 || d.kind(name) != text || !set {
			p.skipped++
			continue
		}
		outer := len(p.path)
		if component := d.member(c, "component"); component != 0 {
			p.push(d.chars(component))
		}
		if err := p.member(value, d.chars(name)); err != nil {
			return err
		}
		p.path = p.path[:outer]
	}
	return nil
}
