package flatten_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

var update = flag.Bool("update", false, "write what the handler makes into testdata")

func handler(t testing.TB) function.Handler {
	t.Helper()
	formats, err := flatten.ReadFormats("")
	if err != nil {
		t.Fatal(err)
	}
	return flatten.New(formats, slog.New(slog.DiscardHandler))
}

func received(data string) event.Event {
	e := mesh.NewEvent(mesh.TelemetryReceived, "/telemesh/telemetry-ingest", []byte(data), "batch")
	e.SetExtension(mesh.ExtTraceParent, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	return e
}

// Each archive has the data of a telemetry.received event, received.json, and
// the data of the events made of it, in their order.
func TestGoldens(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d archives, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(archive.Files) == 0 || archive.Files[0].Name != "received.json" {
				t.Fatalf("%s does not begin with received.json", path)
			}
			out, err := handler(t)(context.Background(), received(string(archive.Files[0].Data)))
			if err != nil {
				t.Fatal(err)
			}
			got := &txtar.Archive{Comment: archive.Comment, Files: archive.Files[:1:1]}
			for _, e := range out {
				if !json.Valid(e.Data()) {
					t.Errorf("%s is no JSON: %s", e.Type(), e.Data())
				}
				name := strings.TrimSuffix(strings.TrimPrefix(e.Type(), "dev.telemesh.telemetry."), ".v1") + ".json"
				got.Files = append(got.Files, txtar.File{Name: name, Data: append(bytes.Clone(e.Data()), '\n')})
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(got))); diff != "" && !*update {
				t.Errorf("%s (-want +got; -update takes it over):\n%s", path, diff)
			}
		})
	}
}

func data(payloads ...string) string {
	var messages []mesh.Message
	for i, p := range payloads {
		messages = append(messages, mesh.Message{ID: fmt.Sprint("m", i), Source: "/test", ReceivedAt: 1665055400_000000, Payload: []byte(p)})
	}
	return string(mesh.EncodeMessages(messages))
}

func TestOneBadMessageAmongFiveHundred(t *testing.T) {
	payloads := make([]string, 500)
	for i := range payloads {
		payloads[i] = fmt.Sprintf(`{"device_id":"d%d","time":%d,"co2":%d}`, i, 1665055380+i, 400+i)
	}
	payloads[250] = `{"device_id":"d250","co2":`
	out, err := handler(t)(context.Background(), received(data(payloads...)))
	if err != nil || len(out) != 2 {
		t.Fatalf("%d events, %v, want 2", len(out), err)
	}
	readings, err := mesh.DecodeReadings(out[0].Data())
	if err != nil || len(readings) != 499 {
		t.Fatalf("%d readings, %v, want 499", len(readings), err)
	}
	for _, r := range readings {
		if r.DeviceID == "d250" || r.Metric != "co2" || r.EventID != "m"+r.DeviceID[1:] || r.EventSource != "/test" {
			t.Errorf("reading %+v", r)
		}
	}
	rejections, err := mesh.DecodeRejections(out[1].Data())
	if err != nil || len(rejections) != 1 {
		t.Fatalf("%d rejections, %v, want 1", len(rejections), err)
	}
	if r := rejections[0]; r.ID != "m250" || string(r.Payload) != payloads[250] || !strings.HasPrefix(r.Cause, "not JSON: ") {
		t.Errorf("rejected %s %q, because %s", r.ID, r.Payload, r.Cause)
	}
}

func TestEventsAreThoseOfTheInput(t *testing.T) {
	in := received(data(`{"device_id":"d","time":60,"co2":661,"x":null,"y":1e999}`, `7`))
	handle := handler(t)
	first, err := handle(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	again, err := handle(context.Background(), in.Clone())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("a redelivery gives other events:\n%s", diff)
	}
	other := in.Clone()
	other.SetID("another")
	others, err := handle(context.Background(), other)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{mesh.TelemetryFlattened, mesh.TelemetryRejected}
	for i, e := range first {
		if e.Type() != want[i] || e.Source() != "/telemesh/telemetry-flatten" || e.Extensions()[mesh.ExtTraceParent] != in.Extensions()[mesh.ExtTraceParent] {
			t.Errorf("event %d is %v", i, e)
		}
		if err := e.Validate(); err != nil {
			t.Error(err)
		}
		if e.ID() == others[i].ID() {
			t.Errorf("events of different inputs share the id %s", e.ID())
		}
	}
	if first[0].ID() == first[1].ID() {
		t.Errorf("both events have the id %s", first[0].ID())
	}
	if n := first[0].Extensions()[flatten.ExtSkipped]; n != int32(2) {
		t.Errorf("skipped = %v, want 2", n)
	}
	if _, ok := others[1].Extensions()[flatten.ExtSkipped]; ok {
		t.Error("the rejections have skipped values")
	}
}

