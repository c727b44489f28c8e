package mesh_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
)

// reading is a random one that uses every member now and then, with strings
// that need escapes.
func reading(random *rand.Rand) mesh.Reading {
	text := func() string {
		words := []string{"", "co2", "a \"b\"", `\`, "°C", "\n", "\x00", "日本", "x/y"}
		return words[random.IntN(len(words))] + words[random.IntN(len(words))]
	}
	r := mesh.Reading{
		ReadingID: mesh.Hash(text()), DeviceID: "d" + text(), Metric: "m" + text(), Unit: text(),
		ObservedAt:  mesh.Instant(random.Int64N(1 << 53)),
		ReceivedAt:  mesh.Instant(random.Int64N(1<<32) * 1e6),
		EventSource: text(), EventID: text(), Quality: text(), Revision: random.Int64N(2),
		TenantID: text(),
	}
	if r.TenantID != "" {
		r.AssignmentVersion = random.Int64N(3)
	}
	switch random.IntN(4) {
	case 0:
		r.Kind, r.Value = mesh.Boolean, float64(random.IntN(2))
	case 1:
		r.Kind, r.ValueString = mesh.Text, text()
	case 2:
		r.Value, r.ValueString = 12345678901234567890, "12345678901234567891"
	default:
		r.Value = []float64{0, math.Copysign(0, -1), 1, -1, 0.1, 661, 1e15, 1e300, 5e-324, random.NormFloat64()}[random.IntN(10)]
	}
	if random.IntN(2) == 0 {
		r.Attributes = `{"f_cnt":1,"tags":["}","\"{"]}`
	}
	return r
}

func TestReadingsSurviveTheWire(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		want := []mesh.Reading{}
		for range random.IntN(4) {
			want = append(want, reading(random))
		}
		data := mesh.EncodeReadings(want)
		got, err := mesh.DecodeReadings(data)
		if err != nil {
			t.Fatalf("DecodeReadings(%s): %v", data, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("of %s (-want +got):\n%s", data, diff)
		}
		entries, err := mesh.DecodeEntries(data)
		if err != nil {
			t.Fatalf("DecodeEntries(%s): %v", data, err)
		}
		if diff := cmp.Diff(mesh.EncodeReadings(restamped(want)), restampedEntries(entries)); diff != "" {
			t.Fatalf("of %s (-stamped readings +stamped entries):\n%s", data, diff)
		}
		// Another writer orders and spaces the members as it likes.
		var general map[string]any
		if err := json.Unmarshal(data, &general); err != nil {
			t.Fatalf("%s is no JSON: %v", data, err)
		}
		var spaced bytes.Buffer
		encoder := json.NewEncoder(&spaced)
		encoder.SetIndent("", " ")
		if err := encoder.Encode(general); err != nil {
			t.Fatal(err)
		}
		again, err := mesh.DecodeReadings(spaced.Bytes())
		if err != nil {
			t.Fatalf("DecodeReadings(%s): %v", &spaced, err)
		}
		for i := range again {
			again[i].Attributes = want[i].Attributes // spacing changed it
			if again[i].Value == 0 {
				again[i].Value = want[i].Value // and the sign of zero
			}
		}
		if diff := cmp.Diff(want, again); diff != "" {
			t.Fatalf("of %s (-want +got):\n%s", &spaced, diff)
		}
	}
}

func restamped(readings []mesh.Reading) []mesh.Reading {
	out := slices.Clone(readings)
	for i := range out {
		out[i].TenantID, out[i].AssignmentVersion = "new "+out[i].DeviceID, int64(out[i].ObservedAt)
	}
	return out
}

func restampedEntries(entries []mesh.Entry) []byte {
	var w mesh.ReadingsWriter
	for i := range entries {
		e := &entries[i]
		w.AddTenancy(e, mesh.AppendTenancy(nil, "new "+e.DeviceID, int64(e.ObservedAt)))
	}
	return w.Data()
}

// A step that copies the text of a reading must not be led to another end of
// it, or to another device, by what the text holds.
func TestEntriesAreNotMisled(t *testing.T) {
	at := `"observed_at":"2026-01-01T00:00:00Z","received_at":"2026-01-01T00:00:00Z"`
	for _, attributes := range []string{
		"{\"a\":[{},\n{\"reading_id\":\"0\",\"device_id\":\"victim\"}]}",
		`{"tenant_id":"x","b":{",\"tenant_id\":\"x\"":1},"tenant_id ":"x"}`,
		`{"observed_at":"2020-01-01T00:00:00Z","tenant_id":"x"}`,
	} {
		data := []byte("{\"readings\":[\n{\"reading_id\":\"1\",\"device_id\":\"d\",\"metric\":\"m\",\"value\":1," + at + ",\"attributes\":" + attributes + "}\n]}")
		entries, err := mesh.DecodeEntries(data)
		if err != nil {
			t.Fatalf("DecodeEntries(%s): %v", data, err)
		}
		readings, err := mesh.DecodeReadings(restampedEntries(entries))
		if err != nil {
			t.Fatalf("after %s: %v", data, err)
		}
		if len(readings) != 1 || readings[0].DeviceID != "d" || readings[0].TenantID != "new d" {
			t.Errorf("of %s: %+v, want one reading of d", data, readings)
		}
	}
	twice := []byte("{\"readings\":[\n{\"reading_id\":\"1\",\"device_id\":\"d\",\"metric\":\"m\",\"value\":1," + at + ",\"device_id\":\"victim\"}\n]}")
	if readings, err := mesh.DecodeReadings(twice); err == nil {
		t.Errorf("a member that stands twice was read as %+v", readings)
	}
}

func TestJoinedSurvivesTheWire(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	persons, outside := int64(24), 421.5
	for range 300 {
		want := []mesh.JoinedReading{{Reading: reading(random), Building: "B \"1\"", Floor: "2", Room: "C1.07"}, {Reading: reading(random)}}
		if random.IntN(2) == 0 {
			want[0].Persons, want[0].OutsideCO2, want[0].CustomerName = &persons, &outside, "Schule é"
		}
		if random.IntN(2) == 0 {
			want[1].LastAction, want[1].LastActionAt = "window opened", want[1].ObservedAt-90e6
		}
		data := mesh.EncodeJoined(want)
		if !json.Valid(data) || !utf8.Valid(data) {
			t.Fatalf("%s is no JSON", data)
		}
		got, err := mesh.DecodeJoined(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("of %s (-want +got):\n%s", data, diff)
		}
		if want[1].LastAction != "" && !strings.Contains(string(data), `"minutes_since_action":1.5`) {
			t.Fatalf("%s lacks minutes_since_action 1.5", data)
		}
		// Who reads readings may read joined ones: more members do no harm.
		plain, err := mesh.DecodeReadings(data)
		if err != nil || len(plain) != 2 {
			t.Fatalf("DecodeReadings of joined readings: %d readings, %v", len(plain), err)
		}
	}
}

func TestMessagesSurviveTheWire(t *testing.T) {
	at := mesh.At(time.Date(2026, 3, 29, 1, 30, 0, 123456000, time.UTC))
	want := []mesh.Message{
		{ID: "1", Source: "/x", ReceivedAt: at, Payload: []byte("{ \"a\" : 1.0 ,\n \"b\": \"}]\\\"\" }")},
		{ID: "2", Source: "/x", DeviceID: "d", Format: "f", ContentType: "text/csv", Attributes: map[string]string{"k": "v", "a": `"`}, ReceivedAt: at + 1, Payload: []byte("a,b\n1")},
		{ID: "3", Attributes: map[string]string{"topic": "home/a,b:{}/d", "time": "", "Ü": "}"}, ReceivedAt: at, Payload: []byte("[1,[2,{}],\"x\"]")},
		{ID: "4", ReceivedAt: at, Payload: []byte("-12.50")},
		{ID: "5", ReceivedAt: at, Payload: []byte("\xff\x00")},
		{ID: "6 \"quoted\"", ReceivedAt: at, Payload: []byte("null")},
		{ID: "7", ReceivedAt: at, Payload: []byte("{\"a\":1,\"a\":\"\xff\"}")},
		{ID: "8", ReceivedAt: at, Payload: []byte(" {\"a\":1}")},
		{ID: "9", ReceivedAt: at, Payload: []byte("{\"a\":1}\r\n")},
		{ID: "10", ReceivedAt: at, Payload: []byte("{\"a\":\"\\ud800\"}")},
		{ID: "11", ReceivedAt: at, Payload: []byte("a\x00b")},
		{ID: "12", ReceivedAt: at, Payload: []byte{}},
		// JSON decoders take a depth of 10,000, with what is around the payload.
		{ID: "13", ReceivedAt: at, Payload: []byte(strings.Repeat("[", 9999) + strings.Repeat("]", 9999))},
		{ID: "14", ReceivedAt: at, Payload: []byte(`["` + strings.Repeat("]", 9999) + `"` + strings.Repeat(",[0", 9998) + strings.Repeat("]", 9999))},
	}
	for n := range len(want) + 1 {
		data := mesh.EncodeMessages(want[:n])
		if !json.Valid(data) || !utf8.Valid(data) {
			t.Fatalf("%s is no JSON", data)
		}
		got, err := mesh.DecodeMessages(data)
		if err != nil {
			t.Fatalf("DecodeMessages(%s): %v", data, err)
		}
		if len(got) != n {
			t.Fatalf("DecodeMessages(%s): %d messages, want %d", data, len(got), n)
		}
		for i := range got {
			if diff := cmp.Diff(want[i], got[i]); diff != "" {
				t.Fatalf("of %s (-want +got):\n%s", data, diff)
			}
		}
	}
	var rejections []mesh.Rejection
	for i, m := range want {
		rejections = append(rejections, mesh.Rejection{Message: m, Cause: fmt.Sprint("cause ", i), Position: mesh.PositionAt(i - 1)})
	}
	none, some := int64(0), int64(3)
	rejections[0].Reader, rejections[1].Readings, rejections[2].Readings = "json", &none, &some
	if data := mesh.EncodeRejections(rejections); !json.Valid(data) || !utf8.Valid(data) {
		t.Errorf("%s is no JSON", data)
	}
	got, err := mesh.DecodeRejections(mesh.EncodeRejections(rejections))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rejections, got); diff != "" {
		t.Errorf("rejections (-want +got):\n%s", diff)
	}
}

