package bigquery_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/function"
)

// telemesh is the command, built.
func telemesh(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "telemesh")
	build := exec.Command("go", "build", "-o", path, "./cmd/telemesh")
	build.Dir = dataset.Root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/telemesh: %v\n%s", err, out)
	}
	return path
}

// What a sink logs in BigQuery, `telemesh replay --from-log` sends to a Broker of
// a cluster with all its attributes.
func TestReplayFromLog(t *testing.T) {
	e := emulator.Start(t)
	w := open(t, e, applied(t, e))
	member(t, e)
	begin := time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)
	log := sink.NewLog(w, []string{"com.example.readings"})
	want := map[string]event.Event{}
	for i := range 6 {
		in := event.New()
		in.SetID(fmt.Sprint("e", i))
		in.SetSource("/devices")
		in.SetType("com.example.received")
		in.SetSubject("d/1")
		in.SetTime(begin.Add(123456789))
		in.SetDataSchema("https://example.com/s")
		in.SetDataContentType("application/json")
		in.SetExtension("tenantid", `a"b`)
		in.DataEncoded = []byte(fmt.Sprintf("{\"i\" : %d}\n", i))
		switch i {
		case 1:
			in.SetDataContentType("application/octet-stream")
			in.DataEncoded = []byte{0xff, 0, byte(i)}
		case 2:
			in.SetType("com.example.readings") // of which the log has no data
		case 3:
			in.SetType("com.example.other") // which nobody asks for
		case 4:
			in.SetExtension("tenantid", "tenant-b") // which does not match
		default:
			want[in.ID()] = in.Clone()
		}
		if i == 1 {
			want[in.ID()] = in.Clone()
		}
		in.SetExtension("knativearrivaltime", begin.Add(time.Duration(i)*20*time.Second)) // over midnight
		if _, err := log(function.WithPath(t.Context(), "/iot/iot"), in); err != nil {
			t.Fatal(err)
		}
		in.SetExtension("knativearrivaltime", begin.Add(time.Hour))
		if _, err := log(function.WithPath(t.Context(), "/crm/crm"), in); err != nil {
			t.Fatal(err)
		}
	}

	got := map[string]event.Event{}
	var mu sync.Mutex
	broker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in, err := cehttp.NewEventFromHTTPRequest(r)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Error(err)
			return
		}
		if _, twice := got[in.ID()]; twice {
			t.Errorf("event %s came twice: it is at two Brokers", in.ID())
		}
		got[in.ID()] = *in
		w.WriteHeader(http.StatusAccepted)
	}))
	defer broker.Close()
	address := fmt.Sprintf("bigquery://%s?location=EU&endpoint=%s&storage=%s", e.Project, url.QueryEscape(e.URL), e.Storage)
	replay := exec.CommandContext(t.Context(), telemesh(t), "replay", "--warehouse", address, "--to", broker.URL, "--since", "2026-03-01", "--until", "2026-03-03",
		"--from-log", `type IN ('com.example.received', 'com.example.readings') AND tenantid = 'a"b'`)
	var out, errs bytes.Buffer
	replay.Stdout, replay.Stderr = &out, &errs
	if err := replay.Run(); err != nil {
		t.Fatalf("telemesh replay: %v\n%s%s", err, &out, &errs)
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events sent (-want +got):\n%s", diff)
	}
	for _, line := range []string{"events                 3 sent, 1 do not match", "not sent               1 com.example.readings: the log keeps no data"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("the report has no line %q:\n%s", line, &out)
		}
	}
}
