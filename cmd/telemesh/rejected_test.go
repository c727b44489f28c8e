package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/rejected"
)

// deliver posts an event to the broker of an open folder and waits for the end.
func deliver(t *testing.T, in *instance, eventType, source string, data []byte, id ...string) {
	t.Helper()
	e := mesh.NewEvent(eventType, source, data, id...)
	if err := function.Post(t.Context(), in.mesh.Client(), ingress("iot"), e); err != nil {
		t.Fatal(err)
	}
	if err := in.mesh.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func openFolder(t *testing.T, data string) *instance {
	t.Helper()
	o := options{data: data}
	in, err := o.open(t.Context(), sheets{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.close(); err != nil {
			t.Error(err)
		}
	})
	return in
}

// rejectedOf gives the messages that `telemesh rejected` shows, oldest first.
func rejectedOf(t *testing.T, in *instance) []rejected.Message {
	t.Helper()
	found, err := in.warehouse.Query(t.Context(), rejected.SQL+"SELECT * FROM messages WHERE readings IS NULL ORDER BY received_at, source, message_id")
	if err != nil {
		t.Fatal(err)
	}
	var all []rejected.Message
	for row, err := range found.All {
		if err != nil {
			t.Fatal(err)
		}
		r, err := rejected.Read(row)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// What nobody can read comes through the broker, its function, the sink and the
// warehouse as it was received, whatever the bytes.
func TestRejectedMessageIsWhatWasReceived(t *testing.T) {
	var every []byte
	for i := range 256 {
		every = append(every, byte(i))
	}
	var want []mesh.Message
	for i, payload := range []string{
		string(every), "", "\x00", "{\"a\":\"\xff\"}", " {\"a\" : 1.0}\r\n", `"\ud800"`, strings.Repeat("[", 9999) + strings.Repeat("]", 9999),
		"null", "bnVsbA==", "'); DROP TABLE x; --", "\ufeff{}", "\ufeff{}",
	} {
		want = append(want, mesh.Message{ID: "same", Source: "/devices", Format: "no-such-format", ReceivedAt: mesh.Instant(1 + i), Payload: []byte(payload)})
	}
	want[3].DeviceID, want[3].ContentType = "d'1", "text/csv; charset=x"
	want[4].Attributes = map[string]string{"topic": "a/\x00\"b", "time": "never"}
	in := openFolder(t, t.TempDir())
	for range 2 {
		deliver(t, in, mesh.TelemetryReceived, "/test", mesh.EncodeMessages(want), "1")
	}
	got := rejectedOf(t, in)
	if len(got) != len(want) {
		t.Fatalf("%d messages are rejected, want %d", len(got), len(want))
	}
	ids := map[string]bool{}
	for i, r := range got {
		ids[r.Name[:shownID]] = true
		if diff := cmp.Diff(want[i], r.Message); diff != "" {
			t.Errorf("message %d (-want +got):\n%s", i, diff)
		}
		if !strings.Contains(r.Cause, "no-such-format") || r.Reader != "" || !r.IsMessage() {
			t.Errorf("message %d: reader %q, cause %q", i, r.Reader, r.Cause)
		}
	}
	if len(ids) != len(want) {
		t.Errorf("%d ids of %d messages", len(ids), len(want))
	}
}

// rejections are messages as an older telemetry-flatten may have left them:
// those with the cause "older" can be read today.
func rejections() []mesh.Rejection {
	at := func(i int) mesh.Instant { return 1_772_359_200_000_000 + mesh.Instant(i)*1_000_000 }
	var all []mesh.Rejection
	add := func(payload string, change func(*mesh.Rejection)) {
		r := mesh.Rejection{Cause: "older", Message: mesh.Message{
			ID: mesh.Hash(payload), Source: "/devices", ReceivedAt: at(len(all)), Payload: []byte(payload),
		}}
		if change != nil {
			change(&r)
		}
		all = append(all, r)
	}
	broken := func(r *mesh.Rejection) { r.Cause = "broken" }
	add(`{"device_id":"a","time":"2026-03-01T09:00:00Z","metrics":{"co2":812,"window":true,"state":"ok"}}`, nil)
	add(` {"device_id":"b","occupied":true}`+"\n", nil) // no time: its own is when it was received
	add(` {"device_id":"b","occupied":true}`+"\n", nil)
	add(`{"co2":5.5}`, func(r *mesh.Rejection) {
		r.DeviceID, r.Attributes = "named-outside", map[string]string{"time": "2026-02-01T00:00:00Z", "topic": "x/y"}
	})
	add(`{"end_device_ids":{"device_id":"joined","dev_eui":"70B3D57ED0000001"},"join_accept":{}}`, nil)
	add(`[{"device_id":"c","time":60,"co2":1},{"device_id":"c","time":60,"co2":2}]`, nil) // two values of one reading
	add(`{"device_id":"a","co2":`, broken)
	add(`{"co2":6}`, broken)
	add("\x00\x01", func(r *mesh.Rejection) { r.Cause, r.Format = "broken", "no-such-format" })
	for i := range 1200 {
		add(fmt.Sprintf(`{"device_id":"many","time":%d,"co2":%d}`, 1_700_000_000+i, i), nil)
	}
	return all
}

const readable, readings, unreadable = 1206, 1208, 3

// Retried, messages give what they would have given had they been read at
// first; retried again, nothing more.
func TestRetry(t *testing.T) {
	all := rejections()
	var could []mesh.Message
	for _, r := range all {
		if r.Cause == "older" {
			could = append(could, r.Message)
		}
	}
	const table = "SELECT * EXCLUDE recorded_at FROM iot_telemetry.readings ORDER BY ALL"
	at := t.TempDir()
	first := openFolder(t, at)
	deliver(t, first, mesh.TelemetryReceived, "/test", mesh.EncodeMessages(could), "1")
	want := rows(t, at, table)
	// The two values of one reading are one row.
	if len(want) != readings-1 {
		t.Fatalf("%d rows of messages that can be read, want %d", len(want), readings-1)
	}

	for _, test := range []struct {
		name    string
		running bool
		events  func([]mesh.Rejection) [][]mesh.Rejection
	}{
		{"the folder is free", false, func(all []mesh.Rejection) [][]mesh.Rejection { return [][]mesh.Rejection{all} }},
		{"the mesh runs, rejections came twice", true, func(all []mesh.Rejection) [][]mesh.Rejection { return [][]mesh.Rejection{all, all} }},
		{"the mesh runs, rejections came backwards", true, func(all []mesh.Rejection) [][]mesh.Rejection {
			var events [][]mesh.Rejection
			for some := range slices.Chunk(all, 100) {
				events = append(events, some)
			}
			slices.Reverse(events)
			return events
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := t.TempDir()
			in := openFolder(t, data)
			for i, some := range test.events(all) {
				deliver(t, in, mesh.TelemetryRejected, mesh.Source("telemetry-flatten"), mesh.EncodeRejections(some), fmt.Sprint(i))
			}
			refused := mesh.Rejection{Cause: "no source", Message: mesh.Message{ID: "r", Source: "/x", ReceivedAt: 1, Payload: []byte(`{"device_id":"never","co2":1}`)}}
			deliver(t, in, mesh.TelemetryRejected, mesh.Source("telemetry-ingest"), mesh.EncodeRejections([]mesh.Rejection{refused}), "refused")
			kept := rejectedOf(t, in)
			if len(kept) != len(all)+1 {
				t.Fatalf("%d messages are rejected, want %d", len(kept), len(all)+1)
			}
			idOf := func(part string) string {
				i := slices.IndexFunc(kept, func(r rejected.Message) bool { return strings.Contains(string(r.Payload), part) })
				return kept[i].Name
			}
			named, join := idOf(`{"device_id":"a","time"`), idOf("join_accept")
			if !test.running {
				if err := in.close(); err != nil {
					t.Fatal(err)
				}
				in.mesh, in.warehouse, in.socket = nil, nil, nil
			}
			out := telemesh(t, "rejected", "retry", "--data", data, named[:10])
			if !strings.Contains(out, named[:shownID]+"  3         3     -\n") || !strings.Contains(out, "        1, 1 of them read now") {
				t.Errorf("retry of one message:\n%s", out)
			}
			for round := range 2 {
				cmd := command(t.Context(), t, "rejected", "retry", "--data", data, "--all")
				var errs bytes.Buffer
				cmd.Stderr = &errs
				printed, err := cmd.Output()
				if err == nil || !strings.Contains(errs.String(), "3 messages remain unreadable\nhint: ") {
					t.Errorf("retry --all: %v\n%s", err, errs.String())
				}
				read, expected := readable-1, readings-1-3
				if round == 1 {
					read, expected = 0, 0
				}
				for _, want := range []string{
					fmt.Sprintf("messages  %9d, %d of them read now\n", read+unreadable+1, read),
					fmt.Sprintf("readings  %9d expected\n", expected), fmt.Sprintf("rows      %9d found\n", expected),
					"  -         -     not retried: telemetry-ingest refused it before it was a message",
				} {
					if !strings.Contains(string(printed), want) {
						t.Errorf("round %d: retry --all does not print %q:\n%s", round, want, printed[max(0, len(printed)-1000):])
					}
				}
				if diff := cmp.Diff(want, rows(t, data, table)); diff != "" {
					t.Errorf("round %d: (-read at first +retried)\n%.3000s", round, diff)
				}
				left := telemesh(t, "rejected", "list", "--data", data)
				if strings.Count(left, "\n") != 1+unreadable+1 || strings.Contains(left, "older") {
					t.Errorf("round %d: left are\n%s", round, left)
				}
			}
			// Named, it is read again, though it was: the same rows.
			out = telemesh(t, "rejected", "retry", "--data", data, named, join)
			if !strings.Contains(out, join[:shownID]+"  0         0     -\n") || !strings.Contains(out, "rows              3 found") {
				t.Errorf("retry of two that are read:\n%s", out)
			}
			if diff := cmp.Diff(want, rows(t, data, table)); diff != "" {
				t.Errorf("retried by name: (-read at first +retried)\n%.3000s", diff)
			}
			if got := rows(t, data, "SELECT count(*), count(readings), sum(readings) FROM iot_telemetry_internal.rejected"); got[0] != fmt.Sprintf("%d,%d,%d", len(all)+1+readable, readable, readings-1) {
				t.Errorf("the table of rejected messages: %s", got)
			}
			shown := telemesh(t, "rejected", "show", "--data", data, join)
			if !strings.Contains(shown, " rejected: older (") || !strings.Contains(shown, " 0 readings (") {
				t.Errorf("shown:\n%s", shown)
			}
		})
	}
}

// A retry says so, and lets the message stand, where the mesh makes no rows of
// what this process can read.
func TestRetryThatIsNotStored(t *testing.T) {
	manifests := t.TempDir()
	for _, folder := range builtIn() {
		files, err := fs.Glob(folder.FS, "*.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(manifests, folder.Name), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if folder.Name == "triggers" && file == "telemetry-flatten.yaml" {
				continue
			}
			text, err := fs.ReadFile(folder.FS, file)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(manifests, folder.Name, file), string(text))
		}
	}
	data := t.TempDir()
	in := openFolder(t, data)
	deliver(t, in, mesh.TelemetryRejected, mesh.Source("telemetry-flatten"), mesh.EncodeRejections(rejections()[:3]), "1")
	if err := in.close(); err != nil {
		t.Fatal(err)
	}
	in.mesh, in.warehouse, in.socket = nil, nil, nil
	cmd := command(t.Context(), t, "rejected", "retry", "--data", data, "--manifests", manifests, "--all")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "3 messages are read and not all of their readings are stored; 0 remain unreadable\nhint: ") ||
		!strings.Contains(string(out), "        5 expected") || !strings.Contains(string(out), "        0 found") {
		t.Errorf("retry in a mesh that reads nothing: %v\n%s", err, out)
	}
	if out := telemesh(t, "rejected", "list", "--data", data); strings.Count(out, "older") != 3 {
		t.Errorf("left are\n%s", out)
	}
	if out := telemesh(t, "rejected", "retry", "--data", data, "--all"); !strings.Contains(out, "        5 found") {
		t.Errorf("retry in a mesh that reads:\n%s", out)
	}
}

