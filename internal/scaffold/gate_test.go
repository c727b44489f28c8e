package scaffold_test

import (
	"bytes"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/scaffold"
)

// clone copies the repository as it stands, what git does not know left out.
func clone(t *testing.T) string {
	t.Helper()
	root, dir := dataset.Root(t), t.TempDir()
	out, err := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Skipf("git ls-files: %v", err)
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		from, to := filepath.Join(root, name), filepath.Join(dir, name)
		info, err := os.Lstat(from)
		if os.IsNotExist(err) {
			continue // deleted, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if info.Mode()&os.ModeSymlink != 0 {
			target, err := os.Readlink(from)
			if err == nil {
				err = os.Symlink(target, to)
			}
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, text, info.Mode().Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	run(t, dir, "git", "init", "-q")
	run(t, dir, "git", "add", "-A")
	return dir
}

// run runs a command, which has to end well.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// What is written passes the gate untouched: format, vet, staticcheck, the tests of the
// layout, of the manifests and of the contracts, and its own.
func TestWhatIsWrittenPassesTheGate(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds a copy of the repository")
	}
	dir := clone(t)
	var reports []scaffold.Report
	add := func(r scaffold.Report, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		reports = append(reports, r)
	}
	// By its name alone its events are those that websocket-source may bring.
	add(scaffold.NewProduct(scaffold.Product{Dir: dir, Name: "transactions", Domain: "finance", Kind: "source", Like: "testdata",
		Event: "dev.telemesh.transaction.seen.v1"}))
	add(scaffold.NewProduct(scaffold.Product{Dir: dir, Name: "transaction-times", Domain: "finance", Kind: "consumer", In: []string{"transactions.transactions"}}))
	// One in a domain that is there, with a function of its own.
	add(scaffold.NewProduct(scaffold.Product{Dir: dir, Name: "sales", Domain: "crm", Kind: "source", Columns: "sale_id string key, sold_at timestamp required, amount float64"}))
	add(scaffold.NewFunction(scaffold.Function{Dir: dir, Name: "transaction-count", Product: "transactions",
		In: "dev.telemesh.transaction.seen.v1", Out: "dev.telemesh.transactions.counted.v1"}))
	add(scaffold.NewFunction(scaffold.Function{Dir: dir, Name: "sales-join", Product: "sales", // a second package join
		In: "dev.telemesh.sales.received.v1", Out: "dev.telemesh.sales.joined.v1"}))

	functions := []string{"./functions/transaction-count/...", "./functions/sales-join/..."}
	for _, r := range reports {
		for _, name := range append(r.Created, r.Changed...) {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasSuffix(text, []byte("\n")) || bytes.Contains(text, []byte("<<")) || bytes.Contains(text, []byte(" \n")) || bytes.Contains(text, []byte("\n\n\n")) {
				t.Errorf("%s is not as a person writes it:\n%s", name, text)
			}
			if strings.HasSuffix(name, ".go") {
				if formatted, err := format.Source(text); err != nil || !bytes.Equal(text, formatted) {
					t.Errorf("%s is not formatted: %v", name, err)
				}
			}
		}
	}
	run(t, dir, "git", "add", "-A")
	run(t, dir, "go", append([]string{"vet", "./functions"}, functions...)...)
	run(t, dir, "go", append([]string{"run", "honnef.co/go/tools/cmd/staticcheck@v0.7.0"}, functions...)...)
	run(t, dir, "go", append([]string{"test", "-bench", ".", "-benchtime", "1x"}, functions...)...)
	run(t, dir, "go", "test", "./internal/repotest", "./internal/manifest", "./internal/check", "./internal/policy", "./internal/contract/...",
		"./internal/catalog", "./internal/lineage", "./internal/topology/...", "./functions/warehouse-sink/...")
}
