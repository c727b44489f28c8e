package tenancy_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
)

func until(t mesh.Instant) *mesh.Instant { return &t }

func index(t testing.TB, assignments []mesh.Assignment, version int64) *tenancy.Index {
	t.Helper()
	x, err := tenancy.NewIndex(assignments, version)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// history makes random steps of rows: versions out of order and equal,
// deletions, overlaps, rows that say nothing new, several rows of a step.
func history(random *rand.Rand, devices, rows int, span mesh.Instant) (all []tenancy.Recorded) {
	at := mesh.Instant(1000)
	for range rows {
		at += mesh.Instant(random.IntN(2))
		p := mesh.Placement{
			DeviceID:  fmt.Sprint("d", random.IntN(devices)),
			TenantID:  string(rune('a' + random.IntN(3))),
			Room:      []string{"", "R1", "R2"}[random.IntN(3)],
			ValidFrom: mesh.Instant(random.Int64N(int64(span))),
			Version:   int64(1 + random.IntN(4)),
			Deleted:   random.IntN(5) == 0,
		}
		if random.IntN(4) > 0 {
			p.ValidTo = until(p.ValidFrom + 1 + mesh.Instant(random.Int64N(int64(span))))
		}
		all = append(all, tenancy.Recorded{Placement: p, RecordedAt: at})
	}
	return all
}

// stamp is what is known of a device at an instant.
type stamp struct {
	tenant  string
	version int64
}

// model is the definition, instant by instant: after each step the rows that
// count say who holds the device, and where that is another one than before,
// the version is the number of rows recorded by then.
func model(history []tenancy.Recorded, device string, t mesh.Instant) (s stamp) {
	counting := map[mesh.Instant]*mesh.Placement{}
	for i := range history {
		r := &history[i]
		if r.DeviceID == device {
			if old := counting[r.ValidFrom]; old == nil || greater(&r.Placement, old) {
				counting[r.ValidFrom] = &r.Placement
			}
		}
		if i+1 < len(history) && history[i+1].RecordedAt == r.RecordedAt {
			continue
		}
		var covering []string
		for _, p := range counting {
			if !p.Deleted && p.ValidFrom <= t && (p.ValidTo == nil || t < *p.ValidTo) {
				covering = append(covering, p.TenantID)
			}
		}
		tenant := ""
		if len(covering) == 1 {
			tenant = covering[0]
		}
		if tenant != s.tenant {
			s = stamp{tenant, int64(i + 1)}
		}
	}
	return s
}

// greater compares rows of a key by text that sorts as the warehouse ranks
// them: version, end (NULL first), tenant, room, deleted.
func greater(a, b *mesh.Placement) bool {
	key := func(p *mesh.Placement) string {
		end := int64(0)
		if p.ValidTo != nil {
			end = int64(*p.ValidTo) + 1
		}
		return fmt.Sprintf("%09d %09d %s %-3s %t", p.Version, end, p.TenantID, p.Room, p.Deleted)
	}
	return key(a) > key(b)
}

func TestAssignmentsAreTheReplay(t *testing.T) {
	const span = 12
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 1))
		all := history(random, 2, 1+random.IntN(16), span)
		shuffled := slices.Clone(all)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		assignments := tenancy.Assignments(shuffled)
		x := index(t, assignments, int64(len(all)))
		for _, device := range []string{"d0", "d1", "d2"} {
			for at := mesh.Instant(-1); at < 2*span+2; at++ {
				want := model(all, device, at)
				if tenant, version := x.At(device, at); (stamp{tenant, version}) != want {
					t.Fatalf("seed %d: At(%s, %d) = %s %d, want %s %d; history:\n%s",
						seed, device, at, tenant, version, want.tenant, want.version, text(all))
				}
			}
		}
		for i := 1; i < len(assignments); i++ {
			a, b := &assignments[i-1], &assignments[i]
			if a.DeviceID == b.DeviceID && *a.ValidTo == b.ValidFrom && a.TenantID == b.TenantID && a.Version == b.Version {
				t.Fatalf("seed %d: two assignments that are one: %+v, %+v", seed, a, b)
			}
		}
	}
}