// A position that nobody set is not that of the first byte.
func TestPosition(t *testing.T) {
	for offset, want := range map[int]mesh.Position{-2: 0, -1: 0, 0: 1, 41: 42} {
		p := mesh.PositionAt(offset)
		if p != want || p.Offset() != max(offset, -1) {
			t.Errorf("PositionAt(%d) = %d at %d, want %d", offset, p, p.Offset(), want)
		}
	}
	data := string(mesh.EncodeRejections([]mesh.Rejection{{Cause: "x"}, {Cause: "y", Position: mesh.PositionAt(0)}}))
	if strings.Count(data, "position") != 1 || !strings.Contains(data, `"y","position":0,`) {
		t.Errorf("%s has not the one position 0", data)
	}
}

func TestBrokenDataIsAnError(t *testing.T) {
	for _, data := range []string{
		``, `{}`, `[]`, `null`, `{"readings":`, `{"readings":5}`, `{"readings":[{"metric":"m","value":1,"observed_at":"2026-01-01T00:00:00Z","received_at":"2026-01-01T00:00:00Z"}]}`,
		`{"readings":[{"device_id":"d","value":1,"observed_at":"2026-01-01T00:00:00Z","received_at":"2026-01-01T00:00:00Z"}]}`,
		`{"readings":[{"device_id":"d","metric":"m","observed_at":"2026-01-01T00:00:00Z","received_at":"2026-01-01T00:00:00Z"}]}`,
		`{"readings":[{"device_id":"d","metric":"m","value":1,"received_at":"2026-01-01T00:00:00Z"}]}`,
		`{"readings":[{"device_id":"d","metric":"m","value":1,"observed_at":"yesterday","received_at":"2026-01-01T00:00:00Z"}]}`,
		`{"readings":[]} {"readings":[]}`,
	} {
		if _, err := mesh.DecodeReadings([]byte(data)); err == nil {
			t.Errorf("DecodeReadings(%s) = nil error", data)
		}
		if _, err := mesh.DecodeJoined([]byte(data)); err == nil {
			t.Errorf("DecodeJoined(%s) = nil error", data)
		}
	}
	for _, data := range []string{``, `{}`, `{"messages":1}`, `{"messages":[{"id":"1","received_at":"no"}]}`} {
		if _, err := mesh.DecodeMessages([]byte(data)); err == nil {
			t.Errorf("DecodeMessages(%s) = nil error", data)
		}
	}
	for _, data := range []string{``, `{}`, `{"placements":null}`} {
		if _, err := mesh.Decode[mesh.Placements]([]byte(data)); err == nil {
			t.Errorf("Decode[Placements](%s) = nil error", data)
		}
	}
}

