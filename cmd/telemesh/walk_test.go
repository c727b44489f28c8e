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

	"github.com/telemesh/telemesh/internal/dataset"
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
	const any = `(.*\n)*`
	var lines strings.Builder
	for line := range strings.Lines(b.text) {
		if line = strings.TrimSpace(line); line == "..." {
			lines.WriteString(any)
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
// free, is replaced in both. It gives all that was printed.
func walk(t *testing.T, page string, replace ...string) string {
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
		b.text = strings.NewReplacer(replace...).Replace(b.text)
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
	return w.printed.String()
}

// commands is a folder in which telemesh is this test.
func commands(t *testing.T) (bin string) {
	t.Helper()
	bin = t.TempDir()
	wrapper := "#!/bin/sh\n" + asMain + "=1 exec " + executable(t) + ` "$@"` + "\n"
	if err := os.WriteFile(filepath.Join(bin, "telemesh"), []byte(wrapper), 0o755); err != nil {
		t.Fatal(err)
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
	out := walk(t, filepath.Join(dataset.Root(t), "README.md"))
	for _, want := range []string{"dead-lettered          0", "linden-school", "ok: ", "from linden-school to harbour-offices", "holds: every row", "2800000000  XL", "name: audit\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the README's commands do not print %q:\n%s", want, out)
		}
	}
}

// What each tutorial needs in place of what its page says.
var tutorials = map[string]func(t *testing.T) (replace []string){
	"4-device-format.md": func(*testing.T) []string { return nil },
}

// What a tutorial tells a reader to type works, and prints what the page shows. It is a
// page, and nothing on it is left out here.
func TestTutorials(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(dataset.Root(t), "docs", "tutorials", "[0-9]*.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) != len(tutorials) {
		t.Errorf("%d pages and %d tutorials of this test", len(pages), len(tutorials))
	}
	for _, page := range pages {
		t.Run(filepath.Base(page), func(t *testing.T) {
			prepare, ok := tutorials[filepath.Base(page)]
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
			walk(t, page, prepare(t)...)
		})
	}
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
