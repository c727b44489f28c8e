package ingest

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

// Whatever comes becomes messages or refusals that survive the way to the
// broker, with nothing made up; the same comes to the same.
func FuzzSplit(f *testing.F) {
	const ce = `{"specversion":"1.0","id":"1","source":"/s","type":"t","n":5,"data_base64":"AP8="}`
	push := `{"message":{"attributes":{"a":"b"},"data":"e30=","messageId":"1","publishTime":"2026-01-02T03:04:05Z"},"subscription":"s"}`
	for _, seed := range []struct{ path, contentType, format, body string }{
		{"/", "application/json", "", `[{"a":1},{"a":2}]`},
		{"/", "", "", `[{"bn":"a"},{"n":"b","v":1}] [[{"n":"c","vs":""}]]`},
		{"/", "application/x-www-form-urlencoded", "", "{\"a\":\n{\"a\":2}\n"},
		{"/", "application/x-ndjson", "", "{}\n\n{}"},
		{"/", "text/csv", "", "a;b\n\"1\n\";" + strings.Repeat("x", 9000) + "\n2;" + strings.Repeat("y", 9000)},
		{"/", "text/plain", "line-protocol", strings.Repeat("m f=1i 1\n", 2000)},
		{"/", "application/cloudevents+json", "", ce},
		{"/", "application/cloudevents-batch+json; charset=utf-8", "", "[" + ce + "," + `{"specversion":"1.0"},7`},
		{"/", "application/cloudevents+avro", "", "x"},
		{pushPath, "application/json", "", push},
		{pushPath, "application/json", "", strings.Replace(push, `"a":"b"`, `"ce-specversion":"1.0","ce-id":"1","ce-type":"t","ce-source":"/s"`, 1)},
		{pushPath, "application/cloudevents+json", "", ce},
	} {
		f.Add(seed.path, seed.contentType, seed.format, seed.body)
	}
	f.Fuzz(func(t *testing.T, path, contentType, format, body string) {
		in := func() *request {
			return &request{header: http.Header{"Content-Type": {contentType}}, body: []byte(body), now: 1, push: path == pushPath, format: format,
				said: map[string]string{mesh.AttributeSender: "x"}}
		}
		messages, refused, err := in().split()
		if err != nil {
			return
		}
		if again, _, err := in().split(); err != nil || !cmp.Equal(messages, again) {
			t.Fatalf("split otherwise the second time: %v", err)
		}
		for i, m := range messages {
			if m.ID == "" || m.Source == "" || m.CheckIdentity() != nil || m.ReceivedAt != 1+mesh.Instant(i) && len(refused) == 0 || m.Attributes[mesh.AttributeSender] != "x" {
				t.Errorf("message %+v", m)
			}
		}
		for _, r := range refused {
			if r.Cause == "" || len(r.Cause) > mesh.MaxIdentity+10 || r.ID == "" || r.CheckIdentity() != nil || r.Attributes[mesh.AttributeSender] != "x" {
				t.Errorf("refusal %+v", r)
			}
		}
		decoded, err := mesh.DecodeMessages(mesh.EncodeMessages(messages))
		if err != nil || len(decoded) != len(messages) {
			t.Fatalf("%d messages encoded, %d decoded: %v", len(messages), len(decoded), err)
		}
		for i := range decoded {
			if !bytes.Equal(decoded[i].Payload, messages[i].Payload) {
				t.Errorf("payload %q became %q", messages[i].Payload, decoded[i].Payload)
			}
		}
	})
}

// What the reader of packs takes for one is not taken apart before it.
func FuzzPack(f *testing.F) {
	for _, seed := range []string{
		`[{"bn":"a"},{"n":"b","v":1}]`, `[{"n":"a","vb":true}] `, `[{"n":"a","s":null}]`, `[{"n":"a","vs":"x"} {"n":"b"}]`, `[{"bn":"a"}`,
		`[{"\u0062n":"a"}]`, `[{"n":"a","v":1,"device":"x"}]`, `[{"bn":1}]`, `[[{"bn":"a"}]]`, `{"bn":"a"}`, `[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !device.IsPack(body) {
			return
		}
		if parts := elements(body); len(parts) == 0 || !bytes.HasPrefix(bytes.TrimSpace(body), parts[0]) || !device.IsPack(parts[0]) {
			t.Errorf("%q is taken apart into %q", body, parts)
		}
	})
}

// The rows of a CSV, and lines, are all there once, in order.
func FuzzChunks(f *testing.F) {
	f.Add("a,b\n", "1,\"x\ny\"\n", 2000)
	f.Add("a\tb\r\n", "\n\n1\t\"\r\n", 3000)
	f.Fuzz(func(t *testing.T, header, row string, n int) {
		if n < 0 || n*len(row) > 1<<18 {
			return
		}
		body := []byte(header + strings.Repeat(row, n))
		end := 0
		for e := range rowEnds(body) {
			end = e
			break
		}
		for name, parts := range map[string][][]byte{"rows": chunks(body, end, rowEnds(body)), "lines": chunks(body, 0, lineEnds(body))} {
			first := end
			if name == "lines" {
				first = 0
			}
			all := bytes.Clone(body[:first])
			for _, part := range parts {
				if !bytes.HasPrefix(part, body[:first]) {
					t.Fatalf("%s: a part without the header: %.60q", name, part)
				}
				all = append(all, part[first:]...)
			}
			if !bytes.Equal(bytes.Join(bytes.Fields(all), nil), bytes.Join(bytes.Fields(body), nil)) {
				t.Errorf("%s: what is split is not what came", name)
			}
		}
	})
}