// Who knows more gives a version that is equal or higher, and an equal version
// is an equal tenant: of two stamps of a reading the higher one is right.
func TestKnowledgeIsMonotone(t *testing.T) {
	const span = 12
	changes := 0
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 2))
		all := history(random, 1, 12, span)
		last := map[mesh.Instant]stamp{}
		for n := 1; n <= len(all); n++ {
			if n < len(all) && all[n].RecordedAt == all[n-1].RecordedAt {
				continue // in the middle of a step: nobody sees that
			}
			x := index(t, tenancy.Assignments(all[:n]), int64(n))
			for at := mesh.Instant(-1); at < 2*span+2; at++ {
				tenant, version := x.At("d0", at)
				before := last[at]
				if version < before.version || version == before.version && tenant != before.tenant || version > int64(n) {
					t.Fatalf("seed %d: after %d rows %s %d at %d, before %s %d; history:\n%s",
						seed, n, tenant, version, at, before.tenant, before.version, text(all[:n]))
				}
				if version > before.version {
					changes++
				}
				last[at] = stamp{tenant, version}
			}
		}
	}
	if changes < 1000 {
		t.Errorf("%d changes in all histories: they show nothing", changes)
	}
}

func text(history []tenancy.Recorded) string {
	var b strings.Builder
	for i, r := range history {
		end := "open"
		if r.ValidTo != nil {
			end = fmt.Sprint(int64(*r.ValidTo))
		}
		fmt.Fprintf(&b, "%d. at %d: %s of %s [%d, %s) room %q version %d deleted %t\n",
			i+1, int64(r.RecordedAt), r.DeviceID, r.TenantID, int64(r.ValidFrom), end, r.Room, r.Version, r.Deleted)
	}
	return b.String()
}

// A re-sent row, another room and a deletion of what never counted change
// nobody's tenancy.
func TestWhatChangesNothingKeepsTheVersion(t *testing.T) {
	row := func(at mesh.Instant, room string, version int64, deleted bool) tenancy.Recorded {
		return tenancy.Recorded{RecordedAt: at, Placement: mesh.Placement{
			DeviceID: "d", TenantID: "a", Room: room, ValidFrom: 10, ValidTo: until(20), Version: version, Deleted: deleted}}
	}
	got := tenancy.Assignments([]tenancy.Recorded{row(1, "R", 2, false), row(2, "S", 3, false), row(3, "S", 1, true)})
	want := []mesh.Assignment{{DeviceID: "d", TenantID: "a", ValidFrom: 10, ValidTo: until(20), Version: 1}}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("assignments (-want +got):\n%s", diff)
	}
	got = tenancy.Assignments([]tenancy.Recorded{row(1, "R", 2, false), row(2, "R", 3, true)})
	want = []mesh.Assignment{{DeviceID: "d", ValidFrom: 10, ValidTo: until(20), Version: 2}}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("assignments after a deletion (-want +got):\n%s", diff)
	}
}

// An index that is amended step by step says what one does that is built at
// once, whatever was folded and when; and the indexes before it stay as they
// were.
func TestWithEqualsAnew(t *testing.T) {
	const span = 20
	folded, layered := 0, 0
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 3))
		devices := 1 + random.IntN(60)
		all := history(random, devices, 150, span)
		x := index(t, nil, 0)
		type was struct {
			x       *tenancy.Index
			version int
		}
		var past []was
		for n := 0; n < len(all); {
			known := n
			for n = min(n+1+random.IntN(12), len(all)); n < len(all) && all[n].RecordedAt == all[n-1].RecordedAt; {
				n++
			}
			anew := index(t, tenancy.Assignments(all[:n]), int64(n))
			changed := slices.Collect(anew.Since(int64(known)))
			random.Shuffle(len(changed), func(i, j int) { changed[i], changed[j] = changed[j], changed[i] })
			next, err := x.With(changed, int64(n))
			if err != nil {
				t.Fatal(err)
			}
			if x = next; x.Version() != int64(n) {
				t.Fatalf("version %d, want %d", x.Version(), n)
			}
			if next.Layered() {
				layered++
			} else {
				folded++
			}
			past = append(past, was{x, n})
		}
		for _, p := range past {
			anew := index(t, tenancy.Assignments(all[:p.version]), int64(p.version))
			if diff := gocmp.Diff(slices.Collect(anew.All()), slices.Collect(p.x.All())); diff != "" {
				t.Fatalf("seed %d, version %d (-anew +amended):\n%s", seed, p.version, diff)
			}
			for d := range devices {
				device := fmt.Sprint("d", d)
				if diff := gocmp.Diff(anew.Device(device), p.x.Device(device)); diff != "" {
					t.Fatalf("seed %d, version %d, device %s (-anew +amended):\n%s", seed, p.version, device, diff)
				}
				for at := mesh.Instant(0); at < 2*span; at += 3 {
					t1, v1 := anew.At(device, at)
					if t2, v2 := p.x.At(device, at); t1 != t2 || v1 != v2 {
						t.Fatalf("seed %d, version %d: At(%s, %d) = %s %d, want %s %d", seed, p.version, device, at, t2, v2, t1, v1)
					}
				}
			}
		}
	}
	if folded == 0 || layered == 0 {
		t.Errorf("%d indexes in one piece and %d in two: one case is not seen", folded, layered)
	}
}

