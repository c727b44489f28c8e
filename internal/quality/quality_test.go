package quality_test

import (
	"testing"

	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/quality/qualitytest"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

func TestDuckDBCountsAsGo(t *testing.T) {
	qualitytest.Run(t, quality.Of(duckdbtest.Open(t)), "DOUBLE")
}
