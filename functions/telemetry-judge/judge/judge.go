// Package judge flags stored readings by what the same device measured before and
// after them, and takes flags back where readings that came late say otherwise. The
// rules are those of package outlier.
//
// It takes ticks of PingSources, whose data say how far back from the tick they look,
//
//	{"recorded": "1h", "observed": "168h"}
//
// by when readings were recorded and when they were measured, and
// telemetry.questioned, which says from when to when. What was recorded since, and
// what lies around it, is read; readings whose flag is to be another one
// are posted as telemetry.flattened, as they were measured, with the flag and how much
// was known (mesh.Reading.Judged). They go the way that all readings go: each gets its
// tenant, is stored, and is joined.
//
// Nothing is remembered between two ticks. Each looks back further than to the one
// before it, which costs reading alone: a judgement depends on what is stored, and what
// is flagged rightly is not posted again. So a tick that is lost, comes twice or late
// changes nothing that the next one does not mend, and a judgement that was overtaken
// by another one is found, since it was recorded too.
//
// What is not done when a part of the Service's timeout is spent is replied as another
// telemetry.questioned, which begins after the device and metric that were judged last.
// Data that cannot be decoded are a permanent error; a warehouse that is away is a
// passing one.
package judge

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/outlier"
	"github.com/telemesh/telemesh/internal/repair"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
	"github.com/telemesh/telemesh/products"
)

// Config is the function's environment.
type Config struct {
	connect.Config
	Sink string `envconfig:"K_SINK" required:"true"` // the Broker's ingress
	// Less than the Service's timeoutSeconds: what is left goes on in another delivery.
	Within time.Duration `envconfig:"JUDGE_WITHIN" default:"5m"`
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	w, err := cfg.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	rules, err := ReadRules()
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: New(rules, w, cfg.Within, func(ctx context.Context, e event.Event) error {
		return function.Post(ctx, ports.Client, cfg.Sink, e)
	})}, nil
}

// ReadRules reads the rules of the data product iot-telemetry.
func ReadRules() (outlier.Rules, error) {
	const dictionary = "iot-telemetry/metrics.yaml"
	text, err := products.FS.ReadFile(dictionary)
	if err != nil {
		return nil, err
	}
	rules, err := outlier.ReadRules(text)
	if err != nil {
		return nil, fmt.Errorf("products/%s: %w", dictionary, err)
	}
	return rules, nil
}

const (
	name = "telemetry-judge"
	// tick is the type of a PingSource's events.
	tick = "dev.knative.sources.ping"
	// pieceRows bounds what is held of one metric of one device, if its window has no
	// more: some 20 MB.
	pieceRows = 32 << 10
)

// New makes the handler, which posts what it makes, for about as long as within.
func New(rules outlier.Rules, w warehouse.Warehouse, within time.Duration, post func(context.Context, event.Event) error) function.Handler {
	metrics := slices.Sorted(maps.Keys(rules))
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		q, err := question(in)
		if err != nil {
			return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
		}
		if len(metrics) == 0 {
			return nil, nil
		}
		until := time.Now().Add(within)
		events := &repair.Events{In: in, Function: name, Held: mesh.TelemetryFlattened, Nobody: mesh.TelemetryFlattened, Post: post}
		var s series
		for row, err := range repair.Around(ctx, w, q, metrics, 2*rules.Window()) {
			if err != nil {
				return nil, err
			}
			if !s.has(row) {
				if err := s.judge(ctx, math.MaxInt64, events); err != nil {
					return nil, err
				}
				if s.begun && !time.Now().Before(until) {
					q.AfterDevice, q.AfterMetric = s.device, s.name
					data := mesh.Encode(q)
					return []event.Event{mesh.Derive(in, name, mesh.TelemetryQuestioned, mesh.Hash(string(data)), data)}, events.Close(ctx)
				}
				s = begin(rules[row.Metric], row)
			}
			if err := s.add(ctx, row, events); err != nil {
				return nil, err
			}
		}
		if err := s.judge(ctx, math.MaxInt64, events); err != nil {
			return nil, err
		}
		return nil, events.Close(ctx)
	}
}

// question says what an event asks for.
func question(in event.Event) (q mesh.Question, err error) {
	switch in.Type() {
	case mesh.TelemetryQuestioned:
		return mesh.Decode[mesh.Question](in.Data())
	case tick:
		var back struct {
			Recorded, Observed string
		}
		if err := json.Unmarshal(in.Data(), &back); err != nil {
			return q, err
		}
		// By the clock of who ticked, so that a tick asks for the same whenever it is taken.
		at := in.Time()
		if at.IsZero() {
			at = time.Now()
		}
		for _, bound := range []struct {
			name, text string
			to         **mesh.Instant
		}{{"recorded", back.Recorded, &q.RecordedSince}, {"observed", back.Observed, &q.ObservedFrom}} {
			if bound.text == "" {
				continue
			}
			d, err := time.ParseDuration(bound.text)
			if err != nil {
				return q, fmt.Errorf("%s: %w", bound.name, err)
			}
			instant := mesh.At(at.Add(-d))
			*bound.to = &instant
		}
		if q.RecordedSince == nil {
			return q, fmt.Errorf(`no member "recorded": a tick says how far back it looks, such as {"recorded": "1h"}`)
		}
		return q, nil
	}
	return q, fmt.Errorf("%s judges by no event of this type: its trigger has to filter on %s and %s", name, tick, mesh.TelemetryQuestioned)
}

// series is what is read of one metric of one device, and not judged yet.
type series struct {
	begun        bool
	device, name string
	metric       outlier.Metric
	rows         []mesh.Reading // in the order of their instants
	from, to     mesh.Instant   // to be judged; what is before from is
	full         int            // rows that are too many
}

func begin(metric outlier.Metric, row *repair.Near) series {
	window := mesh.Instant(metric.Window().Microseconds())
	return series{begun: true, device: row.DeviceID, name: row.Metric, metric: metric,
		from: row.First - window, to: row.Last + window + 1, full: pieceRows}
}

func (s *series) has(row *repair.Near) bool {
	return s.begun && s.device == row.DeviceID && s.name == row.Metric
}

// add takes a row. When there are many, those that have their window are judged, and
// those go that are in no other's.
func (s *series) add(ctx context.Context, row *repair.Near, events *repair.Events) error {
	if len(s.rows) >= s.full && row.ObservedAt > s.rows[len(s.rows)-1].ObservedAt {
		window := mesh.Instant(s.metric.Window().Microseconds())
		cut := row.ObservedAt - window
		if err := s.judge(ctx, cut, events); err != nil {
			return err
		}
		s.from = max(s.from, cut)
		gone, _ := slices.BinarySearchFunc(s.rows, s.from-window, func(r mesh.Reading, at mesh.Instant) int { return cmp.Compare(r.ObservedAt, at) })
		s.rows = append(s.rows[:0], s.rows[gone:]...)
		s.full = len(s.rows) + pieceRows
	}
	s.rows = append(s.rows, row.Reading)
	return nil
}

// judge posts what is to have another flag before an instant.
func (s *series) judge(ctx context.Context, before mesh.Instant, events *repair.Events) error {
	for _, r := range s.metric.Judge(s.rows, s.from, min(s.to, before)) {
		if err := events.Add(ctx, &mesh.JoinedReading{Reading: r}); err != nil {
			return err
		}
	}
	return nil
}