func TestNothingToSay(t *testing.T) {
	for name, in := range map[string]string{
		"no messages": `{"messages":[]}`,
		"a join":      data(`{"end_device_ids":{"device_id":"d"},"join_accept":{}}`),
	} {
		out, err := handler(t)(context.Background(), received(in))
		if err != nil || len(out) != 0 {
			t.Errorf("%s: %d events, %v, want none", name, len(out), err)
		}
	}
}

// A message that gives nothing is kept: else it would be nowhere.
func TestNothingIsDropped(t *testing.T) {
	in := data(`{"device_id":"only"}`, `{"device_id":"d","co2":null,"t":1e999}`, `{"device_id":"d","metrics":{}}`, `[]`)
	out, err := handler(t)(context.Background(), received(in))
	if err != nil || len(out) != 1 || out[0].Type() != mesh.TelemetryRejected {
		t.Fatalf("%v, %v, want one %s", out, err, mesh.TelemetryRejected)
	}
	rejections, err := mesh.DecodeRejections(out[0].Data())
	if err != nil || len(rejections) != 4 {
		t.Fatalf("%d rejections, %v, want 4", len(rejections), err)
	}
	for i, skipped := range []int{0, 2, 0, 0} {
		if r := rejections[i]; !strings.HasPrefix(r.Cause, "no value: ") || !strings.Contains(r.Cause, fmt.Sprintf("%d skipped", skipped)) {
			t.Errorf("%s: cause %q, want that there is no value, and %d skipped", r.Payload, r.Cause, skipped)
		}
	}
}

func TestPermanentErrors(t *testing.T) {
	wrong := received(data(`{"device_id":"d","co2":1}`))
	wrong.SetType(mesh.TelemetryFlattened)
	for name, in := range map[string]event.Event{
		"no JSON":     received(`{"messages":[`),
		"no messages": received(`{"readings":[]}`),
		"no data":     received(``),
		"wrong type":  wrong,
	} {
		out, err := handler(t)(context.Background(), in)
		if !mesh.IsPermanent(err) || len(out) > 0 {
			t.Errorf("%s: %d events, %v, want a permanent error", name, len(out), err)
		}
	}
}

// Calls at the same time share nothing that shows.
func TestCallsAtOnce(t *testing.T) {
	handle := handler(t)
	var callers sync.WaitGroup
	for caller := range 8 {
		callers.Go(func() {
			for i := range 50 {
				metric := fmt.Sprintf("m%d", (caller+i)%10)
				out, err := handle(context.Background(), received(data(fmt.Sprintf(`{"device_id":"d%d","time":60,"temp":%d,%q:%d}`, caller, caller, metric, i))))
				if err != nil || len(out) != 1 {
					t.Errorf("%d events, %v", len(out), err)
					return
				}
				readings, err := mesh.DecodeReadings(out[0].Data())
				if err != nil || len(readings) != 2 || readings[0].Value != float64(caller) || readings[1].Metric != metric || readings[1].Value != float64(i) {
					t.Errorf("readings %+v, %v", readings, err)
				}
			}
		})
	}
	callers.Wait()
}

// Start makes the function that its main serves.
func TestStart(t *testing.T) {
	fn, err := flatten.Start(function.Ports{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	out, err := fn.Handler(context.Background(), received(data(`{"device_id":"d","co2__ppm":661}`)))
	if err != nil || len(out) != 1 || !strings.Contains(string(out[0].Data()), `"metric":"co2","value":661,"unit":"ppm"`) {
		t.Errorf("%v, %v", out, err)
	}
}
