-- Every reading with the tenant that the placements as they stand now give its instant, beside the one it is stamped with.
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
  AND r.observed_at < COALESCE(p.valid_to, TIMESTAMP '9999-12-31 23:59:59.999999+00')
