SELECT
  tenant_id,
  building,
  floor,
  room,
  device_id,
  metric,
  unit,
  date_trunc('day', observed_at) AS day_start,
  date_trunc('hour', observed_at) AS hour_start,
  count(*) AS readings,
  sum(value) AS value_sum,
  min(value) AS value_min,
  max(value) AS value_max,
  max(outside_co2) AS outside_co2,
  max(persons) AS persons
FROM iot_analytics.readings
WHERE value IS NOT NULL
GROUP BY tenant_id, building, floor, room, device_id, metric, unit, day_start, hour_start
