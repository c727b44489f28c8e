package ingest_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/functions/telemetry-ingest/ingest"
	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/mesh"
)

// carried is what of a CloudEvent a message carries.
type carried struct {
	ID, Source, ContentType string
	Attributes              map[string]string
	Data                    string
}

// quick waits for no other messages.
var quick = ingest.Config{Config: batch.Config{Linger: time.Nanosecond}}

// deliver posts a request and gives what the broker accepted of it.
func deliver(t *testing.T, header map[string]string, body string) (status int, out []carried) {
	t.Helper()
	b := &broker{}
	var headers []string
	for name, value := range header {
		headers = append(headers, name, value)
	}
	w := post(server(t, b, quick), header["Content-Type"], body, headers...)
	for _, e := range b.events {
		if e.Type() != mesh.TelemetryReceived {
			continue
		}
		messages, err := mesh.DecodeMessages(e.Data())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			out = append(out, carried{m.ID, m.Source, m.ContentType, m.Attributes, string(m.Payload)})
		}
	}
	return w.Code, out
}

// ce is a CloudEvent, as a test means it.
type ce struct {
	attributes map[string]string // all but datacontenttype
	mediaType  string            // datacontenttype; empty: none
	data       string
}

// carried says what a message has to carry of e.
func (e ce) carried() carried {
	out := carried{e.attributes["id"], e.attributes["source"], mesh.MediaType(e.mediaType), map[string]string{}, e.data}
	for name, value := range e.attributes {
		if name != "id" && name != "source" && name != "specversion" {
			out.Attributes[name] = value
		}
	}
	return out
}

// binary gives e in binary mode, its attributes encoded as the HTTP binding
// demands in section 3.1.3.2.
func (e ce) binary() (map[string]string, string) {
	header := map[string]string{"Content-Type": e.mediaType}
	for name, value := range e.attributes {
		var encoded strings.Builder
		for _, c := range []byte(value) {
			if c <= ' ' || c > '~' || c == '"' || c == '%' {
				fmt.Fprintf(&encoded, "%%%02X", c)
			} else {
				encoded.WriteByte(c)
			}
		}
		header["ce-"+name] = encoded.String()
	}
	return header, e.data
}

