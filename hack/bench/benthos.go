package main

import (
	"context"
	"log/slog"

	"github.com/cloudevents/sdk-go/v2/event"
	_ "github.com/redpanda-data/benthos/v4/public/components/pure"
	"github.com/redpanda-data/benthos/v4/public/service"
)

// mapping makes of a message ($m) the array of its readings.
const mapping = `
    let names = {
      "co2__ppm": {"metric": "co2", "unit": "ppm", "by": 1},
      "occupancy__p": {"metric": "people_count", "unit": "{person}", "by": 1},
      "rel_humidity__0": {"metric": "relative_humidity_fraction", "unit": "1", "by": 1},
      "temp_in__degC": {"metric": "temperature", "unit": "Cel", "by": 1},
      "battery_mv": {"metric": "battery_voltage", "unit": "V", "by": 1000}
    }
`

const processors = `
- mapping: root = this.messages
- unarchive:
    format: json_array
- mapping: |` + mapping + `
    let m = this
    let at = this.payload.time.ts_parse("2006-01-02T15:04:05-0700").ts_format("2006-01-02T15:04:05Z07:00", "UTC")
    root = this.payload.metrics.key_values().map_each(kv -> {
      "device_id": $m.payload.device_id,
      "metric": $names.get(kv.key).metric,
      "value": kv.value / $names.get(kv.key).by,
      "unit": $names.get(kv.key).unit,
      "observed_at": $at,
      "received_at": $m.received_at,
      "event_source": $m.source,
      "event_id": $m.id
    })
- unarchive:
    format: json_array
`

const processorsArray = `
- mapping: |` + mapping + `
    root = this.messages.map_each(m -> m.payload.metrics.key_values().map_each(kv -> {
      "device_id": m.payload.device_id,
      "metric": $names.get(kv.key).metric,
      "value": kv.value / $names.get(kv.key).by,
      "unit": $names.get(kv.key).unit,
      "observed_at": m.payload.time.ts_parse("2006-01-02T15:04:05-0700").ts_format("2006-01-02T15:04:05Z07:00", "UTC"),
      "received_at": m.received_at,
      "event_source": m.source,
      "event_id": m.id
    })).flatten()
`

func startBenthos(ctx context.Context) (*peer, error) {
	return startStream(ctx, "Benthos", processors)
}

func startBenthosArray(ctx context.Context) (*peer, error) {
	return startStream(ctx, "Benthos, array", processorsArray)
}

func startStream(ctx context.Context, name, processors string) (*peer, error) {
	b := service.NewStreamBuilder()
	b.SetThreads(2)
	b.SetLogger(slog.New(slog.DiscardHandler))
	if err := b.SetMetricsYAML("none: {}"); err != nil {
		return nil, err
	}
	p := &peer{name: name, callers: 8}
	send, err := b.AddProducerFunc()
	if err != nil {
		return nil, err
	}
	if err := b.AddProcessorYAML("try:" + processors); err != nil {
		return nil, err
	}
	if err := b.AddBatchConsumerFunc(func(_ context.Context, batch service.MessageBatch) error {
		for _, m := range batch {
			if err := m.GetError(); err != nil {
				return err
			}
			text, err := m.AsBytes()
			if err != nil {
				return err
			}
			p.out(text)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	stream, err := b.Build()
	if err != nil {
		return nil, err
	}
	go func() { _ = stream.Run(ctx) }() // until ctx is done: then it says so
	p.flatten = func(ctx context.Context, in event.Event) error {
		return send(ctx, service.NewMessage(in.Data()))
	}
	return p, nil
}
