package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/feedtest"
	"github.com/telemesh/telemesh/internal/microbit"
	"github.com/telemesh/telemesh/internal/microbit/bluetest"
)

// block is a fenced block of a page. The words behind its fence say what becomes of it:
//
//	sh             commands, which have to end well
//	sh fails       commands of which the last one must not
//	sh again       a command that is given again until it prints what follows
//	sh terminal    a command with a terminal of its own: it runs to the end of the page,
//	               is interrupted, and has to end well then
//	text           what the commands before print, all of it
//	text terminal  what the terminal that was opened last prints some time
//
// In a text, a line ... stands for any lines, and ... in a line for anything there.
type block struct {
	what string
	line int // of the page, where it begins
	text string
}

// blocks gives the fenced blocks of a page.
func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	open := false
	for i, line := range strings.SplitAfter(string(text), "\n") {
		switch what, fence := strings.CutPrefix(line, "```"); {
		case fence && open:
			open = false
		case fence:
			open, all = true, append(all, block{strings.TrimSpace(what), i + 2, ""})
		case open:
			all[len(all)-1].text += line
		}
	}
	if open {
		t.Fatalf("%s:%d: the block does not end", page, all[len(all)-1].line)
	}
	return all
}

// pattern is what a text block says of an output: of all of it, or of lines in it.
func (b block) pattern(all bool) *regexp.Regexp {
	var lines strings.Builder
	for line := range strings.Lines(b.text) {
		if line = strings.TrimSpace(line); line == "..." {
			lines.WriteString(`(.*\n)*`)
			continue
		}
		parts := strings.Split(line, "...")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		lines.WriteString(`[ \t]*` + strings.Join(parts, ".*") + `[ \t]*\n`)
	}
	if all {
		return regexp.MustCompile(`^` + lines.String() + `$`)
	}
	return regexp.MustCompile(`(?m:^)` + lines.String())
}

// walk types what a page tells a reader to type, in an empty folder, and compares what
// is printed with what the page shows. What is different here, as addresses that are
// free, is replaced in both. After the last block then is called, while terminals are
// open. It gives all that was printed.
func walk(t *testing.T, page string, replace *strings.Replacer, then func()) string {
	t.Helper()
	home := t.TempDir()
	if err := os.Symlink(dataset.Root(t), filepath.Join(home, "telemesh")); err != nil {
		t.Fatal(err)
	}
	w := walker{t: t, page: page, dir: t.TempDir(), env: append(os.Environ(), "HOME="+home, "PATH="+commands(t)+":"+os.Getenv("PATH"))}
	defer w.end()
	ran := 0
	var before *block // whose output a text shows
	flush := func(shown *block) {
		if before != nil {
			w.run(*before, shown)
			before = nil
		}
	}
	for _, b := range blocks(t, page) {
		b.text = replace.Replace(b.text)
		switch b.what {
		case "sh", "sh fails", "sh again", "sh terminal":
			flush(nil)
			before = &b
			ran++
		case "text":
			if before == nil {
				t.Fatalf("%s:%d: no commands stand before this text", page, b.line)
			}
			flush(&b)
		case "text terminal":
			flush(nil)
			w.shows(b)
		default:
			if strings.HasPrefix(b.what, "sh") || strings.HasPrefix(b.what, "text") {
				t.Fatalf("%s:%d: a block %q, which this test does not know", page, b.line, b.what)
			}
		}
	}
	flush(nil)
	if ran == 0 {
		t.Fatalf("%s has no block of shell commands", page)
	}
	then()
	w.end()
	return w.printed.String()
}

