package prove

import "strings"

// The batch result: what the functions have to arrive at, as statements over
// the rows as they were measured and the metadata as they stand. No stamp, no
// order of arrival and no state of a function is in them.
//
// They are DuckDB's dialect. The range join of rangeJoin is portable and is
// also the view iot_telemetry.readings_as_of.

// end is the end of a placement p. An OR for those that are open makes of the
// join a loop over all pairs, in DuckDB and in BigQuery.
const end = `coalesce(p.valid_to, TIMESTAMP '9999-12-31 23:59:59.999999+00')`

// raw is each reading with the value that counts, from all rows that were ever
// stored of it.
const raw = `raw AS (
	SELECT * EXCLUDE (place, least, greatest, quality), CASE WHEN least <> greatest THEN 'conflict' ELSE quality END AS quality
	FROM (
		SELECT *,
			row_number() OVER (PARTITION BY reading_id ORDER BY revision DESC, value DESC NULLS LAST, value_string DESC NULLS LAST,
				value_bool DESC NULLS LAST, judged DESC NULLS LAST, unit DESC NULLS LAST, quality DESC NULLS LAST) AS place,
			min(hash(value, value_string, value_bool)) OVER (PARTITION BY reading_id, revision) AS least,
			max(hash(value, value_string, value_bool)) OVER (PARTITION BY reading_id, revision) AS greatest
		FROM (
			SELECT DISTINCT reading_id, device_id, metric, observed_at, revision, value, value_string, value_bool, unit, quality, judged
			FROM iot_telemetry_internal.readings
		)
	)
	WHERE place = 1
)`

// rangeJoin stamps raw by the interval that contains the instant.
const rangeJoin = `stamped AS (
	SELECT raw.*, p.tenant_id, p.building, p.floor, p.room, p.persons, p.outside_co2
	FROM raw LEFT JOIN iot_metadata.placements AS p
		ON p.device_id = raw.device_id AND p.valid_from <= raw.observed_at AND raw.observed_at < ` + end + `
)`

// asOfJoin stamps raw by the last interval that began, if it has not ended.
const asOfJoin = `stamped AS (
	SELECT raw.*, CASE WHEN p.valid_to IS NULL OR raw.observed_at < p.valid_to THEN p.tenant_id END AS tenant_id
	FROM raw ASOF LEFT JOIN iot_metadata.placements AS p
		ON p.device_id = raw.device_id AND raw.observed_at >= p.valid_from
)`

// owned is the actions with who held the device, or the room by the placement of
// any device, when they were taken, if no other tenant is named.
const owned = `owned_by_device AS (
	SELECT DISTINCT a.action_id, a.action, a.taken_at, a.device_id, p.tenant_id AS owner
	FROM iot_actions.actions AS a JOIN iot_metadata.placements AS p
		ON p.device_id = a.device_id AND p.valid_from <= a.taken_at AND a.taken_at < ` + end + `
	WHERE a.tenant_id IS NULL OR a.tenant_id = p.tenant_id
), owned_by_room AS (
	SELECT DISTINCT a.action_id, a.action, a.taken_at, coalesce(a.building, '') AS building, a.room, p.tenant_id AS owner
	FROM iot_actions.actions AS a JOIN iot_metadata.placements AS p
		ON p.room = a.room AND p.building IS NOT DISTINCT FROM a.building AND p.valid_from <= a.taken_at AND a.taken_at < ` + end + `
	WHERE a.tenant_id IS NULL OR a.tenant_id = p.tenant_id
), owned AS (
	SELECT action_id, owner FROM owned_by_device UNION SELECT action_id, owner FROM owned_by_room
)`

// joined adds customer and last action to stamped. Of the actions taken at one
// instant the one with the greatest id counts.
const joined = owned + `, by_device AS (
	SELECT owner, device_id, taken_at, max(action_id) AS action_id, arg_max(action, action_id) AS action
	FROM owned_by_device GROUP BY ALL
), by_room AS (
	SELECT owner, building, room, taken_at, max(action_id) AS action_id, arg_max(action, action_id) AS action
	FROM owned_by_room GROUP BY ALL
), joined AS (
	SELECT * EXCLUDE (room_action, room_taken_at, device_action, device_taken_at, later),
		CASE WHEN later THEN room_action ELSE device_action END AS last_action,
		CASE WHEN later THEN room_taken_at ELSE device_taken_at END AS last_action_at
	FROM (
		SELECT s.*, c.name AS customer_name, r.action AS room_action, r.taken_at AS room_taken_at, d.action AS device_action, d.taken_at AS device_taken_at,
			coalesce(r.taken_at > d.taken_at OR r.taken_at = d.taken_at AND r.action_id > d.action_id, d.taken_at IS NULL) AS later
		FROM (SELECT * FROM stamped WHERE tenant_id IS NOT NULL) AS s
		ASOF LEFT JOIN by_device AS d ON d.owner = s.tenant_id AND d.device_id = s.device_id AND s.observed_at >= d.taken_at
		ASOF LEFT JOIN by_room AS r ON r.owner = s.tenant_id AND r.building = coalesce(s.building, '') AND r.room = s.room AND s.observed_at >= r.taken_at
		LEFT JOIN customers.customers AS c ON c.customer_id = s.tenant_id
	)
)`

// What a row of each port says, as far as it does not tell how it came.
var (
	telemetryColumns = columns("reading_id device_id metric observed_at value value_string value_bool unit quality tenant_id")
	analyticsColumns = columns("reading_id device_id metric observed_at value value_string value_bool unit quality tenant_id " +
		"building floor room persons outside_co2 customer_name last_action last_action_at")
)

func columns(names string) string { return strings.Join(strings.Fields(names), ", ") }

// with puts the parts of a batch result before a statement.
func with(statement string, parts ...string) string {
	return "WITH " + strings.Join(parts, ", ") + "\n" + statement
}
