package local

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/uuid"
	"github.com/robfig/cron/v3"
	sourcesv1 "knative.dev/eventing/pkg/apis/sources/v1"

	"github.com/telemesh/telemesh/internal/manifest"
)

// Ticks are sent as by Knative's adapter: again after 50 ms, then after twice as
// long, five times, which is less than the minute until the next one.
// knative.dev/eventing/pkg/adapter/mtping
const (
	tickBackoff = 50 * time.Millisecond
	tickRetries = 5
	// tickTimeout ends one that waits for room in the mesh: the next one will
	// do as well.
	tickTimeout = 30 * time.Second
)

// newSchedule reads the schedule of a ping source as Knative does. Times are of
// UTC, which an adapter's pod has, unless there is a time zone.
func newSchedule(spec sourcesv1.PingSourceSpec) (cron.Schedule, error) {
	text := spec.Schedule
	if spec.Timezone != "" {
		text = "CRON_TZ=" + spec.Timezone + " " + text
	}
	return cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor).Parse(text)
}

// newTick makes the event of a ping source, but for its id.
func newTick(p *manifest.PingSource) (event.Event, error) {
	e := cloudevents.NewEvent()
	e.SetType(sourcesv1.PingSourceEventType)
	e.SetSource(sourcesv1.PingSourceSource(p.Namespace, p.Name))
	if o := p.Spec.CloudEventOverrides; o != nil {
		for name, value := range o.Extensions {
			e.SetExtension(name, value)
		}
	}
	data := []byte(p.Spec.Data)
	if p.Spec.DataBase64 != "" {
		var err error
		if data, err = base64.StdEncoding.DecodeString(p.Spec.DataBase64); err != nil {
			return e, err
		}
	}
	if len(data) == 0 {
		return e, nil
	}
	return e, e.SetData(p.Spec.ContentType, data)
}

// startPings lets the ping sources tick whose ticks are taken here. What was
// not ticked while the process was away is not made up for.
func (m *Mesh) startPings() error {
	clock := cron.New(cron.WithLocation(time.UTC))
	ctx, cancel := context.WithCancel(context.Background())
	for _, p := range m.cfg.Manifests.PingSources {
		if !m.wakes(p) {
			m.log.Info("not run here: nothing that runs here takes its ticks", "ping source", p.Ref().String())
			continue
		}
		schedule, err := newSchedule(p.Spec)
		if err != nil {
			cancel()
			return fmt.Errorf("%s: PingSource %s: schedule: %w", p.Where, p.Ref(), err)
		}
		clock.Schedule(schedule, cron.FuncJob(func() {
			if err := m.tick(ctx, p); err != nil && ctx.Err() == nil {
				m.log.Warn("tick lost", "ping source", p.Ref().String(), "error", err)
			}
		}))
	}
	clock.Start()
	m.sources.stops = append(m.sources.stops, cancel)
	m.sources.running.Go(func() {
		<-ctx.Done()
		<-clock.Stop().Done()
	})
	return nil
}

// wakes says whether what a ping source brings wakes something here.
func (m *Mesh) wakes(p *manifest.PingSource) bool {
	for _, taker := range m.cfg.Manifests.Takers(p) {
		for _, t := range m.triggers {
			if t.ref == taker.Ref() {
				return true
			}
		}
	}
	return false
}

// Pings are the ping sources that wake something here.
func (m *Mesh) Pings() []manifest.Ref {
	var refs []manifest.Ref
	for _, p := range m.cfg.Manifests.PingSources {
		if m.wakes(p) {
			refs = append(refs, p.Ref())
		}
	}
	return refs
}

// Tick makes a ping source tick now, besides its schedule, and returns when
// the Broker has the tick.
func (m *Mesh) Tick(ctx context.Context, ref manifest.Ref) error {
	p := m.cfg.Manifests.PingSource(ref)
	switch {
	case p == nil:
		return fmt.Errorf("there is no PingSource %s", ref)
	case !m.wakes(p):
		return fmt.Errorf("%s: PingSource %s: nothing that runs here takes its ticks", p.Where, ref)
	}
	return m.tick(ctx, p)
}

func (m *Mesh) tick(ctx context.Context, p *manifest.PingSource) error {
	target, err := manifest.Resolve(p.Spec.Sink, p.Namespace)
	if err != nil {
		return err
	}
	e, err := newTick(p)
	if err != nil {
		return err
	}
	e.SetID(uuid.NewString())
	sender, err := cloudevents.NewClientHTTP(cehttp.WithClient(*m.client), cehttp.WithTarget(target.URL.String()))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cloudevents.ContextWithRetriesExponentialBackoff(ctx, tickBackoff, tickRetries), tickTimeout)
	defer cancel()
	if sent := sender.Send(ctx, e); !cloudevents.IsACK(sent) {
		return fmt.Errorf("send to %s: %w", target.URL, sent)
	}
	return nil
}
