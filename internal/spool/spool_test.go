package spool_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/telemesh/telemesh/internal/spool"
)

// asAppender makes the test binary a process that appends to the spool in this
// folder until it is killed.
const asAppender = "SPOOL_TEST_APPEND_TO"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asAppender); dir != "" {
		appendForEver(dir)
	}
	os.Exit(m.Run())
}

const room = 1 << 16

func open(t testing.TB, dir string, keep spool.Keep, most int64) *spool.Spool {
	t.Helper()
	s, damaged, err := spool.Open(dir, spool.Config{MaxBytes: most, Keep: keep})
	if err != nil || damaged != "" {
		t.Fatalf("Open(%s) = %q, %v, want a whole spool", dir, damaged, err)
	}
	return s
}

func closed(t testing.TB, s *spool.Spool) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, s *spool.Spool, records ...string) {
	t.Helper()
	var all [][]byte
	for _, r := range records {
		all = append(all, []byte(r))
	}
	if n, err := s.Append(all); err != nil || n != len(all) {
		t.Fatalf("Append of %d = %d, %v", len(all), n, err)
	}
}

func texts(t testing.TB, s *spool.Spool) []string {
	t.Helper()
	records, err := s.Peek(1<<30, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, r := range records {
		out = append(out, string(r.Data))
	}
	return out
}

// A spool is a list with a bound, whatever is done to it and however often it is
// opened anew.
func TestSpoolIsABoundedList(t *testing.T) {
	for _, keep := range []spool.Keep{spool.KeepNewest, spool.KeepOldest} {
		t.Run(string(keep), func(t *testing.T) {
			rapid.Check(t, func(r *rapid.T) {
				dir, err := os.MkdirTemp("", "spool")
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(dir)
				s := open(t, dir, keep, room)
				defer func() { s.Close() }()
				var model []string
				var dropped, refused int64
				size := func() (n int64) {
					for _, text := range model {
						n += int64(len(text)) + spool.Overhead
					}
					return n
				}
				n := 0
				r.Repeat(map[string]func(*rapid.T){
					"append": func(r *rapid.T) {
						var records [][]byte
						want := 0
						for _, length := range rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 9_000, 30_000, room}), 1, 4).Draw(r, "lengths") {
							n++
							text := strings.Repeat("x", length) + strconv.Itoa(n)
							records = append(records, []byte(text))
							fits := int64(len(text)) + spool.Overhead
							if fits > room || keep == spool.KeepOldest && size()+fits > room {
								refused++
								continue
							}
							want++
							model = append(model, text)
						}
						for size() > room {
							model = model[1:]
							dropped++
						}
						note := strconv.Itoa(n)
						if got, err := s.Append(records, spool.Note{Name: "n", Value: note}); err != nil || got != want {
							r.Fatalf("Append = %d, %v, want %d", got, err, want)
						}
						if got, err := s.Note("n"); err != nil || got != note {
							r.Fatalf("Note = %q, %v, want %q", got, err, note)
						}
					},
					"send": func(r *rapid.T) {
						most := rapid.IntRange(1, 5).Draw(r, "most")
						records, err := s.Peek(most, 20_000)
						if err != nil || len(records) > most || len(records) == 0 && len(model) > 0 {
							r.Fatalf("Peek(%d) = %d records, %v, of %d", most, len(records), err, len(model))
						}
						bytes := 0
						for i, record := range records {
							if bytes += len(record.Data); string(record.Data) != model[i] || i > 0 && bytes > 20_000 {
								r.Fatalf("record %d of %d has %d bytes of then %d, want the %d of the model", i, len(records), len(record.Data), bytes, len(model[i]))
							}
						}
						if err := s.Delete(records); err != nil {
							r.Fatal(err)
						}
						if err := s.Delete(records); err != nil { // as after an answer that was lost
							r.Fatal(err)
						}
						model = model[len(records):]
					},
					"sync": func(r *rapid.T) {
						if err := s.Sync(); err != nil {
							r.Fatal(err)
						}
					},
					"open anew": func(r *rapid.T) {
						closed(t, s)
						s = open(t, dir, keep, room)
						dropped, refused = 0, 0
					},
					"": func(r *rapid.T) {
						want := spool.Stats{Records: int64(len(model)), Bytes: size(), Dropped: dropped, Refused: refused}
						if diff := cmp.Diff(want, s.Stats()); diff != "" {
							r.Fatalf("stats (-want +got):\n%s", diff)
						}
						if got := texts(t, s); !slices.Equal(got, model) {
							r.Fatalf("holds %d records, want %d, or others", len(got), len(model))
						}
					},
				})
			})
		})
	}
}

