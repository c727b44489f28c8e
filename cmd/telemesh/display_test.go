package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/feedtest"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// transactions is the folder of the example.
func transactions(t *testing.T) string {
	return filepath.Join(dataset.Root(t), "examples", "transactions")
}

// The policies hold for an example, too, and those of products for none of another mesh.
func TestExampleIsChecked(t *testing.T) {
	if out := telemesh(t, "check", "--manifests", transactions(t)); !strings.HasPrefix(out, "ok: 1 brokers, 2 triggers, 2 services, 0 products") {
		t.Errorf("telemesh check:\n%s", out)
	}
}

// justDisplay is the example without what feeds it: a Broker, and a display of what has
// the label XL.
func justDisplay(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, file := range []string{"brokers/000-namespace.yaml", "brokers/transactions.yaml", "triggers/display.yaml", "config/display.yaml"} {
		text, err := os.ReadFile(filepath.Join(transactions(t), file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), string(text))
	}
	return dir
}

// showing starts `telemesh up` and gives the addresses it prints, and what it has
// printed so far.
func showing(t *testing.T, cmd *exec.Cmd) (at map[string]string, printed func() string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	cmd.Stdout, cmd.Stderr = out, t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	printed = func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	at = map[string]string{}
	waitFor(t, func() bool { return strings.Contains(printed(), "\ndata ") })
	for line := range strings.Lines(printed()) {
		if fields := strings.Fields(line); len(fields) > 1 {
			at[fields[0]] = fields[1]
		}
	}
	return at, printed
}

// sized is what classify makes of a transaction, as far as the display knows.
func sized(id, label, data string) event.Event {
	e := mesh.NewEvent("dev.telemesh.transactions.classified.v1", "/classify", []byte(data))
	e.SetID(id)
	e.SetExtension("label", label)
	return e
}

// As a newcomer sees it: what the Trigger lets pass is printed, and stands on the page
// as it comes; also on one that was open while the display began anew.
func TestDisplayInBrowser(t *testing.T) {
	args := up(filepath.Join(t.TempDir(), "data"), "--manifests", justDisplay(t), "--display", "127.0.0.1:0")
	cmd := command(t.Context(), t, args...)
	at, printed := showing(t, cmd)
	for _, none := range []string{"portal", "ingest", "mqtt"} {
		if at[none] != "" {
			t.Errorf("%s is at %s: these manifests have none", none, at[none])
		}
	}
	post := func(e event.Event) {
		t.Helper()
		if err := function.Post(t.Context(), http.DefaultClient, strings.Replace(at["brokers"], "NAMESPACE/BROKER", "transactions/transactions", 1), e); err != nil {
			t.Fatal(err)
		}
	}
	b := newBrowser(t, at["display"])
	b.open(t, "/")
	b.sees(t, "No event has come yet.")
	b.waits(t, `document.querySelector("#state").textContent.startsWith("Live")`)

	small, large := sized("small", "L", `{"value":4.5}`), sized("large", "XL", `{"value":28,"note":"needle"}`)
	wild := sized("wild", "XL", `{"note":"`+strings.ReplaceAll(hostile, `"`, `\"`)+`"}`)
	wild.SetSource(hostile)
	wild.SetExtension("wild", hostile)
	binary := sized("binary", "XL", "\x00\xff\x1b[2J")
	binary.SetDataContentType("application/octet-stream")
	for _, e := range []event.Event{small, large, wild, binary} {
		post(e)
	}
	const rows = `document.querySelectorAll("#events > li:not([hidden])").length`
	b.waits(t, rows+" === 3")
	b.do(t, chromedp.Evaluate(`document.querySelectorAll("details").forEach((d) => { d.open = true; })`, nil))
	for _, text := range []string{"28", `{"note":"` + strings.ReplaceAll(hostile, `"`, `\"`) + `"}`, hostile, "00 ff 1b 5b 32 4a", "Live · 3 events"} {
		b.sees(t, text)
	}
	b.look(t, "display")
	b.reachable(t, "display")
	b.harmless(t, "display")
	if text := b.text(t, "body"); strings.Contains(text, "4.5") {
		t.Errorf("the page shows what its Trigger keeps out:\n%s", text)
	}
	waitFor(t, func() bool { return strings.Contains(printed(), "id: binary") })
	if text := printed(); !strings.Contains(text, "Context Attributes,\n  specversion: 1.0\n") || !strings.Contains(text, "  label: XL\n") || !strings.Contains(text, `"note": "needle"`) || strings.Contains(text, "4.5") || strings.Contains(text, "\x1b") {
		t.Errorf("printed:\n%s\nwant what has the label XL, as text", text)
	}

	b.do(t, chromedp.SendKeys("#filter", "XL NEEDLE"))
	b.waits(t, rows+" === 1")
	b.sees(t, "1 of 3 shown")
	b.do(t, chromedp.Click("#pause"))
	post(sized("another needle", "XL", `{}`))
	b.sees(t, "paused, 1 wait")
	b.do(t, chromedp.Click("#pause"))
	b.waits(t, rows+" === 2")
	b.do(t, chromedp.Click("#clear"))
	b.sees(t, "Waiting for the next event.")

	// The page comes again by itself, and misses nothing of what the next process shows.
	stop(t, cmd)
	b.waits(t, `document.querySelector("#state").textContent.startsWith("Connecting")`)
	args[len(args)-1] = strings.TrimSuffix(strings.TrimPrefix(at["display"], "http://"), "/")
	cmd = command(t.Context(), t, args...)
	at, _ = showing(t, cmd)
	post(sized("needle again", "XL", `{}`))
	b.waits(t, rows+" === 1")
	b.sees(t, "Live · 1 event ·")
	stop(t, cmd)
}