// structured gives e in the JSON format.
func (e ce) structured() string {
	members := map[string]any{}
	for name, value := range e.attributes {
		members[name] = value
	}
	if e.mediaType != "" {
		members["datacontenttype"] = e.mediaType
	}
	isJSON := e.mediaType == "" || strings.Contains(e.mediaType, "json")
	switch {
	case isJSON && json.Valid([]byte(e.data)):
		members["data"] = json.RawMessage(e.data)
	case isJSON:
		members["data_base64"] = base64.StdEncoding.EncodeToString([]byte(e.data))
	default:
		members["data"] = e.data
	}
	text, err := json.Marshal(members)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// TestConformanceCases runs the cases of cloudevents/conformance in all modes,
// whichever they name.
func TestConformanceCases(t *testing.T) {
	dir := dataset.Path(t, "cloudevents/conformance")
	cases := 0
	for _, file := range []string{"v1.yaml", "v1_minimum.yaml"} {
		f, err := os.Open(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		documents := yaml.NewDecoder(f)
		for {
			var in struct {
				ContextAttributes struct {
					Specversion, Type, Time, ID, Source, Datacontenttype string
					Extensions                                           map[string]string `yaml:"Extensions"`
				} `yaml:"ContextAttributes"`
				TransportExtensions map[string]string `yaml:"TransportExtensions"`
				Data                string            `yaml:"Data"`
			}
			if err := documents.Decode(&in); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			cases++
			a := in.ContextAttributes
			e := ce{map[string]string{"specversion": a.Specversion, "type": a.Type, "id": a.ID, "source": a.Source}, a.Datacontenttype, in.Data}
			if a.Time != "" {
				e.attributes["time"] = a.Time
			}
			for name, value := range a.Extensions {
				e.attributes[name] = value
			}
			deliverInAllModes(t, fmt.Sprintf("%s %s", file, a.ID), e, in.TransportExtensions)
		}
	}
	if cases != 8 {
		t.Errorf("%d cases, want 8", cases)
	}
}

func deliverInAllModes(t *testing.T, name string, e ce, transport map[string]string) {
	t.Helper()
	binary, body := e.binary()
	for mode, in := range map[string]struct {
		header map[string]string
		body   string
		times  int
	}{
		"binary":     {binary, body, 1},
		"structured": {map[string]string{"Content-Type": "application/cloudevents+json; charset=utf-8"}, e.structured(), 1},
		"batched":    {map[string]string{"Content-Type": "application/cloudevents-batch+json"}, "[" + e.structured() + ",\n" + e.structured() + "]", 2},
	} {
		for name, value := range transport {
			in.header[name] = value
		}
		status, got := deliver(t, in.header, in.body)
		if status != http.StatusAccepted || len(got) != in.times {
			t.Errorf("%s, %s: status %d and %d messages, want 202 and %d", name, mode, status, len(got), in.times)
			continue
		}
		want := e.carried()
		if mode != "binary" && json.Valid([]byte(want.Data)) && want.ContentType == "" { // a JSON value has no line end
			want.Data = strings.TrimSpace(want.Data)
			got[0].Data = compact(got[0].Data)
			want.Data = compact(want.Data)
		}
		if diff := cmp.Diff(want, got[0]); diff != "" {
			t.Errorf("%s, %s (-want +got):\n%s", name, mode, diff)
		}
	}
}

func compact(text string) string {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return text
	}
	out, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// TestConformanceFeature runs conformance/http-protocol-binding.feature: each
// scenario once for every line of its examples.
func TestConformanceFeature(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(dataset.Path(t, "cloudevents/conformance"), "http-protocol-binding.feature"))
	if err != nil {
		t.Fatal(err)
	}
	run := 0
	row := regexp.MustCompile(`(?m)^[ ]*\|[ ]*(.*?)[ ]*\|(?:[ ]*(.*?)[ ]*\|)?$`)
	for _, scenario := range strings.Split(string(text), "Scenario Outline:")[1:] {
		name, _, _ := strings.Cut(strings.TrimSpace(scenario), "\n")
		outline, examples, _ := strings.Cut(scenario, "Examples:")
		for _, example := range row.FindAllStringSubmatch(examples, -1)[1:] {
			run++
			steps := strings.ReplaceAll(outline, "<contentType>", example[1])
			quoted := strings.Split(steps, `"""`) // the request is the first, the data the second
			header, body := parseRequest(t, unindent(quoted[1]))
			want := carried{Attributes: map[string]string{}}
			mediaType := ""
			for _, attribute := range row.FindAllStringSubmatch(quoted[2], -1)[1:] {
				switch attribute[1] {
				case "id":
					want.ID = attribute[2]
				case "source":
					want.Source = attribute[2]
				case "datacontenttype":
					mediaType = attribute[2]
				case "specversion":
				default:
					want.Attributes[attribute[1]] = attribute[2]
				}
			}
			want.ContentType, want.Data = mesh.MediaType(mediaType), compact(quoted[3])
			status, got := deliver(t, header, body)
			if status != http.StatusAccepted || len(got) != 1 {
				t.Errorf("%s with %s: status %d and %d messages, want 202 and 1", name, example[1], status, len(got))
				continue
			}
			got[0].Data = compact(got[0].Data)
			if diff := cmp.Diff(want, got[0]); diff != "" {
				t.Errorf("%s with %s (-want +got):\n%s", name, example[1], diff)
			}
		}
	}
	if run != 4 {
		t.Errorf("%d scenarios run, want 4", run)
	}
}

func unindent(text string) string {
	lines := strings.Split(strings.Trim(text, " \n"), "\n")
	margin := len(lines[len(lines)-1]) - len(strings.TrimLeft(lines[len(lines)-1], " "))
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, strings.Repeat(" ", margin))
	}
	return strings.Join(lines, "\n")
}