// A record that is on its way when it is dropped leaves no other in its place: what
// is deleted then is not what came after.
func TestDeleteOfADroppedRecordDeletesNoOther(t *testing.T) {
	s := open(t, t.TempDir(), spool.KeepNewest, room)
	defer closed(t, s)
	add(t, s, "old")
	sent, err := s.Peek(10, 10)
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", room-spool.Overhead)
	add(t, s, big)
	if err := s.Delete(sent); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, s); len(got) != 1 || got[0] != big {
		t.Errorf("after the delete it holds %d records, want the one that came later", len(got))
	}
}

// The file is bounded, not only what is counted of it.
func TestSpoolKeepsToItsBoundOnDisk(t *testing.T) {
	const most = 1 << 19
	dir := t.TempDir()
	s := open(t, dir, spool.KeepNewest, most)
	defer closed(t, s)
	record := bytes.Repeat([]byte("x"), 900)
	var largest int64
	for range 90 { // 16 times what it may hold
		if _, err := s.Append(slices.Repeat([][]byte{record}, 100)); err != nil {
			t.Fatal(err)
		}
		var sum int64
		for _, name := range []string{"spool.db", "spool.db-wal"} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			sum += info.Size()
		}
		largest = max(largest, sum)
	}
	if s.Stats().Dropped < 8_000 {
		t.Fatalf("%d records were dropped: the test shows nothing", s.Stats().Dropped)
	}
	if largest > most*5/4+2<<20 { // of it the journal has 1 MiB, and what a transaction adds
		t.Errorf("the spool of %d bytes takes %d on disk", most, largest)
	}
}

