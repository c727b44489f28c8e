package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/trace"
)

// The same reading in two formats, with two values.
const (
	tracedDevice = "70B3D5E75E00AA01"
	tracedUplink = `{"end_device_ids":{"device_id":"desk-1","dev_eui":"70b3d5e75e00aa01"},"uplink_message":` +
		`{"decoded_payload":{"CO2":812,"note":"a\u001bb"},"received_at":"2026-03-01T10:00:00.1002Z"}}`
	tracedPlain = ` {"device_id":"70B3D5E75E00AA01", "time":"2026-03-01T10:00:00.1002Z", "co2":900}` + "\n"
)

func tracedAt(t *testing.T) mesh.Instant { return instantOf(t, "2026-03-01T10:00:00.1002Z") }

func instantOf(t *testing.T, s string) mesh.Instant {
	t.Helper()
	at, err := mesh.ParseInstant(s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// deliverTo is deliver to the broker of a domain, from a source.
func deliverTo(t *testing.T, in *instance, domain, eventType string, data []byte) {
	t.Helper()
	e := mesh.NewEvent(eventType, "/sheets/rooms", data, string(data))
	if err := function.Post(t.Context(), in.mesh.Client(), ingress(domain), e); err != nil {
		t.Fatal(err)
	}
	if err := in.mesh.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func storyOf(t *testing.T, data, id string) *trace.Story {
	t.Helper()
	var s trace.Story
	if err := json.Unmarshal([]byte(telemesh(t, "trace", "--data", data, "--json", id)), &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// matches says which of the lines, as regular expressions, stand nowhere in a
// text; blanks stand for any number of them.
func matches(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !regexp.MustCompile(`(?m)^` + strings.ReplaceAll(line, " ", " +") + `$`).MatchString(text) {
			t.Errorf("no line %q", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// A reading that came twice, in two formats and with two values, is followed
// back to both messages, whether the mesh runs or not.
func TestTrace(t *testing.T) {
	data := t.TempDir()
	in := openFolder(t, data)
	deliverTo(t, in, "crm", mesh.CustomersChanged, mesh.Encode(mesh.Customers{Customers: []mesh.Customer{{CustomerID: "tenant-a", Name: "School A", Version: 1}}}))
	deliverTo(t, in, "iot", mesh.PlacementsChanged, mesh.Encode(mesh.Placements{Placements: []mesh.Placement{
		{DeviceID: tracedDevice, TenantID: "tenant-a", Building: "B", Room: "1.01", ValidFrom: instantOf(t, "2026-01-01T00:00:00Z"), Version: 1},
		{DeviceID: "other", TenantID: "tenant-b", ValidFrom: instantOf(t, "2026-01-01T00:00:00Z"), Version: 1},
	}}))
	// Its neighbours in the events are another message, and another one of the
	// same id.
	for i, m := range []mesh.Message{
		{ID: "m'1", Source: "/lora", ReceivedAt: instantOf(t, "2026-03-01T10:00:01Z"), Payload: []byte(tracedUplink), Attributes: map[string]string{"sender": "ttn"}},
		{ID: "m'1", Source: "/http", DeviceID: "", ReceivedAt: instantOf(t, "2026-03-01T10:00:02Z"), Payload: []byte(tracedPlain)},
	} {
		other := mesh.Message{ID: "m'1", Source: m.Source, ReceivedAt: m.ReceivedAt + 1, Payload: []byte(`{"device_id":"other","time":"2026-03-01T10:00:00Z","co2":1}`)}
		deliver(t, in, mesh.TelemetryReceived, "/test", mesh.EncodeMessages([]mesh.Message{other, m}), fmt.Sprint(i))
	}

	id := mesh.ReadingID(tracedDevice, "co2", tracedAt(t))
	told := ""
	check := func(t *testing.T) {
		text := telemesh(t, "trace", "--data", data, id[:12])
		const time = `\S+Z`
		matches(t, text,
			"reading "+id, "device "+tracedDevice, "metric co2", "observed 2026-03-01T10:00:00.1002Z",
			`iot_telemetry.readings 900 ppm of tenant tenant-a \(revision 1, assignment_version \d+, quality conflict\)`,
			`iot_analytics.readings 900 ppm of tenant tenant-a \(revision 1, assignment_version \d+, quality conflict\)`,
			"message 1 of 2", "source /lora", "id m'1", "received 2026-03-01T10:00:01Z", "attribute sender ttn",
			"event /test "+mesh.Hash("0")+", accepted by iot/iot at "+time,
			"reader read as ttn-v3: 2 readings; this one gives the stored row again", "reading 812 ppm", fmt.Sprintf("payload %d bytes", len(tracedUplink)),
			regexp.QuoteMeta(tracedUplink),
			"message 2 of 2", "source /http", "reader read as json: 1 readings; this one gives the stored row again", "reading 900 ppm",
			regexp.QuoteMeta(strings.TrimSuffix(tracedPlain, "\n")),
			time+` tenant-a 812 ppm \d+ - 1 no: a lesser one of conflicting values \(value 812 < 900\)`,
			time+` tenant-a 900 ppm \d+ - 2 yes: the greatest of conflicting values \(value 900 > 812\)`,
			time+` tenant-a 900 ppm \d+ - \d+ B//1.01 School A - 2 yes: the greatest of conflicting values \(value 900 > 812\)`,
			"whose device "+tracedDevice+" was at 2026-03-01T10:00:00.1002Z",
			time+` 2 1 tenant-a 2026-01-01T00:00:00Z open tenant-a, assignment_version 2.* /sheets/rooms [0-9a-f]+, accepted by iot/iot at `+time,
			time+" iot/iot telemetry.received /test - - [0-9a-f]{12} - brought the message",
			time+" iot/iot telemetry.flattened telemetry-flatten - - [0-9a-f]{12} "+mesh.Hash("0")[:shownID]+" made readings of it",
			time+" iot/iot, analytics/analytics telemetry.enriched tenant-enrich tenant-a .* says whose they are",
			time+" analytics/analytics analytics.joined analytics-join tenant-a .* adds place, customer and last action",
		)
		if strings.Contains(text, "tenant-b") || strings.Contains(text, "\x1b") {
			t.Errorf("the story of a reading tells of another's tenant, or commands the terminal:\n%s", text)
		}
		again := telemesh(t, "trace", "--data", data, "--json", strings.ToUpper(id))
		if diff := cmp.Diff(told, again); told != "" && diff != "" {
			t.Errorf("the story is another one (-before +now):\n%s", diff)
		}
		told = again
	}
	t.Run("the mesh runs", check)
	if err := in.close(); err != nil {
		t.Fatal(err)
	}
	in.mesh, in.warehouse, in.socket = nil, nil, nil
	t.Run("the folder is free", check)

	story := storyOf(t, data, id)
	if story.ReadingID != id || story.Ports[0].State != trace.Shown || len(story.Ports[1].Revisions) != 2 {
		t.Errorf("story: %s, %+v", story.ReadingID, story.Ports)
	}
	first, second := story.Messages[0], story.Messages[1]
	if string(first.Payload()) != tracedUplink || string(second.Payload()) != tracedPlain || !first.Decoded.Again {
		t.Errorf("messages: %+v, %+v", first, second)
	}
	// Every event names the one before it, up to those of the messages.
	events, made := map[string]trace.Event{}, map[string]int{}
	for _, e := range story.Events {
		events[e.ID] = e
		made[e.Type]++
	}
	for _, eventType := range []string{mesh.TelemetryReceived, mesh.TelemetryFlattened, mesh.TelemetryEnriched, mesh.AnalyticsJoined} {
		if made[eventType] != 2 {
			t.Errorf("%d events %s, want one of each message", made[eventType], eventType)
		}
	}
	for _, e := range story.Events {
		cause, ok := e.Extensions[mesh.ExtCauseID]
		if _, found := events[cause]; !found && (ok || e.Type != mesh.TelemetryReceived) {
			t.Errorf("%s %s was made of %q, which is not in the story", e.Type, e.ID, cause)
		}
	}
}

// A reading of nobody is parked; bytes that are no text are shown as such, long
// ones cut. What the log has not is missing, and said to be.
func TestTraceOfParked(t *testing.T) {
	data := t.TempDir()
	in := openFolder(t, data)
	var csv bytes.Buffer
	csv.WriteString("device_id,time,co2\n")
	for i := range 500 {
		fmt.Fprintf(&csv, "many,%d,%d\n", 1_772_359_200+i, i)
	}
	deliver(t, in, mesh.TelemetryReceived, "/test", mesh.EncodeMessages([]mesh.Message{{
		ID: "long", Source: "/files", ContentType: "text/csv", ReceivedAt: instantOf(t, "2026-03-02T00:00:00Z"), Payload: csv.Bytes(),
	}}), "1")
	deliver(t, in, mesh.TelemetryEnriched, "/elsewhere", mesh.EncodeReadings([]mesh.Reading{{
		DeviceID: "bare", Metric: "co2", Value: 5, ObservedAt: 60_000_000, ReceivedAt: 61_000_000, TenantID: "t", EventSource: "/gone", EventID: "g", Revision: 7,
		ReadingID: mesh.ReadingID("bare", "co2", 60_000_000),
	}}), "2")

	shown := len(strings.Join(strings.SplitAfter(csv.String(), "\n")[:20], ""))
	text := telemesh(t, "trace", "--data", data, mesh.ReadingID("many", "co2", 1_772_359_200_000_000))
	matches(t, text,
		`iot_telemetry.readings 0 ppm, parked: nothing was ever said of whose the device was \(revision 0\)`,
		"iot_analytics.readings has no row: a reading comes here when a tenant held its device",
		"content type text/csv, as the transport said", "reader read as csv: 500 readings; this one gives the stored row again",
		fmt.Sprintf("payload %d bytes, of which the first %d are shown; --json has all", csv.Len(), shown), "many,1772359200,0", "many,1772359218,18",
		"nothing was ever said",
		".* telemetry.unassigned tenant-enrich - .* says that they are nobody's",
	)
	if strings.Contains(text, "many,1772359219,19") {
		t.Error("a long payload is not cut")
	}
	if s := storyOf(t, data, mesh.ReadingID("many", "co2", 1_772_359_200_000_000)); !bytes.Equal(s.Messages[0].Payload(), csv.Bytes()) {
		t.Error("a long payload is not whole in JSON")
	}

	text = telemesh(t, "trace", "--data", data, mesh.ReadingID("bare", "co2", 60_000_000))
	matches(t, text, `iot_telemetry.readings 5 of tenant t \(revision 7, .*`, "RECORDED .* REVISION AS APPENDED .*", `\S+Z t 5 0 - 7 .*`, "source /gone", `bytes event_log.events has no event with this message \(any more\)`,
		`event_log.events has none of this reading \(any more\)`)
}

// Bytes that are no text do not reach the terminal, and JSON has each of them.
func TestTraceOfBytes(t *testing.T) {
	data := t.TempDir()
	in := openFolder(t, data)
	payload := bytes.Repeat([]byte("\xff\x00\x1b[2J\xc3"), 50)
	m := mesh.Message{ID: "b", Source: "/lora", ReceivedAt: instantOf(t, "2026-03-02T00:00:00Z"), Payload: payload}
	deliver(t, in, mesh.TelemetryReceived, "/test", mesh.EncodeMessages([]mesh.Message{m}), "1")
	id := mesh.ReadingID("bytes", "co2", 60_000_000) // as a reader of the message said that there is no more
	deliver(t, in, mesh.TelemetryEnriched, "/elsewhere", mesh.EncodeReadings([]mesh.Reading{{
		ReadingID: id, DeviceID: "bytes", Metric: "co2", Value: 5, ObservedAt: 60_000_000, ReceivedAt: m.ReceivedAt, TenantID: "t", EventSource: m.Source, EventID: m.ID,
	}}), "2")

	text := telemesh(t, "trace", "--data", data, id)
	matches(t, text, "reader no reader: it is rejected now: .*", "payload 350 bytes, of which the first 320 are shown; --json has all")
	if dump := hex.Dump(payload[:320]); !strings.Contains(text, "\n\n"+dump+"\n") {
		t.Errorf("the story has not these bytes:\n%s\nbut:\n%s", dump, text)
	}
	if strings.ContainsAny(text, "\x00\x1b") || !utf8.ValidString(text) {
		t.Error("the story commands the terminal")
	}
	var story struct{ Messages []map[string]any }
	if err := json.Unmarshal([]byte(telemesh(t, "trace", "--data", data, "--json", id)), &story); err != nil {
		t.Fatal(err)
	}
	got := story.Messages[0]
	if got["payload_base64"] != base64.StdEncoding.EncodeToString(payload) || got["payload"] != nil || got["bytes"] != 350.0 {
		t.Errorf("message in JSON: %v", got)
	}
}

// What is no id, or names no reading or several, is refused with what to do.
func TestTraceOfNothing(t *testing.T) {
	data := t.TempDir()
	in := openFolder(t, data)
	var several []mesh.Reading
	for _, id := range []string{"abcdef0123", "abcdef0124"} {
		several = append(several, mesh.Reading{ReadingID: id + strings.Repeat("0", 22), DeviceID: "d" + id, Metric: "co2", ObservedAt: 1, ReceivedAt: 1})
	}
	deliver(t, in, mesh.TelemetryUnassigned, "/elsewhere", mesh.EncodeReadings(several), "1")
	for _, test := range []struct{ id, err, hint string }{
		{"abcdef0", `"abcdef0" is no reading_id`, "32 hexadecimal digits"},
		{"d1' OR true", `is no reading_id`, "telemesh query"},
		{strings.Repeat("a", 33), "is no reading_id", "telemesh query"},
		{strings.Repeat("a", 32), "no reading " + strings.Repeat("a", 32), "SELECT reading_id"},
		{"abcdef012", "more than one reading begins with abcdef012", "such as " + several[0].ReadingID + " and " + several[1].ReadingID},
	} {
		out, err := command(t.Context(), t, "trace", "--data", data, test.id).CombinedOutput()
		text, hint, _ := strings.Cut(string(out), "\nhint: ")
		if err == nil || !strings.Contains(text, test.err) || !strings.Contains(hint, test.hint) {
			t.Errorf("trace %q: %v\n%s", test.id, err, out)
		}
	}
	matches(t, telemesh(t, "trace", "--data", data, "abcdef0123"), "reading "+several[0].ReadingID)
}

// Corrected, a reading has the rows that it had and those that it was corrected
// to, and its story says by which event, through which repair.
func TestTraceOfCorrection(t *testing.T) {
	data := t.TempDir()
	in := openFolder(t, data)
	january, february := instantOf(t, "2026-01-01T00:00:00Z"), instantOf(t, "2026-02-01T00:00:00Z")
	change := func(placements ...mesh.Placement) {
		t.Helper()
		for i := range placements {
			placements[i].DeviceID, placements[i].Building, placements[i].Room = tracedDevice, "B", "1.01"
		}
		deliverTo(t, in, "iot", mesh.PlacementsChanged, mesh.Encode(mesh.Placements{Placements: placements}))
	}
	change(mesh.Placement{TenantID: "tenant-a", ValidFrom: january, Version: 1})
	deliver(t, in, mesh.TelemetryReceived, "/test", mesh.EncodeMessages([]mesh.Message{
		{ID: "m1", Source: "/lora", ReceivedAt: instantOf(t, "2026-03-01T10:00:01Z"), Payload: []byte(tracedUplink)},
	}), "1")
	change(mesh.Placement{TenantID: "tenant-a", ValidFrom: january, ValidTo: &february, Version: 2}, mesh.Placement{TenantID: "tenant-b", ValidFrom: february, Version: 2})

	const time = `\S+Z`
	id := mesh.ReadingID(tracedDevice, "co2", tracedAt(t))
	text := telemesh(t, "trace", "--data", data, id)
	matches(t, text,
		`iot_telemetry.readings 812 ppm of tenant tenant-b \(revision 1, assignment_version 3\)`,
		`iot_analytics.readings 812 ppm of tenant tenant-b \(revision \d+, assignment_version 3\)`,
		"message 1 of 1",
		time+` tenant-a 812 ppm 1 - 1 no: an earlier decision about the tenant \(assignment_version 1 < 3\)`,
		time+` tenant-b 812 ppm 3 - 1 yes: the latest decision about the tenant \(assignment_version 3 > 1\)`,
		time+` tenant-a 812 ppm 1 - \d+ B//1.01 - - 1 no: an earlier decision about the tenant \(assignment_version 1 < 3\)`,
		time+` tenant-b 812 ppm 3 - 3 B//1.01 - - 1 yes: .*`, // who joined it first may not have known the placement yet
		time+` 1 1 tenant-a 2026-01-01T00:00:00Z open tenant-a, assignment_version 1 /sheets/rooms .*`,
		time+` 3 2 tenant-a 2026-01-01T00:00:00Z 2026-02-01T00:00:00Z tenant-b, assignment_version 3: the row's /sheets/rooms [0-9a-f]+, accepted by iot/iot at `+time,
		time+` 3 2 tenant-b 2026-02-01T00:00:00Z open tenant-b, assignment_version 3: the row's /sheets/rooms .*`,
		time+" iot/iot, analytics/analytics telemetry.enriched tenant-enrich tenant-a 1 .*",
		time+" iot/iot placements.changed /sheets/rooms - - .* says where devices stand",
		time+" iot/iot, analytics/analytics placements.recorded warehouse-sink - 3 .*",
		time+" iot/iot, analytics/analytics telemetry.enriched tenancy-repair tenant-b 3 .* says whose they are",
		time+" iot/iot tenancy.repaired tenancy-repair .*",
		time+" analytics/analytics analytics.joined analytics-[a-z]+ tenant-b .*",
	)

	change(mesh.Placement{TenantID: "tenant-b", ValidFrom: february, Version: 3, Deleted: true})
	text = telemesh(t, "trace", "--data", data, id)
	matches(t, text,
		`iot_telemetry.readings 812 ppm, withdrawn: nobody held the device any more by assignment_version 4 \(revision 2\)`,
		"iot_analytics.readings shows nothing: the reading was withdrawn from who had it",
		time+` - 812 ppm 4 - 1 yes: the latest decision about the tenant \(assignment_version 4 > 3\)`,
		time+` - 812 ppm 4 - \d+ withdrawn .* yes: .*`,
		time+` 4 3 tenant-b \(deleted\) 2026-02-01T00:00:00Z open -, assignment_version 4: the row's /sheets/rooms .*`,
		time+" iot/iot, analytics/analytics telemetry.unassigned tenancy-repair - 4 .*",
		time+" analytics/analytics analytics.withdrawn analytics-[a-z]+ - .*",
	)
	story := storyOf(t, data, id)
	if story.Ports[0].State != trace.Withdrawn || story.Ports[1].State != trace.Withdrawn || story.Ports[1].Row != nil {
		t.Errorf("states: %s, %s", story.Ports[0].State, story.Ports[1].State)
	}
	var decided []string
	for _, p := range story.Placements {
		decided = append(decided, fmt.Sprintf("%d %q %t %t", p.Log, p.Holder, p.Decides, p.Stamps))
	}
	if diff := cmp.Diff([]string{`1 "tenant-a" true false`, `3 "tenant-b" true false`, `3 "tenant-b" true false`, `4 "" true true`}, decided); diff != "" {
		t.Errorf("placements (-want +got):\n%s", diff)
	}
}

// Of what came or was corrected together with a reading, its story has what was
// said of the reading. Where the log does not tell that, it says so.
func TestTraceAmongOthers(t *testing.T) {
	data := t.TempDir()
	in := openFolder(t, data)
	january, february := instantOf(t, "2026-01-01T00:00:00Z"), instantOf(t, "2026-02-01T00:00:00Z")
	change := func(placements ...mesh.Placement) {
		t.Helper()
		deliverTo(t, in, "iot", mesh.PlacementsChanged, mesh.Encode(mesh.Placements{Placements: placements}))
	}
	change(mesh.Placement{DeviceID: "d", TenantID: "tenant-a", ValidFrom: january, Version: 1},
		mesh.Placement{DeviceID: "of-b", TenantID: "tenant-b", ValidFrom: january, Version: 1},
		mesh.Placement{DeviceID: "of-c", TenantID: "tenant-c", ValidFrom: january, Version: 1})
	// Corrected, the readings of d are three events of which the log does not say
	// what each has.
	var csv bytes.Buffer
	csv.WriteString("device_id,time,co2\n")
	const first, readings = 1_772_359_200, 1100
	for i := range readings {
		fmt.Fprintf(&csv, "d,%d,%d\n", first+i, i)
	}
	for _, device := range []string{"of-b", "of-c", "of-nobody"} {
		fmt.Fprintf(&csv, "%s,%d,1\n", device, first)
	}
	deliver(t, in, mesh.TelemetryReceived, "/test", mesh.EncodeMessages([]mesh.Message{{
		ID: "m", Source: "/files", ContentType: "text/csv", ReceivedAt: instantOf(t, "2026-03-02T00:00:00Z"), Payload: csv.Bytes(),
	}}), "1")
	// The last one: by the time that it is stored, all three were accepted.
	id := mesh.ReadingID("d", "co2", (first+readings-1)*1_000_000)
	// made is how often each type of event is in the story, by its tenant. What
	// joins need not know the last change yet, nor the same in each event: at
	// least one of the events has the reading, and they are none of others.
	made := func() map[string]int {
		made, choices := map[string]int{}, map[int]string{}
		for _, e := range storyOf(t, data, id).Events {
			what := strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(e.Type, "dev.telemesh."), ".v1") + " " + e.Extensions[mesh.ExtTenant])
			if other := choices[e.Choice]; e.Choice != 0 && other != "" && other != what {
				t.Errorf("a choice of %s and %s", other, what)
			}
			choices[e.Choice] = what
			switch e.Type {
			case mesh.AnalyticsJoined, mesh.AnalyticsWithdrawn:
				if made[what] = 1; e.Extensions[mesh.ExtCauseID] == "" {
					t.Errorf("%s of nothing", what)
				}
			case mesh.AnalyticsOutdated:
			default:
				made[what]++
				if (e.Choice != 0) != (e.Source == mesh.Source("tenancy-repair") && e.Type != mesh.TenancyRepaired) {
					t.Errorf("%s of %s is of choice %d", what, e.Source, e.Choice)
				}
			}
		}
		return made
	}
	want := map[string]int{"telemetry.received": 1, "telemetry.flattened": 1, "telemetry.enriched tenant-a": 1, "analytics.joined tenant-a": 1}
	if diff := cmp.Diff(want, made()); diff != "" {
		t.Errorf("events of one that was never corrected (-want +got):\n%s", diff)
	}

	post := func(e event.Event) error {
		if err := function.Post(t.Context(), in.mesh.Client(), ingress("iot"), e); err != nil {
			return err
		}
		return in.mesh.Idle(t.Context())
	}
	// other posts, as made of an event, a reading of another device that tells nothing of d's.
	other := func(function string, version int64, causeSource, causeID string) {
		t.Helper()
		at := mesh.Instant(first * 1_000_000)
		e := mesh.NewEvent(mesh.TelemetryEnriched, mesh.Source(function), mesh.EncodeReadings([]mesh.Reading{{
			ReadingID: mesh.ReadingID("of-b", "co2", at), DeviceID: "of-b", Metric: "co2", Value: 1, ObservedAt: at, ReceivedAt: at, TenantID: "tenant-b", AssignmentVersion: 3,
		}}), causeID)
		e.SetExtension(mesh.ExtTenant, "tenant-b")
		e.SetExtension(mesh.ExtCauseSource, causeSource)
		e.SetExtension(mesh.ExtCauseID, causeID)
		mesh.SetVersion(&e, version)
		if err := post(e); err != nil {
			t.Fatal(err)
		}
	}
	// A repair of another device, as it would run beside that of d.
	recorded := mesh.NewEvent(mesh.PlacementsRecorded, mesh.Source("warehouse-sink"), mesh.Encode(mesh.Placements{Placements: []mesh.Placement{
		{DeviceID: "of-b", TenantID: "tenant-b", ValidFrom: january, Version: 1}}}), "of-b")
	mesh.SetVersion(&recorded, 3)
	if err := post(recorded); err != nil {
		t.Fatal(err)
	}
	other("tenancy-repair", 5, recorded.Source(), recorded.ID())

	change(mesh.Placement{DeviceID: "d", TenantID: "tenant-a", ValidFrom: january, ValidTo: &february, Version: 2},
		mesh.Placement{DeviceID: "d", TenantID: "tenant-b", ValidFrom: february, Version: 2})
	// Other readings become the same tenant's with the next version.
	change(mesh.Placement{DeviceID: "of-c", TenantID: "tenant-c", ValidFrom: january, ValidTo: &february, Version: 3},
		mesh.Placement{DeviceID: "of-c", TenantID: "tenant-b", ValidFrom: february, Version: 3})
	change(mesh.Placement{DeviceID: "d", TenantID: "tenant-b", ValidFrom: february, ValidTo: &february, Version: 4},
		mesh.Placement{DeviceID: "d", TenantID: "tenant-c", ValidFrom: february, Version: 5})
	want["placements.changed"], want["placements.recorded"], want["tenancy.repaired"] = 2, 2, 2
	for _, tenant := range []string{"tenant-b", "tenant-c"} {
		want["telemetry.enriched "+tenant], want["analytics.joined "+tenant] = 3, 1
	}
	if diff := cmp.Diff(want, made()); diff != "" {
		t.Errorf("events of one that was corrected twice (-want +got):\n%s", diff)
	}
	// Of the flattened event, delivered again now, a reading is still tenant-b's:
	// not that of d, which is tenant-c's by this version.
	for _, e := range storyOf(t, data, id).Events {
		if e.Type == mesh.TelemetryFlattened {
			other("tenant-enrich", 9, e.Source, e.ID)
		}
	}
	change(mesh.Placement{DeviceID: "d", TenantID: "tenant-c", ValidFrom: february, Version: 6, Deleted: true})
	want["placements.changed"], want["placements.recorded"], want["tenancy.repaired"] = 3, 3, 3
	want["telemetry.unassigned"], want["analytics.withdrawn"] = 3, 1
	if diff := cmp.Diff(want, made()); diff != "" {
		t.Errorf("events of one that was withdrawn (-want +got):\n%s", diff)
	}

	// The story names every tenant that the reading ever was of, and says what it
	// does not know.
	text := telemesh(t, "trace", "--data", data, id)
	for _, told := range []struct {
		line  string
		times int
	}{
		{`telemetry.enriched +tenancy-repair +tenant-b +5 .* one of 3 such: says whose they are; --json has all`, 2},
		{`telemetry.enriched +tenancy-repair +tenant-c +9 .* one of 3 such: .*`, 2},
		{`telemetry.unassigned +tenancy-repair +- +10 .* one of 3 such: .*`, 2},
		{`telemetry.enriched .*`, 5},
	} {
		if n := len(regexp.MustCompile(`(?m)^\S+Z .* `+told.line+`$`).FindAllString(text, -1)); n != told.times {
			t.Errorf("%d lines %s, want %d", n, told.line, told.times)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