// What comes is told once to who looks, by a program, too.
func TestDisplayTellsPrograms(t *testing.T) {
	cmd := command(t.Context(), t, up(filepath.Join(t.TempDir(), "data"), "--manifests", justDisplay(t), "--display", "127.0.0.1:0")...)
	at, _ := showing(t, cmd)
	broker := strings.Replace(at["brokers"], "NAMESPACE/BROKER", "transactions/transactions", 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream := eventsOf(ctx, t, at["display"])
	want := map[string]bool{}
	for i := range 50 {
		id := fmt.Sprint("e", i)
		want[id] = true
		if err := function.Post(t.Context(), http.DefaultClient, broker, sized(id, "XL", `{}`)); err != nil {
			t.Fatal(err)
		}
	}
	lines := bufio.NewScanner(stream)
	for len(want) > 0 && lines.Scan() {
		_, id, ok := strings.Cut(lines.Text(), `["id","`)
		if id, _, _ = strings.Cut(id, `"`); ok && !want[id] {
			t.Fatalf("%s came twice", id)
		}
		delete(want, id)
	}
	if len(want) > 0 {
		t.Errorf("%d events did not come: %v", len(want), lines.Err())
	}
}

// shownSizes reads what a display shows of classified transactions, until it has shown
// so many: their labels, by hash.
func shownSizes(t *testing.T, display string, many int) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	stream := eventsOf(ctx, t, display)
	sizes := map[string]string{}
	lines := bufio.NewReader(stream)
	for len(sizes) < many {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%d of %d transactions shown: %v", len(sizes), many, err)
		}
		text, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		var shown struct {
			Attributes [][2]string
			Data       string
		}
		var data struct {
			Classified []struct {
				Label  string
				Record struct{ X struct{ Hash string } }
			}
		}
		if err := errors.Join(json.Unmarshal([]byte(text), &shown), json.Unmarshal([]byte(shown.Data), &data)); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for _, one := range data.Classified {
			if !slices.Contains(shown.Attributes, [2]string{"label", one.Label}) {
				t.Errorf("label %s is no attribute of its event: %v", one.Label, shown.Attributes)
			}
			sizes[one.Record.X.Hash] = one.Label
		}
	}
	return sizes
}

// The example: each transaction of a feed gets its size, whether they come singly or
// many in an event, and the display shows the XL and no other.
func TestTransactions(t *testing.T) {
	frames, want := feedtest.Transactions(t)
	feed := feedtest.Serve(t, frames...)
	large := maps.Clone(want)
	maps.DeleteFunc(large, func(_, size string) bool { return size != "XL" })
	for _, test := range []struct {
		name    string
		trigger func(string) string
		set     string
		want    map[string]string
	}{
		{"all sizes", func(yaml string) string { return strings.Replace(yaml, "        label: XL\n", "", 1) }, "", want},
		{"all sizes, one by one", func(yaml string) string { return strings.Replace(yaml, "        label: XL\n", "", 1) }, "BATCH_MAX_MESSAGES=1", want},
		{"XL", func(yaml string) string { return yaml }, "BATCH_MAX_MESSAGES=1", large},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "transactions")
			if err := os.CopyFS(dir, os.DirFS(transactions(t))); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "triggers", "display.yaml")
			yaml, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			write(t, file, test.trigger(string(yaml)))
			args := up(filepath.Join(t.TempDir(), "data"), "--manifests", dir, "--display", "127.0.0.1:0", "--set", "websocket-source.WEBSOCKET_URL="+feed.URL)
			if test.set != "" {
				args = append(args, "--set", "websocket-source."+test.set)
			}
			cmd := command(t.Context(), t, args...)
			at, printed := showing(t, cmd)
			if diff := cmp.Diff(test.want, shownSizes(t, at["display"], len(test.want))); diff != "" {
				t.Errorf("sizes at the display (-want +got):\n%s", diff)
			}
			stop(t, cmd)
			for hash := range want {
				if _, shown := test.want[hash]; strings.Contains(printed(), hash) != shown {
					t.Errorf("transaction %s, of size %s, is printed: %t, want %t", hash, want[hash], !shown, shown)
				}
			}
		})
	}
}

// eventsOf is the stream of a display's page, which ends with the test.
func eventsOf(ctx context.Context, t *testing.T, display string) io.Reader {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, display+"events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp.Body
}
