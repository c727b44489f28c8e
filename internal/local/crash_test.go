package local

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// crashDir, in the environment, makes this binary the process that is killed.
const crashDir = "TELEMESH_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := crashing(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const crashYAML = brokerYAML + `
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: every, namespace: iot}
spec: {broker: iot, subscriber: {ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: every}}}
`

func crashConfig(dir string) (Config, error) {
	set, err := load(crashYAML + serviceYAML("every") + serviceYAML("first") + serviceYAML("last") +
		triggerYAML("first", "a", toService("first"), "") + triggerYAML("last", "b", toService("last"), ""))
	if err != nil {
		return Config{}, err
	}
	delivered, err := os.OpenFile(filepath.Join(dir, "delivered"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return Config{}, err
	}
	note := func(name string, e event.Event) error {
		_, err := delivered.WriteString(name + " " + string(e.Data()) + "\n") // one write: whole or not at all
		return err
	}
	var mu sync.Mutex
	failed := map[string]bool{}
	return Config{Dir: filepath.Join(dir, "mesh"), Manifests: set, Functions: handlers(map[string]function.Handler{
		"every": func(_ context.Context, e event.Event) ([]event.Event, error) { return nil, note("every-"+e.Type(), e) },
		"first": func(_ context.Context, e event.Event) ([]event.Event, error) {
			id := string(e.Data())
			if strings.HasSuffix(id, "7") {
				return nil, mesh.Permanentf("ends with 7")
			}
			mu.Lock()
			defer mu.Unlock()
			if strings.HasSuffix(id, "3") && !failed[id] {
				failed[id] = true
				return nil, fmt.Errorf("the first time, what ends with 3 fails")
			}
			return []event.Event{mesh.Derive(e, "first", "b", "", e.Data())}, nil
		},
		"last": func(_ context.Context, e event.Event) ([]event.Event, error) { return nil, note("last", e) },
	})}, nil
}

// crashing posts events and says of each that is accepted, until it is killed.
func crashing(dir string) error {
	cfg, err := crashConfig(dir)
	if err != nil {
		return err
	}
	m, err := Open(context.Background(), cfg)
	if err != nil {
		return err
	}
	round := os.Getenv(crashDir + "_ROUND")
	slots := make(chan struct{}, 8)
	for i := 0; ; i++ {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			id := fmt.Sprintf("%s/%d", round, i)
			if status := post(panicker{}, m.Client(), newEvent(id, "a", id)); status == http.StatusAccepted {
				fmt.Println(id)
			}
		}()
	}
}

type panicker struct{ testing.TB }

func (panicker) Helper()           {}
func (panicker) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// What was accepted is delivered, or a dead letter, although the process is
// killed again and again while it accepts and delivers.
func TestNothingAcceptedIsLostByAKill(t *testing.T) {
	dir := t.TempDir()
	const rounds = 12
	random := rand.New(rand.NewPCG(1, 2))
	var accepted []string
	var dead []DeadLetter
	for round := range rounds {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), crashDir+"="+dir, fmt.Sprintf("%s_ROUND=%d", crashDir, round))
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		kill := 1 + random.IntN(3000)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			accepted = append(accepted, lines.Text())
			if n == kill {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); err == nil {
			t.Fatal("the process ended before it was killed")
		}
		// The next run delivers what the killed one left, and comes to rest.
		cfg, err := crashConfig(dir)
		if err != nil {
			t.Fatal(err)
		}
		m := open(t, cfg)
		idle(t, m)
		dead = letters(t, m.DeadLetters())
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	data, err := os.ReadFile(filepath.Join(dir, "delivered"))
	if err != nil {
		t.Fatal(err)
	}
	delivered := map[string]int{}
	for line := range strings.Lines(string(data)) {
		delivered[strings.TrimSpace(line)]++
	}
	isDead := map[string]bool{}
	for _, l := range dead {
		isDead[string(l.Event.Data())] = true
	}
	var lost []string
	for _, id := range accepted {
		if delivered["every-a "+id] == 0 {
			lost = append(lost, id+" at every")
		}
		if strings.HasSuffix(id, "7") {
			if !isDead[id] {
				lost = append(lost, id+" at the dead letters")
			}
		} else if delivered["last "+id] == 0 || delivered["every-b "+id] == 0 {
			lost = append(lost, id+" at last")
		}
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d accepted events are lost: %v", len(lost), len(accepted), lost[:min(len(lost), 10)])
	}
	again := 0
	for _, n := range delivered {
		again += n - 1
	}
	t.Logf("%d events accepted in %d rounds, %d of %d deliveries made again", len(accepted), rounds, again, len(delivered))
}
