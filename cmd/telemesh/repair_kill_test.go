package main

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A repair that is killed at any moment ends, when the mesh runs again, with the
// tables of one that was left alone.
func TestKilledRepairEndsTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("kills 20 processes")
	}
	args := sample(t, "--timeless", "0", "--duration", "12h")
	before := filepath.Join(t.TempDir(), "before")
	telemesh(t, append([]string{"replay", "--data", before}, args...)...)
	// Every placement was another tenant's, and began an hour later.
	sheet := read(t, args[1])
	corrected := regexp.MustCompile(`linden-school|harbour-offices`).ReplaceAllStringFunc(sheet, func(tenant string) string {
		if tenant == "linden-school" {
			return "other-school"
		}
		return "linden-school"
	})
	if corrected == sheet {
		t.Fatal("the sample has no such tenants")
	}
	file := write(t, filepath.Join(t.TempDir(), "placements.csv"), corrected)

	alone := filepath.Join(t.TempDir(), "alone")
	if err := os.CopyFS(alone, os.DirFS(before)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	out := telemesh(t, "placements", "apply", "--data", alone, file)
	took := time.Since(began)
	if !strings.Contains(out, "to other-school") {
		t.Fatalf("the correction moves nothing:\n%s", out)
	}
	tables := append([]string{
		`SELECT reading_id, tenant_id, observed_at, value FROM iot_analytics.readings ORDER BY reading_id`,
	}, storedTables...)
	var want [][]string
	for _, sql := range tables {
		want = append(want, rows(t, alone, sql))
	}

	random := rand.New(rand.NewPCG(5, 6))
	const moments, folders = 20, 5
	killed := 0
	for range folders {
		data := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(data, os.DirFS(before)); err != nil {
			t.Fatal(err)
		}
		for range moments / folders {
			// Kills fall into start, event, repair and join alike.
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.Int64N(int64(took))))
			if out, err := command(ctx, t, "placements", "apply", "--data", data, file).CombinedOutput(); err != nil {
				if ctx.Err() == nil {
					t.Fatalf("a repair after a kill: %v\n%s", err, out)
				}
				killed++
			}
			cancel()
		}
		telemesh(t, "placements", "apply", "--data", data, file)
		for i, sql := range tables {
			if diff := cmp.Diff(want[i], rows(t, data, sql)); diff != "" {
				t.Fatalf("after kills, %s (-left alone +killed):\n%s", sql, diff)
			}
		}
		telemesh(t, "prove", "--data", data, "--tables-only")
	}
	if killed < moments/2 {
		t.Errorf("%d of %d repairs were killed before they ended: the test shows little", killed, moments)
	}
}
