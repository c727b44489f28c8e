-- Each action with the CO2 of its room in the half hour before and after it, for each tenant that held the device, or the
-- room by any device, when it was taken. Only readings of the same tenant count: the room may have been another's an hour
-- earlier. An action that names another tenant is nobody's, and so is a device while several placements claim it. Actions
-- without readings around them are there, with NULL.
WITH placed AS (
  SELECT a.action_id, a.taken_at, p.device_id, p.tenant_id, p.valid_from
  FROM iot_actions.actions AS a
  JOIN iot_metadata.placements AS p
    ON p.device_id = a.device_id
    AND a.taken_at >= p.valid_from
    AND (p.valid_to IS NULL OR a.taken_at < p.valid_to)
  WHERE a.tenant_id IS NULL OR a.tenant_id = p.tenant_id
  UNION ALL
  SELECT a.action_id, a.taken_at, p.device_id, p.tenant_id, p.valid_from
  FROM iot_actions.actions AS a
  JOIN iot_metadata.placements AS p
    ON p.room = a.room
    AND p.building IS NOT DISTINCT FROM a.building
    AND a.taken_at >= p.valid_from
    AND (p.valid_to IS NULL OR a.taken_at < p.valid_to)
  WHERE a.tenant_id IS NULL OR a.tenant_id = p.tenant_id
),
held AS (
  SELECT DISTINCT h.action_id, h.tenant_id
  FROM placed AS h
  WHERE NOT EXISTS (
    SELECT 1
    FROM iot_metadata.placements AS other
    WHERE other.device_id = h.device_id
      AND other.valid_from <> h.valid_from
      AND h.taken_at >= other.valid_from
      AND (other.valid_to IS NULL OR h.taken_at < other.valid_to)
  )
)
SELECT
  a.action_id,
  h.tenant_id,
  a.device_id,
  a.building,
  a.room,
  a.action,
  a.taken_at,
  AVG(IF(r.observed_at < a.taken_at, r.value, NULL)) AS co2_before,
  AVG(IF(r.observed_at >= a.taken_at, r.value, NULL)) AS co2_after,
  COUNT(r.reading_id) AS readings
FROM iot_actions.actions AS a
JOIN held AS h
  ON h.action_id = a.action_id
LEFT JOIN iot_analytics.readings AS r
  ON r.tenant_id = h.tenant_id
  AND r.metric = 'co2'
  AND r.observed_at >= a.taken_at - INTERVAL 30 MINUTE
  AND r.observed_at < a.taken_at + INTERVAL 30 MINUTE
  AND (r.device_id = a.device_id OR (a.device_id IS NULL AND r.room = a.room AND r.building IS NOT DISTINCT FROM a.building))
GROUP BY a.action_id, h.tenant_id, a.device_id, a.building, a.room, a.action, a.taken_at
