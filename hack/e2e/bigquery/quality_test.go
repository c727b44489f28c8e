package bigquery_test

import (
	"testing"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/quality/qualitytest"
)

// BigQuery counts by the rules of contracts as Go does, and so as DuckDB does.
func TestQualityRules(t *testing.T) {
	w := openEmpty(t, emulator.Start(t))
	defer func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}()
	qualitytest.Run(t, quality.Of(w), "FLOAT64")
}
