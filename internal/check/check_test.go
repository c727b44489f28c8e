package check_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/telemesh/telemesh/internal/check"
	"github.com/telemesh/telemesh/internal/manifest"
)

var update = flag.Bool("update", false, "write what is found into testdata/broken")

// functions that the mesh of the tests may run.
var functions = []string{"classify", "dead-letter-sink", "output-port", "service-levels", "telemetry-ingest", "tenant-enrich", "warehouse-sink"}

// sound is the mesh that each of testdata/broken changes.
func sound(t *testing.T) map[string]string {
	t.Helper()
	archive, err := txtar.ParseFile("testdata/sound.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	return files
}

// changed applies a change to a text, whose lines begin as those of a diff: what begins
// with a minus, or with a space, stands there.
func changed(t *testing.T, text, change string) string {
	t.Helper()
	var old, new strings.Builder
	for line := range strings.Lines(change) {
		sign, rest := line[:1], line[1:]
		if sign == "\n" {
			sign, rest = " ", "\n"
		}
		if sign != "+" {
			old.WriteString(rest)
		}
		if sign != "-" {
			new.WriteString(rest)
		}
	}
	if strings.Count(text, old.String()) != 1 {
		t.Fatalf("these lines stand %d times there, want once:\n%s", strings.Count(text, old.String()), old.String())
	}
	return strings.Replace(text, old.String(), new.String(), 1)
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// found gives what is wrong with the mesh of a folder, as text, with places in it.
func found(t *testing.T, dir string, released *check.Released) string {
	t.Helper()
	overlays, err := manifest.Overlays(manifest.Folder{Name: filepath.Join(dir, "config/overlays"), FS: os.DirFS(filepath.Join(dir, "config/overlays"))})
	if err != nil {
		t.Fatal(err)
	}
	products := filepath.Join(dir, "products")
	mesh := check.Read(check.Source{
		Manifests: manifest.Dir(dir), Overlays: overlays, Functions: functions,
		Products: manifest.Folder{Name: products, FS: os.DirFS(products)},
	})
	mesh.Released = released
	var b strings.Builder
	for _, f := range check.Run(mesh) {
		if f.Why == "" || f.Do == "" || f.Rule == "" || f.Severity == "" {
			t.Errorf("%+v: a finding says why it matters and what to do", f)
		}
		fmt.Fprintf(&b, "%s: %s: %s: %s (%s)\n    %s\n", f.Where, f.Severity, f.Object, f.Problem, f.Rule, f.Do)
	}
	return strings.ReplaceAll(b.String(), dir+string(filepath.Separator), "")
}

func TestSoundMesh(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, sound(t))
	if got := found(t, dir, nil); got != "" {
		t.Errorf("nothing is wrong with it, and this is found:\n%s", got)
	}
}

// What a filter may well ask is no mistake.
func TestSoundFilters(t *testing.T) {
	const all = "    - exact: {type: org.example.air.stamped.v1}\n"
	for _, filter := range []string{
		"    - cesql: NOT (EXISTS tenantid) OR tenantid != 'linden-school'\n",
		"    - cesql: EXISTS tenantid AND tenantid LIKE 'linden%'\n",
		"    - cesql: EXISTS tenantid AND LENGTH(tenantid) > 3 AND type = 'org.example.air.stamped.v1'\n",
		"    - cesql: EXISTS partitionkey AND EXISTS subject\n",
		"    - cesql: EXISTS partitionkey AND INT(partitionkey) > 5 AND INT(partitionkey) < 7\n",
		"    - prefix: {tenantid: linden-}\n    - suffix: {tenantid: -school}\n",
		"    - any: [{prefix: {tenantid: linden-}}, {suffix: {tenantid: -school}}]\n",
		"    - prefix: {tenantid: linden-}\n    - suffix: {tenantid: linden-}\n",
		"    - not: {exact: {tenantid: linden-school}}\n",
		"    - exact: {source: /telemesh/tenant-enrich}\n",
		"    - not: {exact: {source: /telemesh/telemetry-ingest}}\n",
	} {
		files, dir := sound(t), t.TempDir()
		files["triggers/rooms-sink.yaml"] = strings.Replace(files["triggers/rooms-sink.yaml"], all, all+filter, 1)
		write(t, dir, files)
		if got := found(t, dir, nil); got != "" {
			t.Errorf("%s: nothing is wrong with it, and this is found:\n%s", filter, got)
		}
	}
}

// Each of testdata/broken is a mistake: the sections say what it changes of the sound mesh
// (change FILE, add FILE, remove FILE), and want is all that is found then. Where there is the section released, the sound mesh is the last release.
func TestBrokenMeshes(t *testing.T) {
	cases, err := filepath.Glob("testdata/broken/*.txtar")
	if err != nil || len(cases) < 40 {
		t.Fatalf("%d cases, %v; want 40", len(cases), err)
	}
	rules := map[string]bool{}
	for _, file := range cases {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			files := sound(t)
			dir := t.TempDir()
			want, released := -1, (*check.Released)(nil)
			for i, f := range archive.Files {
				what, file, _ := strings.Cut(f.Name, " ")
				switch what {
				case "change":
					files[file] = changed(t, files[file], string(f.Data))
				case "add":
					if files[file] != "" {
						t.Fatalf("%s is there", file)
					}
					files[file] = string(f.Data)
				case "remove":
					if files[file] == "" {
						t.Fatalf("%s is not there", file)
					}
					delete(files, file)
				case "released":
					released = release(t)
				case "want":
					want = i
				default:
					t.Fatalf("section %q", f.Name)
				}
			}
			write(t, dir, files)
			got := found(t, dir, released)
			for _, m := range strings.Split(got, "\n") {
				if at := strings.LastIndex(m, " ("); at >= 0 && strings.HasSuffix(m, ")") {
					rules[m[at+2:len(m)-1]] = true
				}
			}
			if *update && want >= 0 {
				archive.Files[want].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want < 0 {
				t.Fatal("no section want")
			}
			if diff := cmp.Diff(string(archive.Files[want].Data), got); diff != "" || got == "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	for _, name := range check.Rules() {
		if !rules[name] && name != "standard-broken" { // whose schemas are not in this repository
			t.Errorf("no case breaks the rule %s", name)
		}
	}
}

// release commits the sound mesh, and gives what it promises by its tag.
func release(t *testing.T) *check.Released {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, sound(t))
	git(t, dir, "init", "-q")
	git(t, dir, "add", ".")
	git(t, dir, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "release")
	git(t, dir, "-c", "user.name=t", "-c", "user.email=t@example.org", "tag", "v1")
	released, err := check.LastReleased(t.Context(), filepath.Join(dir, "products"), "")
	if err != nil || released.Revision != "v1" {
		t.Fatalf("LastReleased() = %+v, %v", released, err)
	}
	return released
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("git %s: %v\n%s", args[0], err, out)
	}
}

