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
// of what is no number, nothing is given. Rows are given while the query runs that
// reads them; one before it says from when to when it has to look, so that these are
// the only days that the warehouse reads whole rows of.
func Around(ctx context.Context, w warehouse.Warehouse, q mesh.Question, metrics []string, reach time.Duration) iter.Seq2[*Near, error] {
	return func(yield func(*Near, error) bool) {
		q, some, err := span(ctx, w, q, metrics)
		if err == nil && !some {
			return
		}
		var answer *warehouse.Rows
		if err == nil {
			answer, err = w.Query(ctx, around(q, metrics, reach))
		}
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

// span bounds a question by the first and the last of the readings that it asks for;
// false: there are none.
func span(ctx context.Context, w warehouse.Warehouse, q mesh.Question, metrics []string) (_ mesh.Question, some bool, err error) {
	answer, err := w.Query(ctx, fmt.Sprintf("SELECT MIN(observed_at) AS first_at, MAX(observed_at) AS last_at FROM %s WHERE %s", Telemetry, asked(q, metrics)))
	if err != nil {
		return q, false, err
	}
	for row, err := range answer.All {
		if err != nil {
			return q, false, err
		}
		if some = row[0] != nil; some {
			c := cells{row: row}
			from, to := c.instant(), c.instant()+1
			q.ObservedFrom, q.ObservedTo, err = &from, &to, c.err
		}
		if err != nil {
			return q, false, err
		}
	}
	return q, some, nil
}

// asked is the condition of the readings that a question asks for.
func asked(q mesh.Question, metrics []string) string {
	names := make([]string, len(metrics))
	for i, name := range metrics {
		names[i] = literal.Text(name)
	}
	where := []string{"metric IN (" + strings.Join(names, ", ") + ")", "value IS NOT NULL", "value_bool IS NULL"}
	if q.RecordedSince != nil {
		where = append(where, "recorded_at >= "+literal.Time(*q.RecordedSince))
	}
	if q.ObservedFrom != nil {
		where = append(where, "observed_at >= "+literal.Time(*q.ObservedFrom))
	}
	if q.ObservedTo != nil {
		where = append(where, "observed_at < "+literal.Time(*q.ObservedTo))
	}
	if q.AfterDevice != "" {
		device, metric := literal.Text(q.AfterDevice), literal.Text(q.AfterMetric)
		where = append(where, fmt.Sprintf("(device_id > %s OR device_id = %[1]s AND metric > %s)", device, metric))
	}
	return strings.Join(where, " AND ")
}

// around is the query of a question that is bounded, which both warehouses know.
func around(q mesh.Question, metrics []string, reach time.Duration) string {
	window := mesh.Instant(reach.Microseconds())
	return fmt.Sprintf(`WITH asked AS (
	SELECT device_id, metric, MIN(observed_at) AS first_at, MAX(observed_at) AS last_at
	FROM %[1]s
	WHERE %[2]s
	GROUP BY device_id, metric
)
SELECT asked.first_at, asked.last_at, %[3]s
FROM %[1]s AS r JOIN asked ON asked.device_id = r.device_id AND asked.metric = r.metric
WHERE r.observed_at >= %[4]s AND r.observed_at < %[5]s
	AND r.observed_at >= asked.first_at - INTERVAL %[6]d SECOND AND r.observed_at <= asked.last_at + INTERVAL %[6]d SECOND
ORDER BY r.device_id, r.metric, r.observed_at`, Telemetry, asked(q, metrics), "r."+strings.ReplaceAll(telemetryColumns, ", ", ", r."),
		literal.Time(*q.ObservedFrom-window), literal.Time(*q.ObservedTo+window), int64(reach.Seconds()))
}
