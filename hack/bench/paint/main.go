// Command paint measures how soon Chromium paints the page of a tenant's room with
// its year, of the readings that the command hours made, beside a page of the same
// server that shows nothing.
//
//	go build -o .cache/telemesh ./cmd/telemesh    # after hack/portal.sh
//	cd hack/bench && go run ./hours -folder /tmp/hours
//	go run ./paint -telemesh ../../.cache/telemesh -data /tmp/hours [-n 20]
//
// It starts `telemesh up --demo` on the folder and enters as a tenant. Each load is
// of another room, at random, in turn with one of the empty page:
//
//   - cold: the server was just started, on a file that the system has not in memory,
//     and the browser, which has nothing of the portal.
//   - new: the server goes on, and the browser was just started.
//   - warm: the server and the browser go on; scripts and styles are in its cache.
//
// Times are from the begin of the navigation: first byte, first and largest
// contentful paint as Chromium tells them (https://w3c.github.io/paint-timing,
// https://w3c.github.io/largest-contentful-paint), and until the chart is drawn,
// which is a canvas and counts for neither.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"golang.org/x/sys/unix"
)

func main() {
	var b bench
	flag.StringVar(&b.telemesh, "telemesh", "", "the telemesh command")
	flag.StringVar(&b.data, "data", "", "data folder, made by hours")
	flag.StringVar(&b.chromium, "chromium", "chromium", "the browser")
	flag.StringVar(&b.tenant, "tenant", "school-03", "whose rooms are shown")
	flag.IntVar(&b.n, "n", 20, "loads of each kind")
	flag.Parse()
	if b.telemesh == "" || b.data == "" {
		fmt.Fprintln(os.Stderr, "paint: -telemesh or -data is missing")
		os.Exit(2)
	}
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "paint:", err)
		os.Exit(1)
	}
}

type bench struct {
	telemesh, data, chromium, tenant string
	n                                int
	rooms                            []string
}

// load is what one load of a page took, in milliseconds.
type load struct {
	Byte  float64 `json:"byte"`
	First float64 `json:"first"`
	Most  float64 `json:"most"`
	Chart float64 `json:"chart"`
}

const empty = "/nothing-is-here"

