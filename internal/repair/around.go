package repair

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Near is a row of iot_telemetry, as it was appended, of a device and a metric of
// which something is asked for.
type Near struct {
	mesh.Reading
	First, Last mesh.Instant // of the readings that are asked for
}

// Around gives the rows of the readings that a question asks for, and of those of
// the same device and metric up to so long before the first and after the last of
// them: by device_id, metric and observed_at. Of other metrics than those named, and
// of what is no number, nothing is given. It is one query, and rows are given while
// it runs.
func Around(ctx context.Context, w warehouse.Warehouse, q mesh.Question, metrics []string, reach time.Duration) iter.Seq2[*Near, error] {
	return func(yield func(*Near, error) bool) {
		answer, err := w.Query(ctx, around(q, metrics, reach))
		if err != nil {
			yield(nil, fmt.Errorf("read %s: %w", Telemetry, err))
			return
		}
		for row, err := range answer.All {
			near := new(Near)
			if err == nil {
				c := cells{row: row}
				near.First, near.Last = c.instant(), c.instant()
				var joined mesh.JoinedReading
				if err = c.err; err == nil {
					err = decode(c.row, &joined)
				}
				near.Reading = joined.Reading
			}
			if err != nil {
				yield(nil, fmt.Errorf("read %s: %w", Telemetry, err))
				return
			}
			if !yield(near, nil) {
				return
			}
		}
	}
}

// around is the query, which both warehouses know. A bound of observed_at lets them
// leave out what lies before it.
func around(q mesh.Question, metrics []string, reach time.Duration) string {
	names := make([]string, len(metrics))
	for i, name := range metrics {
		names[i] = literal.Text(name)
	}
	asked := []string{"metric IN (" + strings.Join(names, ", ") + ")", "value IS NOT NULL", "value_bool IS NULL"}
	near := []string{"TRUE"}
	if q.RecordedSince != nil {
		asked = append(asked, "recorded_at >= "+literal.Time(*q.RecordedSince))
	}
	if from := q.ObservedFrom; from != nil {
		asked = append(asked, "observed_at >= "+literal.Time(*from))
		near = append(near, "r.observed_at >= "+literal.Time(*from-mesh.Instant(reach.Microseconds())))
	}
	if to := q.ObservedTo; to != nil {
		asked = append(asked, "observed_at < "+literal.Time(*to))
		near = append(near, "r.observed_at < "+literal.Time(*to+mesh.Instant(reach.Microseconds())))
	}
	if q.AfterDevice != "" {
		device, metric := literal.Text(q.AfterDevice), literal.Text(q.AfterMetric)
		asked = append(asked, fmt.Sprintf("(device_id > %s OR device_id = %[1]s AND metric > %s)", device, metric))
	}
	return fmt.Sprintf(`WITH asked AS (
	SELECT device_id, metric, MIN(observed_at) AS first_at, MAX(observed_at) AS last_at
	FROM %[1]s
	WHERE %[2]s
	GROUP BY device_id, metric
)
SELECT asked.first_at, asked.last_at, %[3]s
FROM %[1]s AS r JOIN asked ON asked.device_id = r.device_id AND asked.metric = r.metric
WHERE %[4]s AND r.observed_at >= asked.first_at - INTERVAL %[5]d SECOND AND r.observed_at <= asked.last_at + INTERVAL %[5]d SECOND
ORDER BY r.device_id, r.metric, r.observed_at`, Telemetry, strings.Join(asked, " AND "),
		"r."+strings.ReplaceAll(telemetryColumns, ", ", ", r."), strings.Join(near, " AND "), int64(reach.Seconds()))
}
