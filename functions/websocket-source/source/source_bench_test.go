package source

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/coder/websocket"

	"github.com/telemesh/telemesh/internal/mesh"
)

// rate is how many frames a feed sends in a second, each of 1,000 bytes.
const rate = 5000

// BenchmarkFeed measures a process that reads a feed of 5,000 frames a second: the
// source, which brings them to a broker, and beside it who only reads them, with
// the same library. Each frame has to arrive once. Reported are the process's
// memory (VmRSS) after a tenth and at the end, the most of it, and its share of one
// processor. For a minute each:
//
//	go test ./functions/websocket-source/source -run '^$' -bench Feed -benchtime 300000x
func BenchmarkFeed(b *testing.B) {
	for _, name := range []string{"source", "bare"} {
		b.Run(name, func(b *testing.B) {
			var mu sync.Mutex
			seen, count, all := make([]bool, b.N), 0, make(chan struct{})
			broker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				e, err := cehttp.NewEventFromHTTPRequest(r)
				if err != nil {
					b.Error(err)
					return
				}
				carried, err := mesh.Carried(*e)
				if err != nil {
					b.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, e := range carried {
					n, err := strconv.Atoi(e.ID())
					if err != nil || n >= len(seen) || seen[n] {
						b.Errorf("event %s: not one of the frames, or twice", e.ID())
						continue
					}
					seen[n] = true
					if count++; count == len(seen) {
						close(all)
					}
				}
				w.WriteHeader(http.StatusAccepted)
			}))
			defer broker.Close()
			sent := make(chan struct{})
			feed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, err := websocket.Accept(w, r, nil)
				if err != nil {
					b.Error(err)
					return
				}
				defer conn.CloseNow()
				if _, _, err := conn.Read(r.Context()); err != nil {
					b.Error(err)
					return
				}
				reading := conn.CloseRead(context.Background())
				pace(b, conn, b.N)
				close(sent)
				<-reading.Done()
			}))
			defer feed.Close()

			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "PORT=0", "WEBSOCKET_URL=ws"+strings.TrimPrefix(feed.URL, "http"), "K_SINK="+broker.URL,
				"WEBSOCKET_SUBSCRIBE=go", "WEBSOCKET_TYPE=com.example.seen.v1", "WEBSOCKET_ID=/id", "WEBSOCKET_TIME=/at", "WEBSOCKET_TIME_UNIT=us")
			if name == "bare" {
				cmd.Env = append(cmd.Env, "WEBSOCKET_BARE="+strconv.Itoa(b.N))
			}
			began := time.Now()
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			defer cmd.Process.Kill()
			begin, most, last := 0.0, 0.0, 0.0
			ended := sent
			if name == "source" {
				ended = all
			}
			limit := time.After(time.Minute + 3*time.Duration(b.N)*time.Second/rate)
			for n, running := 0, true; running; n++ {
				select {
				case <-ended:
					running = false
				case <-limit:
					b.Fatal("not all of the frames have arrived")
				case <-time.After(time.Duration(b.N) * time.Second / rate / 100):
				}
				if now := resident(b, cmd.Process.Pid); now > 0 {
					last, most = now, max(most, now)
				}
				if n == 10 {
					begin = last
				}
			}
			took := time.Since(began)
			if name == "source" { // the other has read all there is
				cmd.Process.Signal(os.Interrupt)
			}
			if err := cmd.Wait(); err != nil {
				b.Error(err)
			}
			cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			b.ReportMetric(float64(b.N)/took.Seconds(), "frames/s")
			b.ReportMetric(begin, "MiB-begin")
			b.ReportMetric(last, "MiB-end")
			b.ReportMetric(most, "MiB-most")
			b.ReportMetric(100*cpu.Seconds()/took.Seconds(), "%cpu")
		})
	}
}

// pace sends n frames, some each hundredth of a second.
func pace(b *testing.B, conn *websocket.Conn, n int) {
	filler := strings.Repeat("5120a159", 116)
	began := time.Now()
	for i := range n {
		if i%(rate/100) == 0 {
			time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / rate)))
		}
		frame := fmt.Appendf(nil, `{"id":"%07d","at":%d,"script":"%s"}`, i, time.Now().UnixMicro(), filler)
		if err := conn.Write(context.Background(), websocket.MessageText, frame); err != nil {
			b.Error(err)
			return
		}
	}
}

// bare reads n frames of a feed.
func bare(url string, n int) error {
	ctx := context.Background()
	conn, _, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		return err
	}
	if err := conn.Write(ctx, websocket.MessageText, []byte("go")); err != nil {
		return err
	}
	for range n {
		if _, _, err := conn.Read(ctx); err != nil {
			return err
		}
	}
	return conn.Close(websocket.StatusNormalClosure, "")
}

// resident is the memory of a process, in MiB.
func resident(b *testing.B, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skip("no /proc: ", err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 { // it has ended
		return 0
	}
	kib, err := strconv.Atoi(fields[0])
	if err != nil {
		b.Fatal(err)
	}
	return float64(kib) / 1024
}
