// Command hours measures how fast the hours of a room for a year come, of 100
// million readings in DuckDB, beside a GROUP BY over the same readings.
//
//	cd hack/bench && go run ./hours -folder /tmp/hours [-days 365] [-devices 200]
//
// It appends the readings by the store itself, in events of 500 and in the order
// they were measured, if the folder has none: about ten minutes and 8 GB. `telemesh
// up --data /tmp/hours` then shows them. What is asked is what a tenant's page
// asks, as the tenant, by the way the portal has to data:
//
//   - kept: the view iot_analytics.readings_hourly.
//   - plain: the statement of that view, over iot_analytics.readings. What it
//     answers is compared with what the view does.
//   - of a device: the view, by device and not by room.
//   - while appended: the view, while readings come in, some of which correct
//     others in hours that are kept.
//   - cold: the view, by a store that was just opened, of a file that the system
//     has not in memory.
package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
	"github.com/telemesh/telemesh/products"
)

func main() {
	var b bench
	flag.StringVar(&b.folder, "folder", "", "data folder; made if missing")
	flag.IntVar(&b.devices, "devices", 200, "devices of five metrics each, one message in five minutes")
	flag.IntVar(&b.days, "days", 365, "days until today")
	flag.IntVar(&b.asked, "n", 200, "how often each is asked")
	flag.Parse()
	if b.folder == "" {
		fmt.Fprintln(os.Stderr, "hours: -folder is missing")
		os.Exit(2)
	}
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "hours:", err)
		os.Exit(1)
	}
}

type bench struct {
	folder               string
	devices, days, asked int
	products             []contract.Product
	from, to             mesh.Instant
	db                   *duckdb.DB
	corrected            int
}

func (b *bench) file() string { return filepath.Join(b.folder, "warehouse.duckdb") }