// Where nothing was released there is nothing to compare with, and that is said.
func TestNothingReleased(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, sound(t))
	products := filepath.Join(dir, "products")
	if _, err := check.LastReleased(t.Context(), products, ""); err == nil || !strings.Contains(err.Error(), "no git repository") {
		t.Errorf("outside of a repository: %v", err)
	}
	git(t, dir, "init", "-q")
	if _, err := check.LastReleased(t.Context(), products, ""); err == nil || !strings.Contains(err.Error(), "no tag") {
		t.Errorf("without a tag: %v", err)
	}
	if _, err := check.LastReleased(t.Context(), products, "v9"); err == nil || !strings.Contains(err.Error(), "v9") {
		t.Errorf("of a revision that is not there: %v", err)
	}
}

// Others find by the same model, and their findings stand among the others by place.
func TestRunTakesOthers(t *testing.T) {
	other := func(m check.Mesh) []check.Finding {
		return []check.Finding{
			{Where: m.Document("air/readings.odcs.yaml", "schema[0].properties[2].name"), Rule: "mine"},
			{Where: check.Where{File: "a"}, Rule: "mine"},
		}
	}
	dir := t.TempDir()
	write(t, dir, sound(t))
	products := filepath.Join(dir, "products")
	mesh := check.Read(check.Source{Manifests: manifest.Dir(dir), Functions: functions, Products: manifest.Folder{Name: products, FS: os.DirFS(products)}})
	got := check.Run(mesh, other)
	if want := filepath.Join(products, "air/readings.odcs.yaml") + ":40"; len(got) != 2 || got[0].Where.String() != want || got[1].Where.String() != "a" {
		t.Errorf("found %v, want something at %s and then at a", got, want)
	}
}
