package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// sample writes the simulated week and gives the arguments that replay it.
func sample(t testing.TB, flags ...string) []string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "week")
	telemesh(t, append([]string{"simulate", "--out", dir}, flags...)...)
	return []string{
		"--placements", filepath.Join(dir, "placements.csv"),
		"--actions", filepath.Join(dir, "actions.csv"),
		"--customers", filepath.Join(dir, "customers.csv"),
		filepath.Join(dir, "messages.ndjson"),
	}
}

// asOf is what the functions have to arrive at, as one statement over the rows
// as they were measured: no stamp, no join, no order of arrival in it.
const asOf = `
WITH said AS ( -- with the version of the placements that says so first: nothing is corrected here
	SELECT p.*, (SELECT count(*) FROM iot_metadata_internal.placements q WHERE q.recorded_at <= p.recorded_at) AS since
	FROM iot_metadata_internal.placements p
), raw AS (
	SELECT reading_id, device_id, metric, value, value_string, observed_at FROM iot_telemetry.readings
), stamped AS (
	SELECT raw.*, p.tenant_id, p.building, p.floor, p.room, p.persons, p.outside_co2, coalesce(p.since, 0) AS assignment_version
	FROM raw LEFT JOIN said p ON p.device_id = raw.device_id
		AND p.valid_from <= raw.observed_at AND (p.valid_to IS NULL OR raw.observed_at < p.valid_to)
), joined AS (
	SELECT s.*, c.name AS customer_name, a.action AS last_action, a.taken_at AS last_action_at
	FROM stamped s
	LEFT JOIN customers.customers c ON c.customer_id = s.tenant_id
	LEFT JOIN LATERAL (
		SELECT action, taken_at FROM iot_actions.actions a
		WHERE a.tenant_id = s.tenant_id AND a.taken_at <= s.observed_at
			AND (a.device_id = s.device_id OR (a.room = s.room AND a.building IS NOT DISTINCT FROM s.building))
		ORDER BY a.taken_at DESC, a.action_id DESC LIMIT 1
	) a ON true
)`

// differ counts rows that stand in one of two tables only, over columns.
func differ(a, b, columns string) string {
	return fmt.Sprintf(`%[1]s SELECT
		(SELECT count(*) FROM (SELECT %[4]s FROM %[2]s EXCEPT ALL SELECT %[4]s FROM %[3]s)) +
		(SELECT count(*) FROM (SELECT %[4]s FROM %[3]s EXCEPT ALL SELECT %[4]s FROM %[2]s))`, asOf, a, b, columns)
}

// The streaming result equals the batch result, with devices that moved and
// messages that were late, doubled, out of order and without a time.
func TestStreamEqualsBatch(t *testing.T) {
	data := t.TempDir()
	out := telemesh(t, append([]string{"replay", "--data", data}, sample(t)...)...)
	if !strings.Contains(out, "rejected               0") || !strings.Contains(out, "dead-lettered          0") {
		t.Errorf("the sample is not read whole:\n%s", out)
	}
	one := func(sql string) string { t.Helper(); return strings.Join(rows(t, data, sql), "\n") }
	if got := one(differ("stamped", "iot_telemetry.readings", "reading_id, device_id, metric, value, value_string, observed_at, tenant_id, assignment_version")); got != "0" {
		t.Errorf("%s rows differ between iot_telemetry.readings and the as-of join", got)
	}
	if got := one(differ("(SELECT * FROM joined WHERE tenant_id IS NOT NULL)", "iot_analytics.readings",
		`reading_id, device_id, metric, value, value_string, observed_at, tenant_id, assignment_version, building, floor, room, persons,
		outside_co2, customer_name, last_action, last_action_at`)); got != "0" {
		t.Errorf("%s rows differ between iot_analytics.readings and the as-of join", got)
	}
	// The test would show nothing if the sample held nothing of this.
	for what, sql := range map[string]string{
		"devices at two tenants": `SELECT count(*) = 2 FROM (SELECT device_id FROM iot_telemetry.readings GROUP BY 1 HAVING count(DISTINCT tenant_id) = 2)`,
		"three tenants":          `SELECT count(DISTINCT tenant_id) = 3 FROM iot_analytics.readings`,
		"24 devices":             `SELECT count(DISTINCT device_id) = 24 FROM iot_telemetry.readings`,
		"parked readings":        `SELECT count(*) > 0 FROM iot_telemetry.readings WHERE tenant_id IS NULL`,
		"readings after actions": `SELECT count(*) > 1000 FROM iot_analytics.readings WHERE last_action IS NOT NULL`,
		"messages without time":  `SELECT count(*) > 0 FROM iot_telemetry.readings WHERE quality = 'no_time'`,
		"a week":                 `SELECT date_diff('hour', min(observed_at), max(observed_at)) >= 160 FROM iot_telemetry.readings WHERE quality IS DISTINCT FROM 'no_time'`,
	} {
		if got := one(sql); got != "true" {
			t.Errorf("the sample has no %s: %s", what, got)
		}
	}
}

// One bad message among 499 good ones costs one message.
func TestMalformedMessageIsRejectedAlone(t *testing.T) {
	data := t.TempDir()
	var lines []string
	for i := range 499 {
		lines = append(lines, fmt.Sprintf(`{"device_id":"d%d","time":"2026-03-01T09:00:00Z","metrics":{"co2":%d}}`, i, 400+i))
	}
	const broken = `{"device_id":"bad","time":"2026-03-01T09:00:00Z","metrics":{"co2":4`
	lines = append(lines[:250], append([]string{broken}, lines[250:]...)...)
	file := write(t, filepath.Join(t.TempDir(), "messages.ndjson"), strings.Join(lines, "\n"))
	telemesh(t, "replay", "--data", data, file)
	if got := rows(t, data, `SELECT count(*), count(DISTINCT device_id) FROM iot_telemetry.readings`); len(got) != 1 || got[0] != "499,499" {
		t.Errorf("readings = %v, want 499", got)
	}
	got := rows(t, data, `SELECT payload, cause FROM iot_telemetry_internal.rejected`)
	if len(got) != 1 || !strings.Contains(strings.ReplaceAll(got[0], `""`, `"`), broken) || !strings.Contains(strings.ToLower(got[0]), "eof") {
		t.Errorf("rejected = %v, want the message with its cause", got)
	}
}