// parseRequest reads the text of a request. Its method is that of any request
// with a body to the binding, and always POST here.
func parseRequest(t *testing.T, text string) (map[string]string, string) {
	t.Helper()
	head, body, ok := strings.Cut(strings.TrimSpace(text), "\n\n")
	if !ok {
		t.Fatalf("no request: %s", text)
	}
	header := map[string]string{}
	for _, line := range strings.Split(head, "\n")[1:] {
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			t.Fatalf("no header: %s", line)
		}
		if name != "Content-Length" && name != "Host" {
			header[name] = value
		}
	}
	return header, body
}

// TestConformanceBindings runs the requests of cloudevents/bindings, with what
// they leave out filled in. The others there are responses.
func TestConformanceBindings(t *testing.T) {
	dir := dataset.Path(t, "cloudevents/bindings")
	for _, test := range []struct {
		file string
		fill []string
		want []carried
	}{
		{"http-protocol-binding-1.txt", []string{"    .... further attributes ...\n", "ce-site: north\n", "... application data ...", `"a": 1`},
			[]carried{{"1234-1234-1234", "/mycontext/subcontext", "", map[string]string{"type": "com.example.someevent", "time": "2018-04-05T03:56:24Z", "site": "north"}, "{\n    \"a\": 1\n}"}}},
		{"http-protocol-binding-3.txt", []string{"... further attributes omitted ...", `"id":"1","source":"/s",`, "... application data ...", `"a": 1`},
			[]carried{{"1", "/s", "", map[string]string{"type": "com.example.someevent"}, `{"a":1}`}}},
		{"http-protocol-binding-5.txt", []string{"... further attributes omitted ...", `"id":"1","source":"/s",`, "... application data ...", `"a": 1`},
			[]carried{{"1", "/s", "", map[string]string{"type": "com.example.someevent"}, `{"a":1}`}, {"1", "/s", "", map[string]string{"type": "com.example.someotherevent"}, `{"a":1}`}}},
	} {
		text, err := os.ReadFile(filepath.Join(dir, test.file))
		if err != nil {
			t.Fatal(err)
		}
		header, body := parseRequest(t, strings.NewReplacer(test.fill...).Replace(string(text)))
		status, got := deliver(t, header, body)
		for i := range got {
			got[i].Data = compact(got[i].Data)
		}
		for i := range test.want {
			test.want[i].Data = compact(test.want[i].Data)
		}
		if diff := cmp.Diff(test.want, got); diff != "" || status != http.StatusAccepted {
			t.Errorf("%s: status %d (-want +got):\n%s", test.file, status, diff)
		}
	}
}