func TestReadingIDIsInjective(t *testing.T) {
	seen := map[string]string{}
	for _, device := range []string{"a", "a:b", "ab", "", "1:a"} {
		for _, metric := range []string{"c", "b:c", ":c", "", "bc"} {
			for _, at := range []mesh.Instant{0, 1, -1, 11} {
				what := fmt.Sprintf("%q %q %d", device, metric, at)
				id := mesh.ReadingID(device, metric, at)
				if other, ok := seen[id]; ok {
					t.Errorf("ReadingID(%s) = ReadingID(%s)", what, other)
				}
				seen[id] = what
			}
		}
	}
}

// The id is part of what is stored: it must never change.
func TestReadingIDIsStable(t *testing.T) {
	const want = "ae2e131d60630595"
	at := mesh.At(time.Date(2022, 10, 6, 11, 23, 0, 0, time.UTC))
	if got := mesh.ReadingID("925038/CO2-meter-SCD4x", "co2", at); len(got) != 32 || !strings.HasPrefix(got, want) { // sha256sum of "1665055380000000:22:925038/CO2-meter-SCD4x:co2"
		t.Errorf("ReadingID = %s, want %s…", got, want)
	}
}

func TestInstantEqualsTime(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 20000 {
		i := mesh.Instant(random.Int64N(253402300799e6+62167219200e6) - 62167219200e6) // years 0 to 9999
		if random.IntN(2) == 0 {
			i -= i % 1e6
		}
		want := i.Time().Format(time.RFC3339Nano)
		if got := i.String(); got != want {
			t.Fatalf("Instant(%d) = %s, want %s", i, got, want)
		}
		if got, err := mesh.ParseInstant(want); err != nil || got != i {
			t.Fatalf("ParseInstant(%s) = %d, %v, want %d", want, got, err, i)
		}
	}
	for _, s := range []string{"2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-01-32T00:00:00Z",
		"2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00", ""} {
		if got, err := mesh.ParseInstant(s); err == nil {
			t.Errorf("ParseInstant(%q) = %s, want an error", s, got)
		}
	}
	if got, _ := mesh.ParseInstant("2026-01-01T01:00:00.1234567+01:00"); got.String() != "2026-01-01T00:00:00.123456Z" {
		t.Errorf("an offset and seven digits: %s", got)
	}
}