func (b *bench) run(ctx context.Context) error {
	if err := b.serving(ctx, false, b.know); err != nil {
		return err
	}
	var cold, coldEmpty, fresh, freshEmpty, warm, warmEmpty []load
	for i := range b.n {
		err := b.serving(ctx, true, func(s *server) error {
			return b.newly(ctx, s, i, &cold, &coldEmpty)
		})
		if err != nil {
			return err
		}
	}
	err := b.serving(ctx, false, func(s *server) error {
		for i := range b.n {
			if err := b.newly(ctx, s, i, &fresh, &freshEmpty); err != nil {
				return err
			}
		}
		return b.browsing(ctx, s, func(tab context.Context) error {
			var unmeasured []load
			if err := errors.Join(s.load(tab, b.anyRoom(), true, &unmeasured), s.load(tab, empty, false, &unmeasured)); err != nil {
				return err
			}
			for range b.n {
				if err := errors.Join(s.load(tab, b.anyRoom(), true, &warm), s.load(tab, empty, false, &warmEmpty)); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	report("cold", cold, coldEmpty)
	report("new ", fresh, freshEmpty)
	report("warm", warm, warmEmpty)
	return nil
}

// newly loads both pages, each in a browser of its own. Which comes first is in turn.
func (b *bench) newly(ctx context.Context, s *server, nth int, room, none *[]load) error {
	for i := range 2 {
		err := b.browsing(ctx, s, func(tab context.Context) error {
			if (nth+i)%2 == 0 {
				return s.load(tab, b.anyRoom(), true, room)
			}
			return s.load(tab, empty, false, none)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) anyRoom() string {
	return "/air?" + url.Values{"range": {"1y"}, "room": {b.rooms[rand.IntN(len(b.rooms))]}, "tz": {"UTC"}}.Encode()
}

// server is a telemesh that runs.
type server struct {
	address string // of its portal
	session *http.Cookie
}

// serving starts the mesh on the folder and logs in, for as long as do takes.
func (b *bench) serving(ctx context.Context, forget bool, do func(*server) error) (err error) {
	if forget {
		if err := b.forget(); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, b.telemesh, "up", "--demo", "--data", b.data, "--portal", "127.0.0.1:0", "--brokers", "127.0.0.1:0", "--ingest", "127.0.0.1:0", "--mqtt", "")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		if stopped := cmd.Process.Signal(os.Interrupt); err == nil {
			err = errors.Join(stopped, cmd.Wait())
		}
	}()
	s := &server{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 1 && fields[0] == "portal" {
			s.address = strings.TrimSuffix(fields[1], "/")
		}
		if len(fields) > 1 && fields[0] == "data" {
			if err := s.enter(b.tenant); err != nil {
				return err
			}
			return do(s)
		}
	}
	return errors.New("telemesh up ended")
}

// forget makes the system drop what it has of the warehouse in memory.
func (b *bench) forget() error {
	f, err := os.Open(filepath.Join(b.data, "warehouse.duckdb"))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// enter becomes a user of the demo: the session is what the browser is given.
func (s *server) enter(user string) error {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(s.address + "/login")
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return err
	}
	id := regexp.MustCompile(`name="user" value="([^"]+)">` + regexp.QuoteMeta(user)).FindSubmatch(text)
	if id == nil {
		return fmt.Errorf("the demo has no user %s", user)
	}
	if resp, err = client.PostForm(s.address+"/login/demo", url.Values{"user": {string(id[1])}}); err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) == 0 {
		return fmt.Errorf("enter as %s: %s", user, resp.Status)
	}
	s.session = resp.Cookies()[0]
	return nil
}

// browsing starts a browser that has nothing in its cache.
func (b *bench) browsing(ctx context.Context, s *server, do func(tab context.Context) error) error {
	path, err := exec.LookPath(b.chromium)
	if err != nil {
		return err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.WindowSize(1280, 900))
	alloc, cancel := chromedp.NewExecAllocator(ctx, options...)
	defer cancel()
	tab, cancel := chromedp.NewContext(alloc)
	defer cancel()
	host, err := url.Parse(s.address)
	if err != nil {
		return err
	}
	if err := chromedp.Run(tab, network.SetCookie(s.session.Name, s.session.Value).WithDomain(host.Hostname()).WithPath("/"),
		chromedp.ActionFunc(func(ctx context.Context) error {
			_, err := page.AddScriptToEvaluateOnNewDocument(watch).Do(ctx)
			return err
		})); err != nil {
		return err
	}
	return do(tab)
}

// watch notes the largest paint, and when the chart is drawn: two frames after its
// canvas is there.
const watch = `window.most = 0; window.chart = 0;
new PerformanceObserver((list) => { for (const e of list.getEntries()) window.most = e.startTime; }).observe({type: "largest-contentful-paint", buffered: true});
new MutationObserver((_, me) => {
	if (!document.querySelector("#chart canvas")) return;
	me.disconnect();
	requestAnimationFrame(() => requestAnimationFrame(() => { window.chart = performance.now(); }));
}).observe(document, {childList: true, subtree: true});`

// load opens a page, and waits until it is painted, and its chart where it has one.
func (s *server) load(tab context.Context, path string, chart bool, to *[]load) error {
	ctx, cancel := context.WithTimeout(tab, time.Minute)
	defer cancel()
	var l load
	err := chromedp.Run(ctx, chromedp.Navigate(s.address+path), chromedp.Evaluate(fmt.Sprintf(`new Promise((done) => {
		const look = () => {
			const first = performance.getEntriesByName("first-contentful-paint")[0];
			if (!first || !window.most || %t && !window.chart) return setTimeout(look, 20);
			// What is larger may be painted yet.
			setTimeout(() => done({byte: performance.getEntriesByType("navigation")[0].responseStart, first: first.startTime, most: window.most, chart: window.chart}), 300);
		};
		look();
	})`, chart), &l, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	if err != nil {
		return fmt.Errorf("load %s: %w", path, err)
	}
	*to = append(*to, l)
	return nil
}

// know asks which rooms there are.
func (b *bench) know(s *server) error {
	req, err := http.NewRequest(http.MethodGet, s.address+"/api/air/now?range=24h", nil)
	if err != nil {
		return err
	}
	req.AddCookie(s.session)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var now struct {
		Rooms []struct {
			Key string `json:"key"`
		} `json:"rooms"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&now); err != nil {
		return err
	}
	for _, r := range now.Rooms {
		b.rooms = append(b.rooms, strings.TrimSuffix(r.Key, "/"))
	}
	if len(b.rooms) == 0 {
		return fmt.Errorf("%s has no room", b.tenant)
	}
	return nil
}

func report(how string, room, empty []load) {
	of := func(all []load, what func(load) float64) []float64 {
		var v []float64
		for _, l := range all {
			v = append(v, what(l))
		}
		slices.Sort(v)
		return v
	}
	print := func(what string, v []float64) {
		fmt.Printf("%s %-36s p50 %.0f ms, p95 %.0f ms, %.0f–%.0f ms, n = %d\n", how, what, v[len(v)/2], v[(len(v)*95+99)/100-1], v[0], v[len(v)-1], len(v))
	}
	byteOf, first, most, chart := func(l load) float64 { return l.Byte }, func(l load) float64 { return l.First }, func(l load) float64 { return l.Most }, func(l load) float64 { return l.Chart }
	print("year of a room, first byte", of(room, byteOf))
	print("year of a room, first paint", of(room, first))
	print("year of a room, largest paint", of(room, most))
	print("year of a room, chart drawn", of(room, chart))
	print("empty page, first paint", of(empty, first))
	print("empty page, largest paint", of(empty, most))
	a, b := of(room, first), of(empty, first)
	fmt.Printf("%s first paint: %.1f× the empty page by the median\n", how, a[len(a)/2]/b[len(b)/2])
}
