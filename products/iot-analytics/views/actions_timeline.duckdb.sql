SELECT
  a.action_id,
  a.tenant_id,
  a.device_id,
  a.building,
  a.room,
  a.action,
  a.taken_at,
  avg(r.value) FILTER (WHERE r.observed_at < a.taken_at) AS co2_before,
  avg(r.value) FILTER (WHERE r.observed_at >= a.taken_at) AS co2_after,
  count(r.reading_id) AS readings
FROM iot_actions.actions AS a
LEFT JOIN iot_analytics.readings AS r
  ON r.tenant_id = a.tenant_id
  AND r.metric = 'co2'
  AND r.observed_at >= a.taken_at - INTERVAL 30 MINUTE
  AND r.observed_at < a.taken_at + INTERVAL 30 MINUTE
  AND (r.device_id = a.device_id OR (a.device_id IS NULL AND r.building = a.building AND r.room = a.room))
GROUP BY a.action_id, a.tenant_id, a.device_id, a.building, a.room, a.action, a.taken_at