// Many intervals of a device, more than the few that are looked at one by one.
func TestAtEqualsScan(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var held []mesh.Assignment
		at := mesh.Instant(0)
		for i := range random.IntN(40) {
			from := at + mesh.Instant(random.IntN(3))
			at = from + 1 + mesh.Instant(random.IntN(4))
			held = append(held, mesh.Assignment{DeviceID: "d", TenantID: fmt.Sprint(i % 5), ValidFrom: from, ValidTo: until(at), Version: int64(i + 1)})
		}
		if n := len(held); n > 0 && random.IntN(2) == 0 {
			held[n-1].ValidTo = nil
		}
		want := slices.Clone(held)
		random.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		x := index(t, held, 99)
		if diff := gocmp.Diff(want, slices.Collect(x.All())); diff != "" {
			t.Fatalf("All() (-want +got):\n%s", diff)
		}
		for t0 := mesh.Instant(-2); t0 < at+3; t0++ {
			var s stamp
			for _, a := range want {
				if a.ValidFrom <= t0 && (a.ValidTo == nil || t0 < *a.ValidTo) {
					s = stamp{a.TenantID, a.Version}
				}
			}
			if tenant, version := x.At("d", t0); (stamp{tenant, version}) != s {
				t.Fatalf("At(d, %d) of %+v = %s %d, want %v", t0, want, tenant, version, s)
			}
		}
	}
}

// No name is too short, too long or too much like another.
func TestNames(t *testing.T) {
	names := []string{"", "a", "a\x00", "aa", "é", "a/b", strings.Repeat("x", 300), strings.Repeat("x", 65535)}
	var held []mesh.Assignment
	for i, name := range names {
		held = append(held, mesh.Assignment{DeviceID: name, TenantID: fmt.Sprint(i), Version: 1})
	}
	x := index(t, held, 1)
	for i, name := range names {
		if tenant, _ := x.At(name, 5); tenant != fmt.Sprint(i) {
			t.Errorf("At(%.10q…) = %q, want %d", name, tenant, i)
		}
	}
	for _, name := range []string{"b", "aaa", "\x00", strings.Repeat("x", 299)} {
		if tenant, version := x.At(name, 5); tenant != "" || version != 0 || x.Device(name) != nil {
			t.Errorf("At(%.10q…) = %q, %d, want nobody", name, tenant, version)
		}
	}
	if !slices.IsSortedFunc(slices.Collect(x.All()), func(a, b mesh.Assignment) int { return cmp.Compare(a.DeviceID, b.DeviceID) }) {
		t.Error("All() is not in the order of names")
	}
}

func TestNewIndexRefuses(t *testing.T) {
	for name, held := range map[string][]mesh.Assignment{
		"overlap": {{DeviceID: "d", TenantID: "a", ValidFrom: 10, ValidTo: until(21), Version: 1}, {DeviceID: "d", TenantID: "b", ValidFrom: 20, Version: 1}},
		"empty":   {{DeviceID: "d", TenantID: "a", ValidFrom: 10, ValidTo: until(10), Version: 1}},
		"version": {{DeviceID: "d", TenantID: "a", ValidFrom: 10}},
		"long":    {{DeviceID: strings.Repeat("d", 1<<16), TenantID: "a", Version: 1}},
	} {
		if _, err := tenancy.NewIndex(held, 1); err == nil || !strings.Contains(err.Error(), `device "d`) {
			t.Errorf("%s: NewIndex() = %v, want an error that names the device", name, err)
		}
	}
}