func (b *bench) run(ctx context.Context) (err error) {
	if b.products, err = contract.Load(products.FS); err != nil {
		return err
	}
	b.to = mesh.At(time.Now().Truncate(24 * time.Hour))
	b.from = b.to - mesh.Instant(b.days)*24*3600e6
	_, missing := os.Stat(b.file())
	if err := b.open(ctx); err != nil {
		return err
	}
	defer func() { b.db.Close() }()
	if missing != nil {
		if err := b.build(ctx); err != nil {
			return err
		}
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	last, err := b.number(ctx, "SELECT epoch_us(max(observed_at)) FROM iot_analytics.readings")
	if err != nil {
		return err
	}
	b.to = mesh.Instant(last)
	b.from = b.to - mesh.Instant(b.days)*24*3600e6
	if err := b.sizes(ctx); err != nil {
		return err
	}
	return b.measure(ctx)
}

func (b *bench) open(ctx context.Context) (err error) {
	if b.db, err = duckdb.Open(b.file()); err != nil {
		return err
	}
	return b.db.Apply(ctx, b.products)
}

// settle waits until what is worth it is folded.
func (b *bench) settle(ctx context.Context) error {
	start := time.Now()
	for {
		left, err := b.number(ctx, "SELECT (SELECT count(*) FROM iot_analytics_internal.readings_hourly_stale) + "+
			"(SELECT count(*) // 262144 FROM iot_analytics_internal.readings_current WHERE recorded_at > until) FROM iot_analytics_internal.readings_hourly_until")
		if err != nil {
			return err
		}
		if left == 0 {
			fmt.Printf("folded what was left in %.1f s\n", time.Since(start).Seconds())
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (b *bench) sizes(ctx context.Context) error {
	readings, err := b.number(ctx, "SELECT count(*) FROM iot_analytics.readings")
	if err != nil {
		return err
	}
	hours, err := b.number(ctx, "SELECT (SELECT count(*) FROM iot_analytics_internal.readings_hourly_kept) + (SELECT count(*) FROM iot_analytics_internal.readings_hourly_recent)")
	if err != nil {
		return err
	}
	blocks := func(table string) (float64, error) {
		n, err := b.number(ctx, "SELECT count(DISTINCT block) FROM (SELECT block_id AS block FROM pragma_storage_info('iot_analytics_internal."+table+"') "+
			"UNION ALL SELECT unnest(additional_block_ids) FROM pragma_storage_info('iot_analytics_internal."+table+"'))")
		return float64(n) * (256 << 10) / 1e6, err
	}
	of, err := blocks("readings_current")
	if err != nil {
		return err
	}
	kept, err := blocks("readings_hourly_kept")
	if err != nil {
		return err
	}
	recent, err := blocks("readings_hourly_recent")
	if err != nil {
		return err
	}
	kept += recent
	info, err := os.Stat(b.file())
	if err != nil {
		return err
	}
	fmt.Printf("%d readings, %.0f MB; %d hours kept, %.0f MB: 1/%.1f of the rows, %.1f%% of the size; file %.0f MB\n",
		readings, of, hours, kept, float64(readings)/float64(hours), 100*kept/of, float64(info.Size())/1e6)
	return nil
}

// number asks for one integer.
func (b *bench) number(ctx context.Context, sql string) (n int64, err error) {
	rows, err := b.db.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	for row, err := range rows.All {
		if err != nil {
			return 0, err
		}
		n, _ = row[0].(int64)
	}
	return n, nil
}

// question is what one page asks.
type question struct {
	tenant, where string
}

func (b *bench) room(random *rand.Rand) question {
	p := b.place(random.IntN(b.devices))
	return question{p.tenant, "building = " + literal.Text(p.building) + " AND room = " + literal.Text(p.room)}
}

func (b *bench) device(random *rand.Rand) question {
	p := b.place(random.IntN(b.devices))
	return question{p.tenant, "device_id = " + literal.Text(p.device)}
}

// hour is a point of a chart.
type hour struct {
	at                time.Time
	mean, least, most float64
}

// ask gives the hours of CO2 for the year, and how long it took to have them.
func (b *bench) ask(ctx context.Context, q question, from string) (hours []hour, took time.Duration, err error) {
	sql := "SELECT hour_start, SUM(value_sum) / SUM(readings) AS mean, MIN(value_min) AS least, MAX(value_max) AS most FROM " + from + " AS h" +
		" WHERE " + q.where + " AND metric = 'co2' AND hour_start >= " + literal.Time(b.from) + " AND hour_start < " + literal.Time(b.to) +
		" GROUP BY hour_start ORDER BY hour_start"
	viewer := access.Viewer{Role: access.Tenant, Tenants: []string{q.tenant}}
	start := time.Now()
	rows, err := access.New(b.db, b.products).Query(ctx, viewer, sql)
	if err != nil {
		return nil, 0, err
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, 0, err
		}
		h := hour{at: row[0].(time.Time)}
		h.mean, _ = row[1].(float64)
		h.least, _ = row[2].(float64)
		h.most, _ = row[3].(float64)
		hours = append(hours, h)
	}
	return hours, time.Since(start), nil
}

const kept = "{iot_analytics.readings_hourly}"

// plain is what the view would be if nothing were kept.
func (b *bench) plain() string {
	for _, p := range b.products {
		for _, v := range p.Views {
			if "{"+v.FullName()+"}" == kept {
				return "(" + strings.ReplaceAll(v.DuckDB, "iot_analytics.readings", "{iot_analytics.readings}") + ")"
			}
		}
	}
	panic("no product has " + kept)
}

func (b *bench) measure(ctx context.Context) error {
	fmt.Printf("%s, %d processors; memory at most until here %s\n", runtime.Version(), runtime.NumCPU(), memory())
	random := rand.New(rand.NewPCG(7, 8))
	var byKept, byPlain, ofDevice []time.Duration
	var keptCPU, plainCPU time.Duration
	points := 0
	for i := range b.asked {
		q, before := b.room(random), cpu()
		got, took, err := b.ask(ctx, q, kept)
		if err != nil {
			return err
		}
		keptCPU += cpu() - before
		byKept, points = append(byKept, took), points+len(got)
		if i%10 == 0 {
			before := cpu()
			want, took, err := b.ask(ctx, q, b.plain())
			if err != nil {
				return err
			}
			plainCPU += cpu() - before
			byPlain = append(byPlain, took)
			if !slices.EqualFunc(got, want, same) {
				return fmt.Errorf("%s: the view answers %d hours, the statement %d, and they differ", q.where, len(got), len(want))
			}
		}
		if _, took, err = b.ask(ctx, b.device(random), kept); err != nil {
			return err
		}
		ofDevice = append(ofDevice, took)
	}
	fmt.Printf("%d points an answer\n", points/b.asked)
	report("kept", byKept)
	report("plain", byPlain)
	fmt.Printf("%-16s %.0f ms of the processors' time a question kept, %.0f ms plain\n", "", perQuestion(keptCPU, byKept), perQuestion(plainCPU, byPlain))
	fmt.Printf("%-16s %.0f× by the median\n", "plain/kept", float64(median(byPlain))/float64(median(byKept)))
	report("of a device", ofDevice)
	fmt.Printf("memory at most until here %s\n", memory())

	appended, took, err := b.whileAppended(ctx, random)
	if err != nil {
		return err
	}
	report("while appended", took)
	fmt.Printf("%-16s %.0f readings a second, %d corrections in all\n", "", appended, b.corrected)
	if err := b.settle(ctx); err != nil {
		return err
	}

	var cold []time.Duration
	for range 15 {
		if err := b.forget(ctx); err != nil {
			return err
		}
		_, took, err := b.ask(ctx, b.room(random), kept)
		if err != nil {
			return err
		}
		cold = append(cold, took)
	}
	report("cold", cold)
	return nil
}

// whileAppended asks while a message of each device comes in every 100 ms, and
// each second 20 readings in a row of one device of the year are corrected.
func (b *bench) whileAppended(ctx context.Context, random *rand.Rand) (rate float64, took []time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var appended atomic.Int64
	var failed error
	var writer sync.WaitGroup
	start := time.Now()
	writer.Go(func() {
		random := rand.New(rand.NewPCG(9, uint64(time.Now().UnixNano())))
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		at, ticks := b.to+step, 0
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			rows := b.message(at, 0, b.devices, 0)
			at += step
			if ticks++; ticks%10 == 0 {
				device, first := random.IntN(b.devices), b.from+mesh.Instant(random.IntN(int((b.to-b.from)/step)-20))*step
				for i := range 20 {
					b.corrected++
					rows = append(rows, b.message(first+mesh.Instant(i)*step, device, device+1, int64(2+ticks))[0])
				}
			}
			for i := 0; i < len(rows); i += batch {
				if failed = b.append(context.WithoutCancel(ctx), fmt.Sprint("live-", start.UnixNano(), "-", appended.Add(int64(len(rows[i:min(i+batch, len(rows))])))), rows[i:min(i+batch, len(rows))]); failed != nil {
					return
				}
			}
		}
	})
	for range b.asked {
		_, d, err := b.ask(ctx, b.room(random), kept)
		if err != nil {
			return 0, nil, err
		}
		took = append(took, d)
		time.Sleep(50 * time.Millisecond)
	}
	rate = float64(appended.Load()) / time.Since(start).Seconds()
	cancel()
	writer.Wait()
	return rate, took, failed
}

// forget opens the file anew, when nothing of it is in memory.
func (b *bench) forget(ctx context.Context) error {
	if err := b.db.Close(); err != nil {
		return err
	}
	if err := b.open(ctx); err != nil {
		return err
	}
	f, err := os.Open(b.file())
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

func same(a, b hour) bool {
	return a.at.Equal(b.at) && math.Abs(a.mean-b.mean) < 1e-9*math.Abs(b.mean) && a.least == b.least && a.most == b.most
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func report(what string, d []time.Duration) {
	d = slices.Sorted(slices.Values(d))
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	fmt.Printf("%-16s p50 %.1f ms, p95 %.1f ms, %.1f–%.1f ms, n = %d\n", what, ms(d[len(d)/2]), ms(d[(len(d)*95+99)/100-1]), ms(d[0]), ms(d[len(d)-1]), len(d))
}

func perQuestion(all time.Duration, asked []time.Duration) float64 {
	return float64(all.Milliseconds()) / float64(len(asked))
}

// cpu is the time that all threads of this process have computed.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memory is the most that this process ever had.
func memory() string {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%.1f GB", float64(u.Maxrss)/1e6)
}
