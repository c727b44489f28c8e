package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/portal"
	"github.com/telemesh/telemesh/products"
)

// status tells the portal how an instance stands.
type status struct {
	in             *instance
	ingest, broker string // addresses
	since          time.Time
}

func (in *instance) status(ingest, broker string) portal.Source {
	return &status{in, ingest, broker, time.Now()}
}

// What a page shows of what may be very much.
const (
	statusRooms       = 100
	statusDeadLetters = 20
)

const roomsSQL = `SELECT tenant_id, coalesce(building, ''), coalesce(floor, ''), room, arg_max(value, observed_at),
		coalesce(arg_max(outside_co2, observed_at), 0.0), max(observed_at)
	FROM iot_analytics.readings
	WHERE metric = 'co2' AND value IS NOT NULL AND room IS NOT NULL AND observed_at <= now() AND observed_at > now() - INTERVAL 1 DAY
	GROUP BY ALL ORDER BY ALL LIMIT %d`

func (s *status) Status(ctx context.Context) (portal.Status, error) {
	out := portal.Status{At: time.Now(), Since: s.since, Ingest: "http://" + s.ingest + "/", Data: s.in.dir}
	mesh := s.in.mesh.Status()
	for _, b := range mesh.Brokers {
		out.Brokers = append(out.Brokers, portal.Broker{
			Name: b.Broker.String(), Ingress: "http://" + s.broker + "/" + b.Broker.String(), Accepted: b.Accepted, Refused: b.Refused,
		})
	}
	for _, t := range mesh.Triggers {
		out.Triggers = append(out.Triggers, portal.Trigger{
			Name: t.Trigger.String(), Broker: t.Broker.String(), Subscriber: t.Subscriber,
			Pending: t.Pending, InFlight: t.InFlight, Delivered: t.Delivered, Retried: t.Retried, DeadLettered: t.DeadLettered,
		})
	}
	if err := s.tables(ctx, &out); err != nil {
		return out, err
	}
	if err := s.rooms(ctx, &out); err != nil {
		return out, err
	}
	for _, f := range mesh.Failures {
		out.Failures = append(out.Failures, portal.Failure{
			At: f.At, Trigger: f.Trigger.String(), EventID: f.EventID, Type: f.EventType, Status: f.Status, Text: f.Text,
		})
	}
	all, err := s.in.deadLetters(ctx)
	if err != nil {
		return out, err
	}
	out.AllDeadLetters = int(all)
	for l, err := range deadletter.Latest(ctx, s.in.warehouse, statusDeadLetters) {
		if err != nil {
			return out, err
		}
		d := shownLetter(&l)
		out.DeadLetters = append(out.DeadLetters, portal.DeadLetter{
			ID: shownName(d.ID), Trigger: d.Trigger, Type: l.Event.Type(), Cause: d.Cause, At: l.RecordedAt.Time(),
		})
	}
	latest, err := s.in.mesh.DeadLetters().Latest(ctx, statusDeadLetters)
	if err != nil {
		return out, err
	}
	for _, d := range latest {
		letter := portal.DeadLetter{ID: d.ID, Cause: d.Cause.Text, At: d.At}
		if d.Trigger.Name != "" {
			letter.Trigger = d.Trigger.String()
		}
		if d.Event != nil {
			letter.Type = d.Event.Type()
		}
		out.DeadLetters = append(out.DeadLetters, letter)
	}
	slices.SortStableFunc(out.DeadLetters, func(a, b portal.DeadLetter) int { return b.At.Compare(a.At) })
	out.DeadLetters = out.DeadLetters[:min(len(out.DeadLetters), statusDeadLetters)]
	return out, nil
}

func (s *status) tables(ctx context.Context, out *portal.Status) error {
	all, err := contract.Load(products.FS)
	if err != nil {
		return err
	}
	for _, p := range all {
		for _, t := range p.Tables {
			if t.Schema != p.Schema {
				continue // no output port
			}
			newest := "CAST(NULL AS TIMESTAMPTZ)"
			if t.Time != "" {
				newest = "max(" + t.Time + ")"
			}
			row, err := s.one(ctx, fmt.Sprintf("SELECT count(*), %s FROM %s", newest, t.FullName()))
			if err != nil {
				return err
			}
			table := portal.Table{Name: t.FullName()}
			table.Rows, _ = row[0].(int64)
			table.Newest, _ = row[1].(time.Time)
			out.Tables = append(out.Tables, table)
		}
	}
	return nil
}

func (s *status) one(ctx context.Context, sql string) ([]any, error) {
	rows, err := s.in.warehouse.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	for row, err := range rows.All {
		return row, err
	}
	return nil, fmt.Errorf("%s gave no row", sql)
}

func (s *status) rooms(ctx context.Context, out *portal.Status) error {
	rows, err := s.in.warehouse.Query(ctx, fmt.Sprintf(roomsSQL, statusRooms))
	if err != nil {
		return err
	}
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		var r portal.Room
		r.Tenant, _ = row[0].(string)
		r.Building, _ = row[1].(string)
		r.Floor, _ = row[2].(string)
		r.Room, _ = row[3].(string)
		r.CO2, _ = row[4].(float64)
		r.OutsideCO2, _ = row[5].(float64)
		r.ObservedAt, _ = row[6].(time.Time)
		out.Rooms = append(out.Rooms, r)
	}
	return nil
}
