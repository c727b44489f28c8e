-- CO2 of each room in quarters of an hour. above_outside is what the room itself adds: the number to compare rooms by.
-- The last action is a column and not a mark on the chart, since time series charts take columns only.
SELECT
  tenant_id,
  ANY_VALUE(customer_name) AS customer_name,
  building,
  floor,
  room,
  TIMESTAMP_SECONDS(900 * DIV(UNIX_SECONDS(observed_at), 900)) AS quarter_start,
  AVG(value) AS co2,
  MAX(value) AS co2_max,
  AVG(value - outside_co2) AS above_outside,
  MAX(persons) AS persons,
  ANY_VALUE(last_action HAVING MAX last_action_at) AS last_action,
  MIN(minutes_since_action) AS minutes_since_action,
  COUNT(*) AS readings
FROM iot_analytics.readings
WHERE metric = 'co2' AND value IS NOT NULL
GROUP BY tenant_id, building, floor, room, quarter_start