// appendForEver appends 1, 2, 3, … behind what is there, and prints each number
// when it is taken.
func appendForEver(dir string) {
	s, damaged, err := spool.Open(dir, spool.Config{MaxBytes: 1 << 24, Keep: spool.KeepOldest})
	if err != nil || damaged != "" {
		fmt.Println("open:", damaged, err)
		os.Exit(1)
	}
	for n := s.Stats().Records + 1; ; n++ {
		if taken, err := s.Append([][]byte{strconv.AppendInt(nil, n, 10)}, spool.Note{Name: "last", Value: strconv.FormatInt(n, 10)}); err != nil || taken != 1 {
			fmt.Println("append:", taken, err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

// SIGKILL at any moment loses nothing that was taken, and a note goes with its
// records.
func TestKilledSpoolKeepsWhatItTook(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	said := 0
	for range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), asAppender+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for until := said + 1 + random.IntN(400); lines.Scan(); {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(lines.Text())
			}
			if said = n; n == until {
				cmd.Process.Kill() // what it prints until it is dead is read, too
			}
		}
		cmd.Wait()

		s := open(t, dir, spool.KeepOldest, 1<<24)
		got := texts(t, s)
		for i, text := range got {
			if text != strconv.Itoa(i+1) {
				t.Fatalf("record %d is %s", i+1, text)
			}
		}
		if len(got) < said {
			t.Fatalf("it took %d records, of which %d are there", said, len(got))
		}
		if last, err := s.Note("last"); err != nil || last != strconv.Itoa(len(got)) {
			t.Fatalf("the note says %q, %v, of %d records", last, err, len(got))
		}
		closed(t, s)
	}
}

// A loss of power leaves a journal that ends anywhere, or of which a page was not
// written: what is left are the first records, whole.
func TestCutJournalLeavesTheFirstRecords(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, spool.KeepOldest, 1<<24)
	const n = 150
	for i := range n {
		add(t, s, fmt.Sprintf("%d %s", i, strings.Repeat("x", i)))
	}
	file, err := os.ReadFile(filepath.Join(dir, "spool.db"))
	if err != nil {
		t.Fatal(err)
	}
	journal, err := os.ReadFile(filepath.Join(dir, "spool.db-wal"))
	if err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	if len(journal) < 100*1024 {
		t.Fatalf("the journal has %d bytes: the test shows little", len(journal))
	}
	random := rand.New(rand.NewPCG(3, 4))
	fewest, most := n, 0
	for i := range 60 {
		at := random.IntN(len(journal))
		broken := bytes.Clone(journal[:at])
		if i%2 == 1 { // what comes behind was written, this page was not
			broken = bytes.Clone(journal)
			clear(broken[at:min(at+4096, len(broken))])
		}
		after := t.TempDir()
		for name, data := range map[string][]byte{"spool.db": file, "spool.db-wal": broken} {
			if err := os.WriteFile(filepath.Join(after, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := open(t, after, spool.KeepOldest, 1<<24)
		got := texts(t, s)
		for i, text := range got {
			if want := fmt.Sprintf("%d %s", i, strings.Repeat("x", i)); text != want {
				t.Fatalf("journal broken at %d: record %d is %q, want %q", at, i, text, want)
			}
		}
		fewest, most = min(fewest, len(got)), max(most, len(got))
		add(t, s, "and it goes on")
		closed(t, s)
	}
	if fewest > n/4 || most < n*3/4 {
		t.Errorf("between %d and %d of %d records were left: the test shows little", fewest, most, n)
	}
}

func TestDamagedSpoolIsPutAside(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, spool.KeepOldest, 1<<24)
	for i := range 100 {
		add(t, s, strings.Repeat("x", 100+i))
	}
	closed(t, s)
	file := filepath.Join(dir, "spool.db")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string][]byte{
		"no spool":      []byte(strings.Repeat("no spool", 1000)),
		"a page lost":   slices.Concat(whole[:1024], make([]byte, 3072), whole[4096:]),
		"the end lost":  whole[:len(whole)/2/1024*1024],
		"a page turned": slices.Concat(whole[:2048], bytes.Repeat([]byte{0xff}, 1024), whole[3072:]),
	} {
		if err := os.WriteFile(file, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		s, damaged, err := spool.Open(dir, spool.Config{MaxBytes: 1 << 24, Keep: spool.KeepOldest})
		if err != nil || damaged == "" {
			t.Fatalf("%s: Open = %q, %v, want it put aside", name, damaged, err)
		}
		add(t, s, "new")
		closed(t, s)
		if kept, err := os.ReadFile(damaged); err != nil || !bytes.Equal(kept, broken) {
			t.Errorf("%s: %s is not what was there: %v", name, damaged, err)
		}
	}
}

// A card that fails while the spool is open takes what is on it, and nothing of later.
func TestSpoolDamagedWhileOpen(t *testing.T) {
	first := []byte("first")
	for name, does := range map[string]func(*spool.Spool) error{
		"Append": func(s *spool.Spool) error { _, err := s.Append([][]byte{[]byte("more")}); return err },
		"Peek":   func(s *spool.Spool) error { _, err := s.Peek(10, 1<<20); return err },
		"Delete": func(s *spool.Spool) error { return s.Delete([]spool.Record{{Seq: 1, Data: first}}) },
	} {
		dir := t.TempDir()
		s := open(t, dir, spool.KeepOldest, 1<<24)
		add(t, s, string(first))
		for range 50 {
			add(t, s, slices.Repeat([]string{strings.Repeat("x", 900)}, 100)...) // more than SQLite has in memory
		}
		closed(t, s)
		s = open(t, dir, spool.KeepNewest, 1<<20) // what is added has to delete
		file := filepath.Join(dir, "spool.db")
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		broken := bytes.Repeat([]byte{0xff}, int(info.Size()))
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(broken, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
		var damaged spool.DamagedError
		if err := does(s); !errors.As(err, &damaged) {
			t.Errorf("%s = %v, want that it is damaged", name, err)
			continue
		}
		if kept, err := os.ReadFile(damaged.File); err != nil || int64(len(kept)) < info.Size() {
			t.Errorf("%s: %d bytes are put aside, %v; want the %d of the file", name, len(kept), err, info.Size())
		}
		add(t, s, "new")
		if got := texts(t, s); !slices.Equal(got, []string{"new"}) {
			t.Errorf("%s: then it has %q, want what is new", name, got)
		}
		closed(t, s)
		if got := texts(t, open(t, dir, spool.KeepOldest, 1<<24)); !slices.Equal(got, []string{"new"}) {
			t.Errorf("%s: opened again it has %q, want what is new", name, got)
		}
	}
}

func TestOneProcessHasASpool(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, spool.KeepOldest, room)
	if _, _, err := spool.Open(dir, spool.Config{MaxBytes: room, Keep: spool.KeepOldest}); !errors.Is(err, spool.ErrInUse) {
		t.Errorf("a second Open = %v, want ErrInUse", err)
	}
	closed(t, s)
	closed(t, open(t, dir, spool.KeepOldest, room))
}

func TestOpenRefuses(t *testing.T) {
	for want, cfg := range map[string]spool.Config{
		"are too few":               {MaxBytes: room - 1, Keep: spool.KeepNewest},
		`keep "all" is neither`:     {MaxBytes: room, Keep: "all"},
		"keep \"\" is neither newe": {MaxBytes: room},
	} {
		if _, _, err := spool.Open(t.TempDir(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%+v) = %v, want an error that says %q", cfg, err, want)
		}
	}
}

// BenchmarkAppend is what a notification costs: one record of a usual size in a
// transaction of its own. written/record is what this process wrote, by
// /proc/self/io.
func BenchmarkAppend(b *testing.B) {
	s := open(b, b.TempDir(), spool.KeepNewest, 1<<26)
	defer closed(b, s)
	record := bytes.Repeat([]byte("x"), 110)
	before := written(b)
	for b.Loop() {
		if n, err := s.Append([][]byte{record}); err != nil || n != 1 {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(written(b)-before)/float64(b.N), "written-B/op")
}

func written(b *testing.B) int64 {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Skip(err)
	}
	_, rest, _ := strings.Cut(string(text), "wchar: ")
	number, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}
