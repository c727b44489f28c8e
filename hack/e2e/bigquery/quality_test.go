package bigquery_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/quality/qualitytest"
)

// BigQuery counts by the rules of contracts as Go does, and so as DuckDB does. To the
// emulator NaN is NULL, and an instant is of one group with that of a microsecond
// before: it is asked about neither.
func TestQualityRules(t *testing.T) {
	w := openEmpty(t, emulator.Start(t))
	defer func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}()
	qualitytest.Run(t, quality.Of(w), "FLOAT64", func(row []any) bool {
		return slices.ContainsFunc(row, func(cell any) bool {
			f, number := cell.(float64)
			at, instant := cell.(time.Time)
			return number && math.IsNaN(f) || instant && at.Nanosecond() == 1000
		})
	})
}