// A selection means what it says, whatever its letters mean to SQL.
func TestSelection(t *testing.T) {
	in := openFolder(t, t.TempDir())
	var all []mesh.Rejection
	for i, r := range []mesh.Rejection{
		{Cause: `100% "of" it`, Reader: "json"},
		{Cause: "1000 of it", Reader: "ttn-v3", Message: mesh.Message{DeviceID: "o'neill"}},
		{Cause: `a_b\c`, Message: mesh.Message{DeviceID: "-"}},
		{Cause: "aXb"},
	} {
		r.ID, r.Source, r.ReceivedAt = fmt.Sprint(i), "/x", mesh.Instant(i+1)
		all = append(all, r)
	}
	deliver(t, in, mesh.TelemetryRejected, mesh.Source("telemetry-flatten"), mesh.EncodeRejections(all), "1")
	for _, test := range []struct {
		s    rejected.Selection
		want string
	}{
		{rejected.Selection{Keys: []rejected.Key{{ReceivedAt: 1, Source: "/x", ID: "0"}, {ReceivedAt: 3, Source: "/x", ID: "2"}, {ReceivedAt: 3, Source: "/x", ID: "0"}}}, "02"},
		{rejected.Selection{}, "0123"},
		{rejected.Selection{Cause: "OF"}, "01"},
		{rejected.Selection{Cause: "100%"}, "0"},
		{rejected.Selection{Cause: "a_b"}, "2"},
		{rejected.Selection{Cause: `\c`}, "2"},
		{rejected.Selection{Cause: "100*it"}, "01"},
		{rejected.Selection{Cause: "' OR true --"}, ""},
		{rejected.Selection{Reader: "json"}, "0"},
		{rejected.Selection{Reader: "-"}, "23"},
		{rejected.Selection{Device: "o'neill"}, "1"},
		{rejected.Selection{Device: "-", Reader: "-"}, "3"},
	} {
		found, err := in.warehouse.Query(t.Context(), rejected.SQL+"SELECT message_id FROM messages WHERE "+test.s.Where()+" ORDER BY 1")
		if err != nil {
			t.Fatalf("%+v: %v", test.s, err)
		}
		got := ""
		for row, err := range found.All {
			if err != nil {
				t.Fatal(err)
			}
			got += row[0].(string)
		}
		if got != test.want {
			t.Errorf("%+v selects %s, want %s", test.s, got, test.want)
		}
	}
}

// What a device sends does not reach a terminal as anything but letters.
func TestPlain(t *testing.T) {
	for s, want := range map[string]string{
		"ok é 日本": "ok é 日本", "\x1b[2J": `\x1b[2J`, "a\nb": `a\nb`, "\xff": `\xff`, "\u202e": `\u202e`, `"`: `"`,
	} {
		if got := plain(s); got != want {
			t.Errorf("plain(%q) = %q, want %q", s, got, want)
		}
	}
	if !json.Valid([]byte(`"` + plain("\n") + `"`)) {
		t.Error("plain is no text")
	}
}
