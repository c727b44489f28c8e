-- What each metric of each device was in each hour, for charts of months and years. Only readings that are numbers count, so that
-- value_sum / readings is the mean, of several devices and hours too. persons and outside_co2 are of the placement: the greatest,
-- where that changed within the hour. A filter on day_start reads these days alone, and one on metric and device_id their blocks;
-- one on hour_start, of which no day is known, reads all.
SELECT
  tenant_id,
  building,
  floor,
  room,
  device_id,
  metric,
  unit,
  TIMESTAMP_TRUNC(observed_at, DAY) AS day_start,
  TIMESTAMP_TRUNC(observed_at, HOUR) AS hour_start,
  COUNT(*) AS readings,
  SUM(value) AS value_sum,
  MIN(value) AS value_min,
  MAX(value) AS value_max,
  MAX(outside_co2) AS outside_co2,
  MAX(persons) AS persons
FROM iot_analytics.readings
WHERE value IS NOT NULL
GROUP BY tenant_id, building, floor, room, device_id, metric, unit, day_start, hour_start
