SELECT
  tenant_id,
  max(customer_name) AS customer_name,
  building,
  floor,
  room,
  date_trunc('day', observed_at) AS day_start,
  time_bucket(INTERVAL 15 MINUTE, observed_at) AS quarter_start,
  avg(value) AS co2,
  max(value) AS co2_max,
  avg(outside_co2) AS outside_co2,
  avg(value - outside_co2) AS above_outside,
  max(persons) AS persons,
  arg_max(last_action, (last_action_at, last_action)) AS last_action,
  min(minutes_since_action) AS minutes_since_action,
  count(*) AS readings
FROM iot_analytics.readings
WHERE metric = 'co2' AND value IS NOT NULL
GROUP BY tenant_id, building, floor, room, day_start, quarter_start
