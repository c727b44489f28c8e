-- Each action with whose it is and the room it was taken in: that of who held the device, or the room by any device, when it was
-- taken. An action that names another tenant is nobody's, and so is a device while several placements claim it. One that was
-- taken for a room that two tenants shared is there for each of them.
WITH placed AS (
  SELECT a.action_id, a.action, a.taken_at, a.device_id AS at_device, p.device_id, p.valid_from, p.tenant_id, p.building, p.floor, p.room
  FROM iot_actions.actions AS a
  JOIN iot_metadata.placements AS p
    ON p.device_id = a.device_id
    AND a.taken_at >= p.valid_from
    AND (p.valid_to IS NULL OR a.taken_at < p.valid_to)
  WHERE a.tenant_id IS NULL OR a.tenant_id = p.tenant_id
  UNION ALL
  SELECT a.action_id, a.action, a.taken_at, a.device_id AS at_device, p.device_id, p.valid_from, p.tenant_id, p.building, p.floor, p.room
  FROM iot_actions.actions AS a
  JOIN iot_metadata.placements AS p
    ON p.room = a.room
    AND p.building IS NOT DISTINCT FROM a.building
    AND a.taken_at >= p.valid_from
    AND (p.valid_to IS NULL OR a.taken_at < p.valid_to)
  WHERE a.tenant_id IS NULL OR a.tenant_id = p.tenant_id
)
SELECT DISTINCT h.action_id, h.tenant_id, h.at_device AS device_id, h.building, h.floor, h.room, h.action, h.taken_at
FROM placed AS h
WHERE NOT EXISTS (
  SELECT 1
  FROM iot_metadata.placements AS other
  WHERE other.device_id = h.device_id
    AND other.valid_from <> h.valid_from
    AND h.taken_at >= other.valid_from
    AND (other.valid_to IS NULL OR h.taken_at < other.valid_to)
)
