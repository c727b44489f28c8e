SELECT
  r.reading_id,
  p.tenant_id,
  r.device_id,
  r.metric,
  r.value,
  r.value_string,
  r.value_bool,
  r.unit,
  r.observed_at,
  r.tenant_id AS stamped_tenant_id
FROM iot_telemetry.readings AS r
LEFT JOIN iot_metadata.placements AS p
  ON p.device_id = r.device_id
  AND p.valid_from <= r.observed_at
  AND (p.valid_to IS NULL OR r.observed_at < p.valid_to)
