package main

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

const (
	step    = mesh.Instant(300e6) // between two messages of a device
	batch   = 500                 // readings of an event
	callers = 16
	tenants = 10
)

// place is where a device stands. Of four rooms one has two devices.
type place struct {
	device, tenant, building, floor, room string
}

func (b *bench) place(device int) place {
	room := device * 4 / 5
	tenant := device * tenants / b.devices
	return place{
		device: fmt.Sprintf("office-%04d/scd41", device), tenant: fmt.Sprintf("school-%02d", tenant),
		building: fmt.Sprintf("Building %d", tenant), floor: fmt.Sprint(room % 4), room: fmt.Sprintf("%d.%02d", room%4, room/4),
	}
}

// row is a row as its cells are.
type row []warehouse.Cell

func (r row) Cells(dst []warehouse.Cell) []warehouse.Cell { return append(dst, r...) }

// message gives the readings of devices at an instant. correction 0: as they were
// measured; else with the CO2 corrected, as that version of the placements.
func (b *bench) message(at mesh.Instant, from, to int, correction int64) (rows []warehouse.Row) {
	day := float64(at%(24*3600e6)) / (24 * 3600e6)
	for device := from; device < to; device++ {
		p := b.place(device)
		id := mesh.Hash(p.device, fmt.Sprint(int64(at)))
		noise := mesh.Hash(id)
		occupied := math.Max(0, math.Sin(2*math.Pi*(day-0.3)))
		digit := func(i int) float64 { return float64(noise[i]%16) + float64(noise[i+1]%16)/16 }
		for i, m := range [...]struct {
			metric, unit string
			value        float64
		}{
			{"co2", "ppm", math.Round(420 + 900*occupied + 4*digit(0) + float64(correction))},
			{"temperature", "Cel", math.Round(10*(19+3*occupied+digit(2)/16)) / 10},
			{"relative_humidity", "%", math.Round(10*(40+10*occupied+digit(4)/4)) / 10},
			{"pressure", "hPa", math.Round(10*(1000+digit(6))) / 10},
			{"battery", "V", math.Round(100*(3.6-digit(8)/100)) / 100},
		} {
			if correction > 0 && i > 0 {
				break
			}
			rows = append(rows, row{
				warehouse.String(mesh.ReadingID(p.device, m.metric, at)), warehouse.String(p.tenant), warehouse.String(p.device), warehouse.String(m.metric),
				warehouse.Float(m.value), warehouse.Null, warehouse.Null, warehouse.String(m.unit),
				warehouse.Instant(at), warehouse.Instant(at + 1234567), warehouse.Null, warehouse.Int(0), warehouse.Int(max(correction, 1)),
				warehouse.Null, warehouse.Null, warehouse.String("/telemesh/ingest/http"), warehouse.String(id), warehouse.Null,
				warehouse.String(p.building), warehouse.String(p.floor), warehouse.String(p.room), warehouse.Int(30), warehouse.Float(420),
				warehouse.String("School " + p.tenant), warehouse.Null, warehouse.Null, warehouse.Null, warehouse.Int(max(correction, 1)), warehouse.Bool(false),
			})
		}
	}
	return rows
}

func (b *bench) append(ctx context.Context, id string, rows []warehouse.Row) error {
	_, err := b.db.Append(ctx, warehouse.Batch{Table: "iot_analytics.readings", EventSource: "/bench/hours", EventID: id, Rows: rows})
	return err
}

// build appends what the portal shows of the devices: customers, placements, an
// action a fortnight in each room, and the readings.
func (b *bench) build(ctx context.Context) error {
	if err := b.metadata(ctx); err != nil {
		return err
	}
	const perEvent = batch / 5
	events := (b.devices + perEvent - 1) / perEvent
	total := int64((b.to - b.from) / step * mesh.Instant(events))
	fmt.Printf("appending %d readings\n", int64((b.to-b.from)/step)*int64(b.devices)*5)
	var next, readings atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	start := time.Now()
	for range callers {
		all.Go(func() {
			for failed.Load() == nil {
				n := next.Add(1) - 1
				if n >= total {
					return
				}
				first := int(n) % events * perEvent
				rows := b.message(b.from+mesh.Instant(n/int64(events))*step, first, min(first+perEvent, b.devices), 0)
				if err := b.append(ctx, fmt.Sprint(n), rows); err != nil {
					failed.Store(&err)
					return
				}
				if done := readings.Add(int64(len(rows))); done/10_000_000 > (done-int64(len(rows)))/10_000_000 {
					fmt.Printf("%d million in %.0f s\n", done/1_000_000, time.Since(start).Seconds())
				}
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	took := time.Since(start)
	fmt.Printf("appended %d readings in %.0f s, %.0f a second\n", readings.Load(), took.Seconds(), float64(readings.Load())/took.Seconds())
	return nil
}

func (b *bench) metadata(ctx context.Context) error {
	rows := map[string][]map[string]warehouse.Cell{}
	text, version, there := warehouse.String, warehouse.Int(1), warehouse.Bool(false)
	for tenant := range tenants {
		id := fmt.Sprintf("school-%02d", tenant)
		rows["customers.customers"] = append(rows["customers.customers"], map[string]warehouse.Cell{
			"customer_id": text(id), "name": text("School " + id), "sector": text("education"), "country": text("NL"), "version": version, "deleted": there})
	}
	for device := range b.devices {
		p := b.place(device)
		rows["iot_metadata.placements"] = append(rows["iot_metadata.placements"], map[string]warehouse.Cell{
			"device_id": text(p.device), "tenant_id": text(p.tenant), "building": text(p.building), "floor": text(p.floor), "room": text(p.room),
			"persons": warehouse.Int(30), "outside_co2": warehouse.Float(420), "valid_from": warehouse.Instant(b.from), "version": version, "deleted": there})
		for at := b.from + 10*3600e6; at < b.to; at += 14 * 24 * 3600e6 {
			rows["iot_actions.actions"] = append(rows["iot_actions.actions"], map[string]warehouse.Cell{
				"action_id": text(mesh.Hash(p.device, fmt.Sprint(int64(at)))), "tenant_id": text(p.tenant), "building": text(p.building), "room": text(p.room),
				"action": text("window opened"), "taken_at": warehouse.Instant(at), "version": version, "deleted": there})
		}
	}
	for _, p := range b.products {
		for i := range p.Tables {
			t := &p.Tables[i]
			if err := b.table(ctx, t, rows[t.FullName()]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) table(ctx context.Context, t *contract.Table, rows []map[string]warehouse.Cell) error {
	if len(rows) == 0 {
		return nil
	}
	var list []warehouse.Row
	for _, cells := range rows {
		var r row
		for _, c := range t.Cells() {
			r = append(r, cells[c.Name])
		}
		list = append(list, r)
	}
	_, err := b.db.Append(ctx, warehouse.Batch{Table: t.FullName(), EventSource: "/bench/hours", EventID: "metadata", Rows: list})
	return err
}
