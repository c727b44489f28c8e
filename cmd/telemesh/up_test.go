package main

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// up is `telemesh up` on a folder and on addresses that are free.
func up(data string, more ...string) []string {
	return append([]string{"up", "--data", data, "--portal", "127.0.0.1:0", "--brokers", "127.0.0.1:0",
		"--ingest", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"}, more...)
}

// startUp starts `telemesh up` and gives the URL of its ingest endpoint.
func startUp(t *testing.T, cmd *exec.Cmd) (ingest string) {
	t.Helper()
	return started(t, cmd)["ingest"]
}

// started starts `telemesh up` and gives the addresses it prints.
func started(t *testing.T, cmd *exec.Cmd) map[string]string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	printed := map[string]string{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 {
			printed[fields[0]] = fields[1]
		}
		if printed["data"] != "" {
			go io.Copy(io.Discard, out)
			return printed
		}
	}
	t.Fatalf("telemesh up printed %v and ended", printed)
	return nil
}

func postMessage(t *testing.T, url, body string) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		said, _ := io.ReadAll(resp.Body)
		t.Fatalf("POST %s: %s %s", url, resp.Status, said)
	}
}

// While the mesh runs on a folder: it is asked by SQL, a second mesh is refused
// with what to do, a broken event is a dead letter that can be seen and
// redriven; an interrupt ends it well.
func TestUp(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	cmd := command(t.Context(), t, up(data)...)
	at := started(t, cmd)
	postMessage(t, at["ingest"], `{"device_id":"d","time":"2026-03-01T09:00:00Z","metrics":{"CO2":812}}`)
	waitFor(t, func() bool {
		got := rows(t, data, "SELECT metric, value, unit FROM iot_telemetry.readings")
		return len(got) == 1 && got[0] == "co2,812,ppm"
	})

	second := command(t.Context(), t, "up", "--data", data)
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "hint: ") || !strings.Contains(string(out), "in use") {
		t.Errorf("a second mesh on the folder: %v\n%s", err, out)
	}

	var resp *http.Response
	for from, want := range map[string]string{at["portal"]: "Log in", at["setup"]: "You become the first admin"} {
		var err error
		if resp, err = http.Get(from); err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(page), want) {
			t.Errorf("%s: %s, %v\n%s", from, resp.Status, err, page)
		}
	}

	// An event whose data nobody can read is accepted, refused for good by its
	// function, and kept.
	broker := strings.TrimSuffix(at["brokers"], "NAMESPACE/BROKER") + "iot/iot"
	req, err := http.NewRequest(http.MethodPost, broker, strings.NewReader(`{"messages":5}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Ce-Specversion": "1.0", "Ce-Id": "broken-1", "Ce-Source": "/test",
		"Ce-Type": "dev.telemesh.telemetry.received.v1", "Content-Type": "application/json"} {
		req.Header.Set(name, value)
	}
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Errorf("POST %s: %s, want 202", broker, resp.Status)
	}
	// What is no event at all is refused at once, and kept too.
	req.Header.Del("Ce-Source")
	req.Body = io.NopCloser(strings.NewReader("no event"))
	req.ContentLength = -1
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("POST of a broken CloudEvent: %s, want 400", resp.Status)
	}
	var list string
	waitFor(t, func() bool {
		list = telemesh(t, "deadletters", "list", "--data", data)
		return strings.Count(list, "\n") == 3
	})
	if !strings.Contains(list, "iot/telemetry-flatten") || !strings.Contains(list, "400") {
		t.Errorf("dead letters:\n%s", list)
	}
	id := strings.Fields(strings.Split(list, "\n")[1])[0]
	if shown := telemesh(t, "deadletters", "show", "--data", data, id); !strings.Contains(shown, "broken-1") || !strings.Contains(shown, `"cause"`) {
		t.Errorf("shown:\n%s", shown)
	}
	// It fails again, and stays open.
	again := command(t.Context(), t, "deadletters", "redrive", "--data", data, id)
	if out, err := again.CombinedOutput(); err == nil || !strings.Contains(string(out), id+"  failed  400 decode") || !strings.Contains(string(out), "hint: ") {
		t.Errorf("redriving what is broken: %v\n%s", err, out)
	}
	if shown := telemesh(t, "deadletters", "show", "--data", data, id); !strings.Contains(shown, `"outcome": "failed"`) {
		t.Errorf("shown after the redrive:\n%s", shown)
	}
	if again := telemesh(t, "deadletters", "list", "--data", data); again != list {
		t.Errorf("dead letters after the redrive:\n%s\nwant those before:\n%s", again, list)
	}

	telemesh(t, "deadletters", "discard", "--data", data, "r1")
	if left := telemesh(t, "deadletters", "list", "--data", data); strings.Contains(left, "\nr1 ") || strings.Count(left, "\n") != 2 {
		t.Errorf("after a discard:\n%s", left)
	}
	missing := command(t.Context(), t, "deadletters", "discard", "--data", data, "r1")
	if out, err := missing.CombinedOutput(); err == nil || !strings.Contains(string(out), "0 discarded") || !strings.Contains(string(out), "hint: ") {
		t.Errorf("discarding what is not there: %v\n%s", err, out)
	}

	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after an interrupt: %v, want exit 0", err)
	}
}

// waitFor polls another process, which cannot wake this one, until ok.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); {
		if time.Since(began) > time.Minute {
			t.Fatal("gave up after a minute")
		}
	}
}