// commands is a folder in which the commands are this test.
func commands(t *testing.T) (bin string) {
	t.Helper()
	bin = t.TempDir()
	for name, as := range map[string]string{"telemesh": asMain, "telemesh-microbit": asGateway} {
		wrapper := "#!/bin/sh\n" + as + "=1 exec " + executable(t) + ` "$@"` + "\n"
		if err := os.WriteFile(filepath.Join(bin, name), []byte(wrapper), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

type walker struct {
	t         *testing.T
	page, dir string
	env       []string
	printed   bytes.Buffer
	terminals []*terminal
}

// atLast bounds what has to become true while other processes work.
const atLast = 2 * time.Minute

// run gives the commands of a block to a shell, and compares what it prints with what
// is shown, if the page shows it.
func (w *walker) run(b block, shown *block) {
	w.t.Helper()
	if b.what == "sh terminal" {
		w.open(b, shown)
		return
	}
	for began := time.Now(); ; {
		cmd := w.shell(w.t.Context(), b.text)
		out, err := cmd.CombinedOutput()
		if len(out) > 0 && !bytes.HasSuffix(out, []byte("\n")) {
			out = append(out, '\n') // as of curl
		}
		failed, wrong := err != nil, ""
		switch {
		case failed != (b.what == "sh fails"):
			wrong = fmt.Sprintf("ended with %v", err)
		case shown != nil && !shown.pattern(true).Match(out):
			wrong = "did not print what the page shows:\n" + shown.text + "but"
		}
		if wrong == "" {
			w.printed.Write(out)
			return
		}
		if b.what != "sh again" || time.Since(began) > atLast {
			w.fatal(b, "%s:\n%s", wrong, out)
		}
	}
}

func (w *walker) shell(ctx context.Context, commands string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-euc", commands)
	cmd.Dir, cmd.Env = w.dir, w.env
	return cmd
}

func (w *walker) fatal(b block, format string, args ...any) {
	w.t.Helper()
	for _, term := range w.terminals {
		w.t.Logf("the terminal of line %d:\n%s", term.block.line, term.output())
	}
	w.t.Fatalf("%s:%d:\n%s%s", w.page, b.line, b.text, fmt.Sprintf(format, args...))
}

// open starts what a terminal of its own runs, and waits for what it shows at first.
func (w *walker) open(b block, shown *block) {
	w.t.Helper()
	term := &terminal{block: b, cmd: w.shell(context.Background(), "exec "+b.text), changed: make(chan struct{}, 1), ended: make(chan struct{})}
	term.cmd.Stdout, term.cmd.Stderr = term, term
	if err := term.cmd.Start(); err != nil {
		w.fatal(b, "%v", err)
	}
	w.terminals = append(w.terminals, term)
	go func() {
		term.err = term.cmd.Wait()
		close(term.ended)
	}()
	if shown != nil {
		w.shows(*shown)
	}
}

// shows waits until the last terminal has printed the lines of a block.
func (w *walker) shows(b block) {
	w.t.Helper()
	if len(w.terminals) == 0 {
		w.fatal(b, "no terminal is open")
	}
	term, gaveUp := w.terminals[len(w.terminals)-1], time.After(atLast)
	for !b.pattern(false).Match(term.output()) {
		select {
		case <-term.changed:
		case <-term.ended:
			if !b.pattern(false).Match(term.output()) {
				w.fatal(b, "the terminal ended before it showed this: %v", term.err)
			}
		case <-gaveUp:
			w.fatal(b, "the terminal does not show this")
		}
	}
}

// end interrupts the terminals, the last one first.
func (w *walker) end() {
	for i := len(w.terminals) - 1; i >= 0; i-- {
		term := w.terminals[i]
		select {
		case <-term.ended:
			w.t.Errorf("%s:%d: ended by itself: %v\n%s", w.page, term.block.line, term.err, term.output())
			continue
		default:
		}
		if err := term.cmd.Process.Signal(syscall.SIGINT); err != nil {
			w.t.Error(err)
		}
		select {
		case <-term.ended:
		case <-time.After(atLast):
			term.cmd.Process.Kill()
			<-term.ended
		}
		if term.err != nil {
			w.t.Errorf("%s:%d: after an interrupt: %v, want exit 0\n%s", w.page, term.block.line, term.err, term.output())
		}
		w.printed.Write(term.output())
	}
	w.terminals = nil
}

// terminal is a process that runs beside, and what it has printed.
type terminal struct {
	block   block
	cmd     *exec.Cmd
	changed chan struct{}
	ended   chan struct{}
	err     error // after ended

	mu  sync.Mutex
	out []byte
}

func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.out = append(t.out, p...)
	t.mu.Unlock()
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (t *terminal) output() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.out)
}

// freeAddress is one of this machine that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	return free.Addr().String()
}