func TestDeriveIsDeterministic(t *testing.T) {
	in := mesh.NewEvent(mesh.TelemetryFlattened, "/a", nil, "1")
	in.SetExtension(mesh.ExtTraceParent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	first := mesh.Derive(in, "f", mesh.TelemetryEnriched, "tenant", nil)
	if again := mesh.Derive(in, "f", mesh.TelemetryEnriched, "tenant", nil); again.ID() != first.ID() {
		t.Errorf("ids %s and %s of the same derivation differ", first.ID(), again.ID())
	}
	if other := mesh.Derive(in, "f", mesh.TelemetryEnriched, "other", nil); other.ID() == first.ID() {
		t.Error("two tenants share an id")
	}
	if first.Extensions()[mesh.ExtTraceParent] == nil {
		t.Error("the trace is lost")
	}
	want := map[string]any{mesh.ExtCauseSource: "/a", mesh.ExtCauseID: in.ID(), mesh.ExtTraceParent: in.Extensions()[mesh.ExtTraceParent]}
	if diff := cmp.Diff(want, first.Extensions()); diff != "" {
		t.Errorf("extensions (-want +got):\n%s", diff)
	}
}

func TestPermanentSurvivesWrapping(t *testing.T) {
	cause := errors.New("x")
	if err := fmt.Errorf("a: %w", mesh.Permanent(fmt.Errorf("b: %w", cause))); !mesh.IsPermanent(err) || !errors.Is(err, cause) {
		t.Errorf("IsPermanent(%v) = false", err)
	}
	if mesh.IsPermanent(cause) || mesh.Permanent(nil) != nil {
		t.Error("an unmarked error is permanent, or nil became an error")
	}
}

func FuzzDecodeReadings(f *testing.F) {
	random := rand.New(rand.NewPCG(7, 8))
	for range 5 {
		f.Add(mesh.EncodeReadings([]mesh.Reading{reading(random), reading(random)}))
	}
	f.Add([]byte(`{"readings":[{"device_id":"d","metric":"m","value_bool":true,"observed_at":"2026-01-01T00:00:00+02:00","received_at":"2026-01-01T00:00:00Z"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		readings, err := mesh.DecodeReadings(data)
		if err != nil {
			return
		}
		again, err := mesh.DecodeReadings(mesh.EncodeReadings(readings))
		if err != nil {
			t.Fatalf("what was decoded does not decode again: %v", err)
		}
		if len(again) != len(readings) {
			t.Fatalf("%d readings became %d", len(readings), len(again))
		}
	})
}

func BenchmarkDecodeReadings(b *testing.B) {
	data := mesh.EncodeReadings(batch(2000))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if readings, err := mesh.DecodeReadings(data); err != nil || len(readings) != 2000 {
			b.Fatal(len(readings), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/reading")
}

func BenchmarkEncodeReadings(b *testing.B) {
	readings := batch(2000)
	b.SetBytes(int64(len(mesh.EncodeReadings(readings))))
	b.ReportAllocs()
	for b.Loop() {
		if data := mesh.EncodeReadings(readings); len(data) < 2000*100 {
			b.Fatal(len(data))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/reading")
}

// batch is what 500 messages of four metrics become.
func batch(n int) []mesh.Reading {
	metrics := [4]string{"co2", "temperature", "relative_humidity", "occupancy"}
	readings := make([]mesh.Reading, n)
	for i := range readings {
		device, at := fmt.Sprintf("sensor-%03d", i/4%24), mesh.Instant(1.7e15)+mesh.Instant(i/4*1e6)
		readings[i] = mesh.Reading{
			ReadingID: mesh.ReadingID(device, metrics[i%4], at), DeviceID: device, Metric: metrics[i%4], Value: 400.5 + float64(i),
			Unit: "ppm", ObservedAt: at, ReceivedAt: 1.7e15 + 123456, EventSource: "/telemesh/telemetry-ingest", EventID: mesh.Hash(device),
		}
	}
	return readings
}
