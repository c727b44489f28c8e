package repotest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/dataset"
)

// Where a page links to a file, the file is there, and where it links to a heading of a
// page, the page has it.
func TestLinksOfPages(t *testing.T) {
	root := dataset.Root(t)
	out, err := exec.Command("git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard", "*.md").Output()
	if err != nil {
		t.Skipf("git ls-files: %v", err)
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fenced := regexp.MustCompile("(?s)\n```.*?\n```")
	inline := regexp.MustCompile("`[^`\n]+`")
	links := 0
	for _, page := range strings.Fields(string(out)) {
		text, err := os.ReadFile(filepath.Join(root, page))
		if os.IsNotExist(err) {
			continue // deleted, and not committed
		}
		if err != nil {
			t.Fatal(err)
		}
		prose := inline.ReplaceAll(fenced.ReplaceAll(text, nil), []byte("`"))
		for _, found := range link.FindAllSubmatch(prose, -1) {
			to, heading, _ := strings.Cut(string(found[1]), "#")
			if strings.Contains(to, ":") { // an address
				continue
			}
			links++
			file := filepath.Join(root, filepath.Dir(page), to)
			if to == "" {
				file = filepath.Join(root, page)
			}
			there, err := os.ReadFile(file)
			if _, is := os.Stat(file); is != nil {
				t.Errorf("%s links to %s, which is not there", page, found[1])
				continue
			}
			if heading != "" && strings.HasSuffix(file, ".md") && (err != nil || !headings(string(there))[heading]) {
				t.Errorf("%s links to %s: that page has no such heading", page, found[1])
			}
		}
	}
	if links == 0 {
		t.Error("no page links to a file")
	}
}

// headings gives the anchors that GitHub makes of a page's headings.
func headings(page string) map[string]bool {
	all := map[string]bool{}
	dropped := regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
	for _, line := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(page, -1) {
		all[strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(line[1]), ""), " ", "-")] = true
	}
	return all
}