// What the README tells a reader to type works, in an empty folder.
func TestReadme(t *testing.T) {
	if testing.Short() {
		t.Skip("many commands, one after the other")
	}
	out := walk(t, filepath.Join(dataset.Root(t), "README.md"), strings.NewReplacer(), func() {})
	for _, want := range []string{"dead-lettered          0", "linden-school", "ok: ", "from linden-school to harbour-offices", "holds: every row", "2800000000  XL", "name: audit\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the README's commands do not print %q:\n%s", want, out)
		}
	}
}

// tutorial is what a page needs besides a shell.
type tutorial struct {
	// with makes what the page takes for given, and gives the flags of `telemesh up` that
	// lead there.
	with func(t *testing.T) (flags string)
	// look sees in a browser what the page promises, by the links in its text.
	look func(t *testing.T, text string)
}

var tutorials = map[string]tutorial{
	"1-websocket-to-display.md": {feedOfTransactions, seesTransactions},
	"2-reply-and-filter.md":     {quietFeed, seesOneReply},
	"3-microbit-to-chart.md":    {nearMicroBit, seesChart},
	"4-device-format.md":        {},
}

// What a tutorial tells a reader to type works, and prints what the page shows. It is a
// page, and nothing on it is left out here.
func TestTutorials(t *testing.T) {
	if testing.Short() {
		t.Skip("many commands, one after the other")
	}
	pages, err := filepath.Glob(filepath.Join(dataset.Root(t), "docs", "tutorials", "[0-9]*.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) != len(tutorials) {
		t.Errorf("%d pages and %d tutorials of this test", len(pages), len(tutorials))
	}
	for _, page := range pages {
		t.Run(filepath.Base(page), func(t *testing.T) {
			does, ok := tutorials[filepath.Base(page)]
			if !ok {
				t.Fatal("this test does not know the page")
			}
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			if lines := bytes.Count(text, []byte("\n")); lines > 60 {
				t.Errorf("%d lines are more than a page", lines)
			}
			for _, b := range blocks(t, page) {
				if !strings.HasPrefix(b.what, "sh") && !strings.HasPrefix(b.what, "text") {
					t.Errorf("%s:%d: a block %q, which is not run: want one of sh or text", page, b.line, b.what)
				}
			}
			if indented := regexp.MustCompile(`\n\n(    |\t).*`).Find(text); indented != nil {
				t.Errorf("commands that are not run, want a block of sh: %s", indented)
			}
			if _, err := exec.LookPath("curl"); err != nil && bytes.Contains(text, []byte("curl -")) {
				t.Skip("curl is not installed, which the page types: on Debian and Ubuntu, apt-get install curl")
			}
			var flags string
			if does.with != nil {
				flags = does.with(t)
			}
			here := freeAddresses(t, flags)
			walk(t, page, here, func() {
				if does.look != nil {
					does.look(t, here.Replace(string(text)))
				}
			})
		})
	}
}

// freeAddresses replaces the addresses that commands have by themselves, and adds
// flags to `telemesh up`.
func freeAddresses(t *testing.T, flags string) *strings.Replacer {
	t.Helper()
	up := "telemesh up --mqtt '' " + flags
	var replace []string
	for _, is := range []struct{ flag, port string }{{"portal", "8080"}, {"brokers", "8081"}, {"ingest", "8082"}, {"display", "8083"}} {
		free := freeAddress(t)
		up += " --" + is.flag + " " + free
		replace = append(replace, "localhost:"+is.port, free, "127.0.0.1:"+is.port, free)
		if is.flag == "ingest" {
			t.Setenv("TELEMESH_MICROBIT_INGEST", "http://"+free)
		}
	}
	return strings.NewReplacer(append(replace, "telemesh up", up)...)
}

// linked gives where words of a page lead to.
func linked(t *testing.T, text, words string) (server, path string) {
	t.Helper()
	found := regexp.MustCompile(regexp.QuoteMeta("["+words+"](") + `(http://[^/)]+)(/[^)]*)\)`).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("the page has no link %q", words)
	}
	return found[1], found[2]
}

