package tenancy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
)

func until(t mesh.Instant) *mesh.Instant { return &t }

func TestAtIsHalfOpen(t *testing.T) {
	index, err := tenancy.NewIndex([]mesh.Placement{
		{DeviceID: "d", TenantID: "late", ValidFrom: 30},
		{DeviceID: "d", TenantID: "early", ValidFrom: 10, ValidTo: until(20)},
		{DeviceID: "d", TenantID: "next", ValidFrom: 20, ValidTo: until(25)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[mesh.Instant]string{
		9: "", 10: "early", 19: "early", 20: "next", 24: "next", 25: "", 29: "", 30: "late", 1 << 60: "late",
	} {
		got := ""
		if p := index.At("d", at); p != nil {
			got = p.TenantID
		}
		if got != want {
			t.Errorf("At(d, %d) = %q, want %q", at, got, want)
		}
	}
	if p := index.At("other", 10); p != nil {
		t.Errorf("At(other, 10) = %v, want nil", p)
	}
}

func TestOverlapNamesBothAndLeavesTheDeviceOut(t *testing.T) {
	for _, placements := range [][]mesh.Placement{
		{{DeviceID: "d", TenantID: "a", ValidFrom: 10, ValidTo: until(21)}, {DeviceID: "d", TenantID: "b", ValidFrom: 20}},
		{{DeviceID: "d", TenantID: "a", ValidFrom: 10}, {DeviceID: "d", TenantID: "b", ValidFrom: 20, ValidTo: until(21)}},
	} {
		index, err := tenancy.NewIndex(append(placements, mesh.Placement{DeviceID: "e", TenantID: "a"}))
		if err == nil || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), `"b"`) {
			t.Errorf("NewIndex(%v) = %v, want an error that names a and b", placements, err)
		}
		if p := index.At("d", 15); p != nil {
			t.Errorf("At(d) = %v, want nobody: it cannot be told who", p)
		}
		if index.At("e", 15) == nil {
			t.Error("another device is left out too")
		}
	}
}

// Looking an instant up gives what a scan of all intervals gives.
func TestAtEqualsScan(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var placements []mesh.Placement
		at := mesh.Instant(0)
		for i := range random.IntN(9) {
			from := at + mesh.Instant(random.IntN(3))
			at = from + 1 + mesh.Instant(random.IntN(4))
			placements = append(placements, mesh.Placement{DeviceID: "d", TenantID: fmt.Sprint(i), ValidFrom: from, ValidTo: until(at)})
		}
		if n := len(placements); n > 0 && random.IntN(2) == 0 {
			placements[n-1].ValidTo = nil
		}
		random.Shuffle(len(placements), func(i, j int) { placements[i], placements[j] = placements[j], placements[i] })
		index, err := tenancy.NewIndex(placements)
		if err != nil {
			t.Fatal(err)
		}
		for at := mesh.Instant(-2); at < 60; at++ {
			want := "none"
			for _, p := range placements {
				if p.ValidFrom <= at && (p.ValidTo == nil || at < *p.ValidTo) {
					want = p.TenantID
				}
			}
			got := "none"
			if p := index.At("d", at); p != nil {
				got = p.TenantID
			}
			if got != want {
				t.Fatalf("At(d, %d) over %v = %s, want %s", at, placements, got, want)
			}
		}
	}
}
