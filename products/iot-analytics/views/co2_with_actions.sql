-- CO2 of each room in quarters of an hour, shaped for time series charts that have no annotations: co2_at_action is the CO2
-- of the quarters in which an action was taken there, and NULL else, and actions says which. Whose an action is, is as in
-- actions_timeline; one at a device is of the room that the device stood in.
WITH placed AS (
  SELECT a.action_id, a.action, a.taken_at, p.device_id, p.valid_from, p.tenant_id, p.building, p.floor, p.room
  FROM iot_actions.actions AS a
  JOIN iot_metadata.placements AS p
    ON p.device_id = a.device_id
    AND a.taken_at >= p.valid_from
    AND (p.valid_to IS NULL OR a.taken_at < p.valid_to)
  WHERE a.tenant_id IS NULL OR a.tenant_id = p.tenant_id
  UNION ALL
  SELECT a.action_id, a.action, a.taken_at, p.device_id, p.valid_from, p.tenant_id, p.building, p.floor, p.room
  FROM iot_actions.actions AS a
  JOIN iot_metadata.placements AS p
    ON p.room = a.room
    AND p.building IS NOT DISTINCT FROM a.building
    AND a.taken_at >= p.valid_from
    AND (p.valid_to IS NULL OR a.taken_at < p.valid_to)
  WHERE a.tenant_id IS NULL OR a.tenant_id = p.tenant_id
),
taken AS (
  SELECT DISTINCT h.action_id, h.action, h.taken_at, h.tenant_id, h.building, h.floor, h.room
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
  q.tenant_id,
  q.customer_name,
  q.building,
  q.floor,
  q.room,
  q.day_start,
  q.quarter_start,
  q.co2,
  q.outside_co2,
  q.above_outside,
  IF(COUNT(t.action_id) > 0, q.co2, NULL) AS co2_at_action,
  NULLIF(STRING_AGG(COALESCE(t.action, ''), ', ' ORDER BY t.taken_at, t.action_id), '') AS actions
FROM iot_analytics.co2_evolution AS q
LEFT JOIN taken AS t
  ON t.tenant_id = q.tenant_id
  AND t.building IS NOT DISTINCT FROM q.building
  AND t.floor IS NOT DISTINCT FROM q.floor
  AND t.room IS NOT DISTINCT FROM q.room
  AND t.taken_at >= q.quarter_start
  AND t.taken_at < q.quarter_start + INTERVAL 15 MINUTE
GROUP BY q.tenant_id, q.customer_name, q.building, q.floor, q.room, q.day_start, q.quarter_start, q.co2, q.outside_co2, q.above_outside