// nearMicroBit is a machine with Bluetooth and a micro:bit that is switched on and
// becomes warmer. Nobody has to have set this machine's clock.
func nearMicroBit(t *testing.T) string {
	bluez := bluetest.Start(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bluez.Address)
	t.Setenv("TELEMESH_MICROBIT_TRUST_CLOCK", "true")
	device := bluez.Add(bluetest.MicroBit{Address: "C8:2E:11:22:33:44", NeedsPairing: true})
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for !device.Notifying(microbit.TemperatureData) {
			select {
			case <-tick.C:
			case <-t.Context().Done():
				return
			}
		}
		for degrees := byte(21); degrees < 25; degrees++ {
			device.Notify(microbit.TemperatureData, degrees)
		}
	}()
	return ""
}

// feedOfTransactions sends some, whose last one is the largest.
func feedOfTransactions(t *testing.T) string {
	frames, _ := feedtest.Transactions(t)
	return "--set websocket-source.WEBSOCKET_URL=" + feedtest.Serve(t, frames...).URL
}

// quietFeed has none to send.
func quietFeed(t *testing.T) string {
	return "--set websocket-source.WEBSOCKET_URL=" + feedtest.Serve(t).URL
}

func seesTransactions(t *testing.T, text string) {
	display, path := linked(t, text, "its page")
	b := newBrowser(t, display)
	b.open(t, path)
	b.sees(t, "1000000000000")
	b.do(t, chromedp.SendKeys("#filter", "/me"))
	b.waits(t, `[...document.querySelectorAll("#events > li")].filter((e) => e.checkVisibility()).length === 1`)
	b.sees(t, "/me")
}

func seesOneReply(t *testing.T, text string) {
	display, path := linked(t, text, "its page")
	b := newBrowser(t, display)
	b.open(t, path)
	b.sees(t, "high")
	b.sees(t, "Live · 1 event")
}

func seesChart(t *testing.T, text string) {
	portal, recorded := linked(t, text, "the chart")
	_, live := linked(t, text, "the last day")
	b := newBrowser(t, portal)
	b.do(t, chromedp.Navigate(portal+recorded), chromedp.Click(`//button[@name="user"][contains(., "home")]`))
	b.sees(t, "10 points")
	// By an expression: the page's script may replace an element while it is read.
	for began := time.Now(); ; {
		if b.open(t, live); js[bool](t, b, `document.body.innerText.includes("4 points")`) {
			break
		}
		if time.Since(began) > atLast {
			t.Fatalf("the chart does not have what the micro:bit told now:\n%s", b.text(t, "main"))
		}
	}
	b.accessible(t, "tutorial-chart") // skips where the portal's scripts are not built, which draw
	b.waits(t, `!!document.querySelector("#chart canvas")`)
	b.look(t, "tutorial-chart")
}

// A page that shows something else than what is printed is found.
func TestWalkPatterns(t *testing.T) {
	for _, c := range []struct {
		shown, printed string
		all, want      bool
	}{
		{"a\n", "a\n", true, true},
		{"a\n", "b\n", true, false},
		{"a\n", "a\nb\n", true, false},
		{"a\n", "b\na\nb\n", false, true},
		{"a\n", "ba\n", false, false},
		{"a b\n", "  a b  \n", true, true},
		{"a ... c\n", "a b b c\n", true, true},
		{"a ... c\n", "a\nc\n", true, false},
		{"a.c\n", "abc\n", true, false},
		{"a\n...\nd\n", "a\nd\n", true, true},
		{"a\n...\nd\n", "a\nb\nc\nd\n", true, true},
		{"a\n...\nd\n", "a\nb\nc\n", false, false},
		{"", "a\n", true, false},
	} {
		if got := (block{text: c.shown}).pattern(c.all).MatchString(c.printed); got != c.want {
			t.Errorf("shown %q, printed %q: %v, want %v", c.shown, c.printed, got, c.want)
		}
	}
}
