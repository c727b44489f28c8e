package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/feedtest"
)

// TestTransactions puts examples/transactions on the cluster, as its README does, with a
// feed of this process in place of blockchain.info: each transaction gets its size, and
// the display shows the XL and no other. E2E_TRANSACTIONS is the file with its
// manifests, their images built.
func TestTransactions(t *testing.T) {
	needCluster(t)
	file := os.Getenv("E2E_TRANSACTIONS")
	if file == "" {
		t.Skip("E2E_TRANSACTIONS is not set: hack/e2e.sh sets it")
	}
	frames, want := feedtest.Transactions(t)
	feed := feedtest.Feed{Address: net.JoinHostPort(listenAt(), "0")}.Serve(t, frames...)
	yaml, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const upstream = "wss://ws.blockchain.info/inv"
	if !strings.Contains(string(yaml), upstream) {
		t.Fatalf("%s does not name %s", file, upstream)
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(feed.URL, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	all := sizes{of: map[string]string{}}
	sink := serve(t, &all)
	host := os.Getenv("E2E_HOST")
	mesh := strings.Replace(string(yaml), upstream, "ws://"+net.JoinHostPort(host, port), 1) + fmt.Sprintf(`
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata:
  name: all-sizes
  namespace: transactions
spec:
  broker: transactions
  filters:
    - exact: {type: dev.telemesh.transactions.classified.v1}
  subscriber:
    uri: http://%s
`, net.JoinHostPort(host, fmt.Sprint(sink)))

	// That an earlier run took away, and that still ends: for a minute and more.
	kubectl(t, "", "wait", "--for=delete", "--timeout=180s", "namespace/transactions")
	start := time.Now()
	t.Cleanup(func() { kubectl(t, "", "delete", "namespace", "transactions", "--ignore-not-found", "--wait=false") })
	kubectl(t, kubectl(t, mesh, "label", "--local", "-f", "-", "-o", "json", mine+"=e2e"), "create", "-f", "-")
	kubectl(t, "", "wait", "--for=condition=Ready", "--timeout=180s", "-n", "transactions",
		"broker/transactions", "trigger/classify", "trigger/display", "trigger/all-sizes", "ksvc/classify", "ksvc/display")
	kubectl(t, "", "wait", "--for=condition=Available", "--timeout=180s", "-n", "transactions", "deployment/websocket-source")
	t.Logf("the example is ready after %v", since(start))
	// What the feed has sent before the Triggers were ready no Trigger took: the source
	// connects anew, and the feed begins anew.
	kubectl(t, "", "rollout", "restart", "-n", "transactions", "deployment/websocket-source")
	shown := show(t, "http://display.transactions.svc.cluster.local")
	until(t, patience, "the sizes of all transactions", func() string { return gocmp.Diff(want, all.all()) })
	large := map[string]string{}
	for hash, size := range want {
		if size == "XL" {
			large[hash] = size
		}
	}
	until(t, patience, "what is XL at the display", func() string { return gocmp.Diff(large, shown.all()) })
	t.Logf("classified and shown after %v", since(start))
	log := kubectl(t, "", "logs", "-n", "transactions", "-l", "serving.knative.dev/service=display", "-c", "user-container", "--tail=-1")
	for hash, size := range want {
		if printed := strings.Contains(log, hash); printed != (size == "XL") {
			t.Errorf("transaction %s, of size %s, is printed: %t", hash, size, printed)
		}
	}
	if !strings.Contains(log, "Context Attributes,\n  specversion: 1.0\n") || !strings.Contains(log, "label: XL\n") {
		t.Errorf("printed:\n%s", log)
	}
}

// sizes collects the labels of transactions, by hash: a subscriber of what classify
// makes.
type sizes struct {
	mu sync.Mutex
	of map[string]string
}

func (s *sizes) all() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]string{}
	for hash, size := range s.of {
		out[hash] = size
	}
	return out
}

// take takes the data of an event and its attribute label, which has to be the same.
func (s *sizes) take(data []byte, label string) error {
	var said struct {
		Classified []struct {
			Label  string
			Record struct{ X struct{ Hash string } }
		}
	}
	if err := json.Unmarshal(data, &said); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range said.Classified {
		if one.Label != label {
			return fmt.Errorf("label %s in an event of label %s", one.Label, label)
		}
		s.of[one.Record.X.Hash] = label
	}
	return nil
}

func (s *sizes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err == nil {
		err = s.take(data, r.Header.Get("Ce-Label"))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// show watches a display until the test ends, as its page does: again when the stream
// ends, as each does after minutes.
func show(t *testing.T, display string) *sizes {
	t.Helper()
	all := &sizes{of: map[string]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if err := all.watch(ctx, display+"/events"); err != nil && ctx.Err() == nil {
				t.Errorf("watch the display: %v", err)
				return
			}
		}
	}()
	return all
}

// watch takes what a display shows until the stream ends.
func (s *sizes) watch(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		text, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		var e struct {
			Attributes [][2]string
			Data       string
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			return fmt.Errorf("%w: %s", err, line)
		}
		label := ""
		for _, a := range e.Attributes {
			if a[0] == "label" {
				label = a[1]
			}
		}
		if err := s.take([]byte(e.Data), label); err != nil {
			return fmt.Errorf("%w: %s", err, line)
		}
	}
}