// TestConformanceJSONFormat runs the examples of the JSON format. Each has a
// twin in binary mode that carries the same.
func TestConformanceJSONFormat(t *testing.T) {
	dir := dataset.Path(t, "cloudevents/json-format")
	raw := "\x00\xffraw"
	fill := strings.NewReplacer("... base64 encoded string ...", base64.StdEncoding.EncodeToString([]byte(raw)), "...raw binary bytes...", raw)
	read := func(file string) string {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		return fill.Replace(strings.TrimSpace(string(text)))
	}
	attributes := map[string]string{"type": "com.example.someevent", "time": "2018-04-05T17:31:00Z", "comexampleextension1": "value", "comexampleothervalue": "5"}
	for _, test := range []struct {
		file, twin string
		want       carried
	}{
		{"example-01.json", "example-02.txt", carried{"A234-1234-1234", "/mycontext", "application/vnd.apache.thrift.binary", attributes, raw}},
		{"example-03.json", "example-04.txt", carried{"B234-1234-1234", "/mycontext", "application/xml", attributes, `<much wow="xml"/>`}},
		{"example-07.json", "example-08.txt", carried{"C234-1234-1234", "/mycontext", "", attributes, `1.5`}},
		{"example-11.json", "", carried{"D234-1234-1234", "/mycontext", "", map[string]string{"type": "com.example.someevent"}, `{ "xyz": 123 }`}},
		{"spec-example.json", "", carried{"A234-1234-1234", "https://github.com/cloudevents/spec/pull", "text/xml", map[string]string{
			"type": "com.github.pull_request.opened", "subject": "123", "time": "2018-04-05T17:31:00Z", "comexampleextension1": "value", "comexampleothervalue": "5"}, `<much wow="xml"/>`}},
	} {
		status, got := deliver(t, map[string]string{"Content-Type": "application/cloudevents+json"}, read(test.file))
		if diff := cmp.Diff([]carried{test.want}, got); diff != "" || status != http.StatusAccepted {
			t.Errorf("%s: status %d (-want +got):\n%s", test.file, status, diff)
		}
		if test.twin != "" {
			header, body := parseRequest(t, "POST / HTTP/1.1\n"+read(test.twin))
			header["Content-Type"] = header["content-type"]
			status, got := deliver(t, header, body)
			if diff := cmp.Diff([]carried{test.want}, got); diff != "" || status != http.StatusAccepted {
				t.Errorf("%s: status %d (-want +got):\n%s", test.twin, status, diff)
			}
		}
	}
	status, got := deliver(t, map[string]string{"Content-Type": "application/cloudevents-batch+json"}, read("example-13.json"))
	if status != http.StatusAccepted || len(got) != 2 || got[0].Data != raw || compact(got[1].Data) != `{"appinfoA":"abc","appinfoB":123,"appinfoC":true}` ||
		got[0].ID != "B234-1234-1234" || got[1].ID != "C234-1234-1234" {
		t.Errorf("example-13.json: status %d, %q, want 202 and both events", status, got)
	}
	status, got = deliver(t, map[string]string{"Content-Type": "application/cloudevents-batch+json"}, read("example-14.json"))
	if status != http.StatusAccepted || len(got) != 0 {
		t.Errorf("example-14.json, a batch of none: status %d, %q, want 202 and nothing", status, got)
	}

	extensions := dataset.Path(t, "cloudevents/extensions")
	files, err := filepath.Glob(filepath.Join(extensions, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples of extensions: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		status, got := deliver(t, map[string]string{"Content-Type": "application/cloudevents+json"}, string(text))
		if status != http.StatusAccepted || len(got) != 1 {
			t.Errorf("%s: status %d, %d messages, want 202 and 1", file, status, len(got))
			continue
		}
		for _, name := range []string{"correlationid", "causationid"} {
			if value, ok := want[name]; ok && got[0].Attributes[name] != value {
				t.Errorf("%s: %s = %q, want %q", file, name, got[0].Attributes[name], value)
			}
		}
	}
}

// What the specification says beside its examples: CloudEvents 1.0.2, its JSON
// format and its HTTP binding.
func TestCloudEventsByTheSpecification(t *testing.T) {
	whole := map[string]string{"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
	with := func(pairs ...string) ce {
		e := ce{map[string]string{}, "application/json", `{"a":1}`}
		for name, value := range whole {
			e.attributes[name] = value
		}
		for i := 0; i < len(pairs); i += 2 {
			if e.attributes[pairs[i]] = pairs[i+1]; pairs[i+1] == "" {
				delete(e.attributes, pairs[i])
			}
		}
		return e
	}
	for name, e := range map[string]ce{
		"special characters":        with("site", "Euro € 😀 \"quoted\" 100% %41\\ end"),
		"subject":                   with("subject", "d 1"),
		"data schema":               with("dataschema", "https://example.com/s"),
		"fraction and offset":       with("time", "2026-01-02T03:04:05.123456789+01:00"),
		"longest name of the spec":  with("abcdefghijklmnopqrst", "x"),
		"a JSON string":             {whole, "application/json", `"text"`},
		"text that looks like JSON": {whole, "text/plain", `{"a":1}`},
		"JSON of a suffix type":     {whole, "application/senml+json", `[{"n":"a","v":1}]`},
		"an array":                  {whole, "", `[{"a":1},{"a":2}]`},
		"no JSON where it should":   {whole, "application/json", `{"a":`},
	} {
		deliverInAllModes(t, name, e, nil)
	}

	// Accepted, in the JSON format alone.
	for _, test := range []struct{ name, members, attribute, want, data string }{
		{"null extension", `"site":null,"data":1`, "site", "", "1"},
		{"null subject", `"subject":null,"data":1`, "subject", "", "1"},
		{"boolean extension", `"flag":true,"data":1`, "flag", "true", "1"},
		{"largest integer", `"n":2147483647,"data":1`, "n", "2147483647", "1"},
		{"smallest integer", `"n":-2147483648,"data":1`, "n", "-2147483648", "1"},
		{"no data", `"site":"x"`, "site", "x", ""},
		{"data before its type", `"data":"<a/>","datacontenttype":"text/xml"`, "type", "t", "<a/>"},
		{"integer written as a fraction", `"n":5.0,"data":1`, "n", "5", "1"},
		{"null data", `"data":null,"data_base64":"MQ=="`, "type", "t", "1"},
		{"no string though it is no JSON", `"datacontenttype":"text/xml","data": [1, 2] `, "type", "t", "[1, 2]"},
		{"the version last", `"data":{"a": 1 }`, "type", "t", `{"a": 1 }`},
		{"sender of another", `"sender":"somebody","data":1`, "sender", "", "1"},
	} {
		status, got := deliver(t, map[string]string{"Content-Type": "Application/CloudEvents+JSON"}, `{"specversion":"1.0","id":"1","source":"/s","type":"t",`+test.members+`}`)
		if status != http.StatusAccepted || len(got) != 1 || got[0].Attributes[test.attribute] != test.want || got[0].Data != test.data {
			t.Errorf("%s: status %d, %q, want 202 with %s = %q and the data %s", test.name, status, got, test.attribute, test.want, test.data)
		}
	}

	// Refused in binary, structured and batched mode.
	for name, e := range map[string]ce{
		"no id": with("id", ""), "no source": with("source", ""), "no type": with("type", ""), "no specversion": with("specversion", ""),
		"unknown specversion": with("specversion", "2.0"), "no time": with("time", "yesterday"), "a schema that is no URI": with("dataschema", "%"),
	} {
		header, body := e.binary()
		if name != "no specversion" { // then it is no CloudEvent, and a message as any
			if status, got := deliver(t, header, body); status != http.StatusBadRequest || len(got) != 0 {
				t.Errorf("%s, binary: status %d, %q, want 400", name, status, got)
			}
		}
		if status, got := deliver(t, map[string]string{"Content-Type": "application/cloudevents+json"}, e.structured()); status != http.StatusBadRequest || len(got) != 0 {
			t.Errorf("%s, structured: status %d, %q, want 400", name, status, got)
		}
		if status, got := deliver(t, map[string]string{"Content-Type": "application/cloudevents-batch+json"}, "["+e.structured()+"]"); status != http.StatusBadRequest || len(got) != 0 {
			t.Errorf("%s, batched: status %d, %q, want 400", name, status, got)
		}
	}
	for _, test := range []struct{ name, contentType, body string }{
		{"empty id", "application/cloudevents+json", `{"specversion":"1.0","id":"","source":"/s","type":"t"}`},
		{"null id", "application/cloudevents+json", `{"specversion":"1.0","id":null,"source":"/s","type":"t"}`},
		{"number for a type", "application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/s","type":7}`},
		{"object extension", "application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/s","type":"t","x":{}}`},
		{"integer too large", "application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/s","type":"t","n":2147483648}`},
		{"fraction extension", "application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/s","type":"t","n":1.5}`},
		{"name of no attribute", "application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/s","type":"t","a_b":"x"}`},
		{"data twice", "application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1,"data_base64":"MQ=="}`},
		{"number for base64", "application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":1}`},
		{"broken base64", "application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"?"}`},
		{"no JSON", "application/cloudevents+json", `specversion`},
		{"an array in structured mode", "application/cloudevents+json", `[{"specversion":"1.0","id":"1","source":"/s","type":"t"}]`},
		{"something behind it", "application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/s","type":"t"} 7`},
		{"unknown event format", "application/cloudevents+avro", `x`},
		{"unknown batch format", "application/cloudevents-batch+protobuf", `x`},
		{"an event in batched mode", "application/cloudevents-batch+json", `{"specversion":"1.0","id":"1","source":"/s","type":"t"}`},
	} {
		if status, got := deliver(t, map[string]string{"Content-Type": test.contentType}, test.body); status != http.StatusBadRequest || len(got) != 0 {
			t.Errorf("%s: status %d, %q, want 400", test.name, status, got)
		}
	}
}
