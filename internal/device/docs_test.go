package device_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/device"
)

// Every reader stands in the table of docs/formats.md, and what the page shows
// of it is its example, in and out. Each reader has one, and a fuzz target.
func TestFormatsAreDocumented(t *testing.T) {
	path := filepath.Join(dataset.Root(t), "docs/formats.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const from, to = "<!-- examples -->\n", "<!-- end of examples -->\n"
	before, rest, ok := strings.Cut(string(page), from)
	shown, after, closed := strings.Cut(rest, to)
	if !ok || !closed {
		t.Fatalf("%s lacks %s or %s", path, from, to)
	}
	all := cases(t)
	var b strings.Builder
	for _, format := range device.Formats() {
		if !strings.Contains(before, "| `"+format+"` |") {
			t.Errorf("%s: no row of %s", path, format)
		}
		i := slices.IndexFunc(all, func(g golden) bool { return g.format == format && g.example() })
		if i < 0 {
			t.Errorf("no testdata/formats/%s/example.txtar", format)
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n", format)
		for _, f := range all[i].archive.Files {
			fmt.Fprintf(&b, "\n```%s\n%s```\n", map[string]string{"payload": language(f.Data)}[f.Name], f.Data)
		}
	}
	b.WriteString("\n")
	if *update {
		if err := os.WriteFile(path, []byte(before+from+b.String()+to+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(b.String(), shown); diff != "" {
		t.Errorf("%s does not show the examples (-want +got; go test ./internal/device -run Documented -update):\n%s", path, diff)
	}
}

func language(payload []byte) string {
	if payload[0] == '{' || payload[0] == '[' {
		return "json"
	}
	return ""
}

// Who adds a reader adds a fuzz target.
func TestReadersAreFuzzed(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(b)
	}
	for _, format := range device.Formats() {
		if !strings.Contains(text.String(), fmt.Sprintf("fuzzFormat(f, %q)", format)) {
			t.Errorf("no fuzz target of %s: func FuzzX(f *testing.F) { fuzzFormat(f, %q) }", format, format)
		}
	}
}
