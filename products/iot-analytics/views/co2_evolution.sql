-- CO2 of each room in quarters of an hour. above_outside is what the room itself adds: the number to compare rooms by.
-- The last action is a column and not a mark on the chart, since time series charts take columns only. A filter on day_start
-- reads these days alone; one on quarter_start, of which no day is known, reads all.
SELECT
  tenant_id,
  MAX(customer_name) AS customer_name,
  building,
  floor,
  room,
  TIMESTAMP_TRUNC(observed_at, DAY) AS day_start,
  TIMESTAMP_SECONDS(UNIX_SECONDS(TIMESTAMP_TRUNC(observed_at, MINUTE)) - 60 * MOD(EXTRACT(MINUTE FROM observed_at), 15)) AS quarter_start,
  AVG(value) AS co2,
  MAX(value) AS co2_max,
  AVG(outside_co2) AS outside_co2,
  AVG(value - outside_co2) AS above_outside,
  MAX(persons) AS persons,
  ARRAY_AGG(last_action IGNORE NULLS ORDER BY last_action_at DESC, last_action DESC LIMIT 1)[SAFE_OFFSET(0)] AS last_action,
  MIN(minutes_since_action) AS minutes_since_action,
  COUNT(*) AS readings
FROM iot_analytics.readings
WHERE metric = 'co2' AND value IS NOT NULL
GROUP BY tenant_id, building, floor, room, day_start, quarter_start
