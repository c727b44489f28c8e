package elapsed_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/elapsed"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Over days, months, leap years and years.
func TestBucketIsTheTimeBetween(t *testing.T) {
	db := duckdbtest.Open(t)
	random := rand.New(rand.NewPCG(1, 2))
	begin := []time.Time{
		time.Date(2026, 1, 31, 23, 59, 59, 999e6, time.UTC), time.Date(2024, 2, 28, 23, 59, 59, 0, time.UTC), time.Date(2024, 12, 31, 23, 59, 58, 1e6, time.UTC),
		time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC), time.Date(2000, 2, 29, 0, 0, 0, 0, time.UTC),
	}
	for range 200 {
		from := begin[random.IntN(len(begin))]
		took := time.Duration(random.Int64N(int64(time.Millisecond) << random.IntN(32))).Truncate(time.Millisecond)
		rows, err := db.Query(t.Context(), "SELECT "+elapsed.Bucket(literal.Time(mesh.At(from)), literal.Time(mesh.At(from.Add(took)))))
		if err != nil {
			t.Fatal(err)
		}
		for row, err := range rows.All {
			if err != nil {
				t.Fatal(err)
			}
			got := elapsed.Counts{row[0].(int64): 1}.Percentile(50)
			if off := (got - took).Abs(); off > took/40+2*time.Millisecond {
				t.Errorf("from %s %s are %s", from, took, got)
			}
		}
	}
	rows, err := db.Query(t.Context(), "SELECT "+elapsed.Bucket(literal.Time(mesh.At(begin[1])), literal.Time(mesh.At(begin[0].AddDate(-10, 0, 0)))))
	if err != nil {
		t.Fatal(err)
	}
	for row := range rows.All {
		if row[0] != int64(0) {
			t.Errorf("what ended before it began took %v", row)
		}
	}
}

func TestPercentile(t *testing.T) {
	if got := (elapsed.Counts{}).Percentile(50); got != 0 {
		t.Errorf("of none: %s", got)
	}
	counts := elapsed.Counts{0: 90, 100: 9, 150: 1} // 0, 99 and 999 ms
	got := fmt.Sprint(counts.Total(), counts.Percentile(50), counts.Percentile(90), counts.Percentile(91), counts.Percentile(99), counts.Percentile(100))
	if want := "100 0s 0s 99ms 99ms 999ms"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if all := []time.Duration{counts.Percentile(1), counts.Percentile(95), counts.Percentile(100)}; !slices.IsSorted(all) {
		t.Errorf("percentiles shrink: %v", all)
	}
}
