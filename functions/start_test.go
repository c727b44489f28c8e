package functions_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/telemesh/telemesh/internal/mesh"
)

// started is a program that a round of BenchmarkStart starts once, and what it is
// sent and has to answer.
type started struct {
	name, binary string
	env          []string
	in           event.Event
	reply        string // its type; empty: what was sent
	took         []time.Duration
	memory       int64 // KiB at most, until then
}

// BenchmarkStart measures from exec to the first correct reply, of the functions
// between a device and its rows and of net/http alone, built as ko builds them. An
// iteration starts each of them once, in turn:
//
//	go test ./functions -run '^$' -bench Start -benchtime 25x
func BenchmarkStart(b *testing.B) {
	ports := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Telemesh-Version", "1")
		io.WriteString(w, map[string]string{
			"/assignments": `{"device_id":"d","tenant_id":"t","valid_from":"2020-01-01T00:00:00Z","version":1}`,
			"/placements":  `{"device_id":"d","tenant_id":"t","building":"B","room":"1","valid_from":"2020-01-01T00:00:00Z","version":1}`,
			"/actions":     `{"action_id":"a","tenant_id":"t","building":"B","room":"1","action":"x","taken_at":"2020-01-01T00:00:00Z","version":1}`,
			"/customers":   `{"customer_id":"t","name":"T","version":1}`,
		}[r.URL.Path]+"\n")
	}))
	defer ports.Close()
	const instant = 1.7e15
	reading := mesh.Reading{ReadingID: mesh.ReadingID("d", "co2", instant), DeviceID: "d", Metric: "co2", Value: 400, Unit: "ppm",
		ObservedAt: instant, ReceivedAt: instant, EventSource: "/s", EventID: "1"}
	owned := reading
	owned.TenantID, owned.AssignmentVersion = "t", 1
	enriched := mesh.NewEvent(mesh.TelemetryEnriched, "/s", mesh.EncodeReadings([]mesh.Reading{owned}), "1")
	enriched.SetExtension(mesh.ExtTenant, "t")
	received := mesh.NewEvent(mesh.TelemetryReceived, "/s", mesh.EncodeMessages([]mesh.Message{{ID: "1", Source: "/s", ReceivedAt: instant,
		Payload: []byte(`{"device_id":"d","timestamp":"2026-01-01T00:00:00Z","metrics":{"co2__ppm":400}}`)}}), "1")
	all := []*started{
		{name: "bare", binary: "./testdata/bare", in: received},
		{name: "flatten", binary: "./telemetry-flatten", in: received, reply: mesh.TelemetryFlattened},
		{name: "enrich", binary: "./tenant-enrich", in: mesh.NewEvent(mesh.TelemetryFlattened, "/s", mesh.EncodeReadings([]mesh.Reading{reading}), "1"), reply: mesh.TelemetryEnriched,
			env: []string{"ASSIGNMENTS_URL=" + ports.URL + "/assignments"}},
		{name: "join", binary: "./analytics-join", in: enriched, reply: mesh.AnalyticsJoined,
			env: []string{"PLACEMENTS_URL=" + ports.URL + "/placements", "ACTIONS_URL=" + ports.URL + "/actions", "CUSTOMERS_URL=" + ports.URL + "/customers"}},
	}
	dir := b.TempDir()
	for _, s := range all {
		s.binary = build(b, dir, s.binary)
	}
	for b.Loop() {
		for _, s := range all {
			if err := s.start(b.Context()); err != nil {
				b.Fatalf("%s: %v", s.name, err)
			}
		}
	}
	for _, s := range all {
		slices.Sort(s.took)
	}
	bare := all[0].median()
	b.ReportMetric(0, "ns/op") // of all programs together, which says nothing
	for _, s := range all {
		info, err := os.Stat(s.binary)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(s.median()/bare, s.name+"-x")
		b.Logf("%-8s %5.1f ms (%.1f–%.1f, n = %d), %.2f× bare, %4.1f MB, %4.1f MiB of memory", s.name, s.median(),
			ms(s.took[0]), ms(s.took[len(s.took)-1]), len(s.took), s.median()/bare, float64(info.Size())/1e6, float64(s.memory)/1024)
	}
}

// build makes a program as ko.yaml and ko say.
func build(t testing.TB, dir, folder string) (binary string) {
	t.Helper()
	binary = filepath.Join(dir, filepath.Base(folder))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, folder)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", folder, err, text)
	}
	return binary
}

// A node pulls a function before its first cold start there, and maps it at each.
// Between a device and its rows none is to be of more than 12 MB.
func TestBinariesAreSmall(t *testing.T) {
	dir := t.TempDir()
	for folder, limit := range map[string]int64{
		"./tenant-enrich":     12e6,
		"./analytics-join":    12e6,
		"./telemetry-flatten": 19e6, // 7 MB of it are CEL, for mappings that others write: docs/decisions/2026-11-21-mappings-in-cel.md
	} {
		info, err := os.Stat(build(t, dir, folder))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > limit {
			t.Errorf("%s has %.1f MB, want at most %.0f", folder, float64(info.Size())/1e6, float64(limit)/1e6)
		}
	}
}

func ms(d time.Duration) float64   { return float64(d.Microseconds()) / 1000 }
func (s *started) median() float64 { return ms(s.took[len(s.took)/2]) }

// start runs the program until it has answered.
func (s *started) start(ctx context.Context) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	cmd := exec.Command(s.binary)
	cmd.Env = append([]string{"PORT=" + port}, s.env...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait() // says that it was killed
	}()
	if line, err := bufio.NewReader(stderr).ReadString('\n'); !strings.Contains(line, "serving") {
		return fmt.Errorf("says %q, %v", line, err)
	}
	req, err := cehttp.NewHTTPRequestFromEvent(ctx, "http://127.0.0.1:"+port, s.in)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	s.took = append(s.took, time.Since(begin))
	if got := resp.Header.Get("Ce-Type"); err != nil || resp.StatusCode != http.StatusOK || got != s.reply || s.reply == "" && !bytes.Equal(body, s.in.Data()) {
		return fmt.Errorf("answers %s, type %q, %s, %v", resp.Status, got, body, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		return nil // not Linux
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Sscan(kib, &s.memory)
		}
	}
	return nil
}

func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port), nil
}
