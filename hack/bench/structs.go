package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

// messages is the data of the event, as somebody would write it down who knows
// what these devices send.
type messages struct {
	Messages []struct {
		ID         string       `json:"id"`
		Source     string       `json:"source"`
		ReceivedAt mesh.Instant `json:"received_at"`
		Payload    struct {
			DeviceID string `json:"device_id"`
			Time     string `json:"time"`
			Metrics  struct {
				CO2         *float64 `json:"co2__ppm"`
				Occupancy   *float64 `json:"occupancy__p"`
				Humidity    *float64 `json:"rel_humidity__0"`
				Temperature *float64 `json:"temp_in__degC"`
				Battery     *float64 `json:"battery_mv"`
			} `json:"metrics"`
		} `json:"payload"`
	} `json:"messages"`
}

func startStructs(context.Context) (*peer, error) {
	p := &peer{name: "encoding/json", callers: 2}
	p.flatten = func(_ context.Context, in event.Event) error {
		var data messages
		if err := json.Unmarshal(in.Data(), &data); err != nil {
			return err
		}
		var out struct {
			Readings []row `json:"readings"`
		}
		for i := range data.Messages {
			m := &data.Messages[i]
			at, err := time.Parse("2006-01-02T15:04:05-0700", m.Payload.Time)
			if err != nil {
				return err
			}
			add := func(value *float64, metric, unit string, by float64) {
				if value == nil {
					return
				}
				out.Readings = append(out.Readings, row{
					DeviceID: m.Payload.DeviceID, Metric: metric, Value: *value / by, Unit: unit,
					ObservedAt: mesh.At(at), ReceivedAt: m.ReceivedAt, EventSource: m.Source, EventID: m.ID,
				})
			}
			add(m.Payload.Metrics.CO2, "co2", "ppm", 1)
			add(m.Payload.Metrics.Occupancy, "people_count", "{person}", 1)
			add(m.Payload.Metrics.Humidity, "relative_humidity_fraction", "1", 1)
			add(m.Payload.Metrics.Temperature, "temperature", "Cel", 1)
			add(m.Payload.Metrics.Battery, "battery_voltage", "V", 1000)
		}
		text, err := json.Marshal(&out)
		if err != nil {
			return err
		}
		p.out(text)
		return nil
	}
	return p, nil
}
