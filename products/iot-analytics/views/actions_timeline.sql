-- Each action with the CO2 of its room in the half hour before and after it. Only readings of the same tenant count: the
-- room may have been another's an hour earlier. Actions without readings around them are there, with NULL.
SELECT
  a.action_id,
  a.tenant_id,
  a.device_id,
  a.building,
  a.room,
  a.action,
  a.taken_at,
  AVG(IF(r.observed_at < a.taken_at, r.value, NULL)) AS co2_before,
  AVG(IF(r.observed_at >= a.taken_at, r.value, NULL)) AS co2_after,
  COUNT(r.reading_id) AS readings
FROM iot_actions.actions AS a
LEFT JOIN iot_analytics.readings AS r
  ON r.tenant_id = a.tenant_id
  AND r.metric = 'co2'
  AND r.observed_at >= TIMESTAMP_SUB(a.taken_at, INTERVAL 30 MINUTE)
  AND r.observed_at < TIMESTAMP_ADD(a.taken_at, INTERVAL 30 MINUTE)
  AND (r.device_id = a.device_id OR (a.device_id IS NULL AND r.building = a.building AND r.room = a.room))
GROUP BY a.action_id, a.tenant_id, a.device_id, a.building, a.room, a.action, a.taken_at
