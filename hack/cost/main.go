// Command cost says what a data folder would cost in BigQuery: it takes the sizes
// of the rows that are in it, and list prices as flags.
//
//	telemesh simulate --out week
//	telemesh replay --data FOLDER --placements … week/messages.ndjson
//	go run ./hack/cost --data FOLDER
//
// Nothing is asked of Google. What a query reads is worked out from the columns
// that the views name, the days that it asks for and the columns that its tables
// are clustered by; docs/cost.md has the formula.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/products"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// prices in US dollars. They are inputs: https://cloud.google.com/bigquery/pricing
type prices struct {
	write      float64 // Storage Write API, a GiB
	writeFree  float64 // TiB a month
	active     float64 // logical storage, a GiB and month
	query      float64 // on demand, a TiB
	leastMiB   float64 // read of a table at least
	clusterMiB float64 // a partition that is smaller is read whole
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "cost: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var p prices
	data := flag.String("data", "telemesh-data", "data folder whose rows are measured; no telemesh may run on it")
	days := flag.Float64("days", 365, "days over which the readings of a scenario are spread")
	flag.Float64Var(&p.write, "write", 0.025, "price of a GiB written by the Storage Write API")
	flag.Float64Var(&p.writeFree, "write-free", 2, "TiB a month that are written for nothing")
	flag.Float64Var(&p.active, "active", 0.02, "price of a GiB of logical storage a month: active, or long-term")
	flag.Float64Var(&p.query, "query", 6.25, "price of a TiB that queries read on demand")
	flag.Float64Var(&p.leastMiB, "least", 10, "MiB that a query is billed for each table at least")
	flag.Float64Var(&p.clusterMiB, "cluster", 64, "MiB from which on clustering divides a partition")
	flag.Parse()

	list, err := contract.Load(products.FS)
	if err != nil {
		return err
	}
	path := filepath.Join(*data, "warehouse.duckdb")
	if _, err := os.Stat(path); err != nil {
		return err
	}
	db, err := duckdb.Open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	tables, err := measure(ctx, db, list)
	if err != nil {
		return err
	}
	readings := tables["iot_telemetry.readings"]
	joined := tables["iot_analytics.readings"]
	if readings == nil || joined == nil || readings.rows == 0 || joined.rows == 0 {
		return fmt.Errorf("%s has no readings", *data)
	}
	f := fleet{}
	if err := f.read(ctx, db); err != nil {
		return err
	}
	datasets, err := schema.Of("project", list)
	if err != nil {
		return err
	}
	fmt.Printf("%d readings of %d devices and %d metrics.\n", f.readings, f.devices, f.metrics)
	p.written(tables, float64(f.readings))
	views := map[string]contract.View{}
	for _, product := range list {
		for _, v := range product.Views {
			views[v.FullName()] = v
		}
	}
	p.scanned(datasets, views, tables, f, *days)
	p.recorded(tables)
	return nil
}

// row writes a row of a table in Markdown.
func row(cells ...string) { fmt.Println("| " + strings.Join(cells, " | ") + " |") }

func head(cells ...string) {
	fmt.Println()
	row(cells...)
	fmt.Println("| --- |" + strings.Repeat(" ---: |", len(cells)-1))
}

// fleet is what the readings of the folder are of.
type fleet struct {
	readings, devices, metrics int64
	ofMetric                   float64 // share of the readings that are CO2
	perDay                     float64 // readings of a device in a day
}

func (f *fleet) read(ctx context.Context, w warehouse.Warehouse) error {
	rows, err := w.Query(ctx, `SELECT count(*), count(DISTINCT device_id), count(DISTINCT metric), avg(CASE WHEN metric = 'co2' THEN 1.0 ELSE 0.0 END),
		count(*) / count(DISTINCT (device_id, CAST(observed_at AS DATE))) FROM iot_telemetry.readings`)
	if err != nil {
		return err
	}
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		f.readings, f.devices, f.metrics = row[0].(int64), row[1].(int64), row[2].(int64)
		f.ofMetric, f.perDay = row[3].(float64), row[4].(float64)
	}
	return nil
}

// sizes are those of the rows of a table.
type sizes struct {
	table   *contract.Table
	rows    int64
	wire    float64            // bytes a row in the protobuf message of the Storage Write API
	columns map[string]float64 // logical bytes a row, by column of the table that is appended to
	logical float64            // all of them
}

// measure reads all rows of all tables.
func measure(ctx context.Context, w warehouse.Warehouse, list []contract.Product) (map[string]*sizes, error) {
	found := map[string]*sizes{}
	for _, product := range list {
		for i := range product.Tables {
			t := &product.Tables[i]
			s := &sizes{table: t, columns: map[string]float64{}}
			rows, err := w.Query(ctx, "SELECT * FROM "+schema.Internal(t)+"."+t.Name)
			if err != nil {
				return nil, err
			}
			at := map[string]int{}
			for i, c := range rows.Columns {
				at[c.Name] = i
			}
			appended := schema.AppendedColumns(t)
			for row, err := range rows.All {
				if err != nil {
					return nil, err
				}
				s.rows++
				message := 0
				for number, c := range appended {
					cell, ok := any(nil), false
					if i, there := at[c.Name]; there {
						cell, ok = row[i], true
					}
					if !ok {
						cell = made(c)
					}
					logical, wire := sizeOf(c.Type, cell)
					s.columns[c.Name] += float64(logical)
					if cell != nil {
						message += protowire.SizeTag(protowire.Number(number+1)) + wire
					}
				}
				// A row is a field of the message that has the rows.
				s.wire += float64(protowire.SizeTag(1) + protowire.SizeBytes(message))
			}
			for name, bytes := range s.columns {
				s.columns[name] = bytes / float64(s.rows)
				s.logical += s.columns[name]
			}
			s.wire /= float64(max(s.rows, 1))
			found[t.FullName()] = s
		}
	}
	return found, nil
}

// made is a value of a column that BigQuery's tables have besides, at its size: a
// digest takes all 64 bits, a batch has a name of 32 letters.
func made(c contract.Column) any {
	switch c.Type {
	case contract.String:
		return strings.Repeat("x", 32)
	case contract.Timestamp:
		return time.Now()
	}
	return int64(1) << 62
}

// sizeOf gives the bytes that a value is billed for, and those of its field
// behind the tag. https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#data_type_sizes
func sizeOf(kind contract.Type, cell any) (logical, wire int) {
	switch v := cell.(type) {
	case nil:
		return 0, 0
	case string:
		if kind == contract.JSON {
			return len(v), protowire.SizeBytes(len(v))
		}
		return 2 + len(v), protowire.SizeBytes(len(v))
	case bool:
		return 1, 1
	case float64:
		return 8, protowire.SizeFixed64()
	case int64:
		return 8, protowire.SizeVarint(uint64(v))
	case time.Time:
		return 8, protowire.SizeVarint(uint64(v.UnixMicro()))
	}
	panic(fmt.Sprintf("a %T is no cell", cell))
}

func (p prices) written(tables map[string]*sizes, readings float64) {
	head("of a million readings", "rows", "bytes a row, sent", "stored", "MiB sent", "stored", "$ to write", "$ a month to store")
	names := slices.SortedFunc(maps.Keys(tables), func(a, b string) int {
		return cmp.Or(-cmp.Compare(float64(tables[a].rows)*tables[a].logical, float64(tables[b].rows)*tables[b].logical), cmp.Compare(a, b))
	})
	var wire, stored float64
	line := func(name, rows, wirePer, logicalPer string, w, s float64) {
		row(name, rows, wirePer, logicalPer, fmt.Sprintf("%.1f", w/mib), fmt.Sprintf("%.1f", s/mib),
			fmt.Sprintf("%.4f", w/gib*p.write), fmt.Sprintf("%.4f", s/gib*p.active))
	}
	for _, name := range names {
		s := tables[name]
		if s.rows == 0 {
			continue
		}
		n := float64(s.rows) / readings * 1e6
		line("`"+name+"`", fmt.Sprintf("%.0f", n), fmt.Sprintf("%.0f", s.wire), fmt.Sprintf("%.0f", s.logical), n*s.wire, n*s.logical)
		wire, stored = wire+n*s.wire, stored+n*s.logical
	}
	line("all", "", "", "", wire, stored)
	fmt.Printf("\n%.0f million readings a month are written for nothing.\n", p.writeFree*tib/wire)
}

// question is a query of which the cost is worked out.
type question struct {
	name     string
	of       string   // the port or view that it asks
	sql      string   // what it reads of iot_analytics.readings is named in it
	filtered []string // columns that its filters give one value of
	days     float64  // that it asks for; 0: all
}

func (p prices) scanned(datasets []schema.Dataset, views map[string]contract.View, tables map[string]*sizes, f fleet, days float64) {
	joined := tables["iot_analytics.readings"]
	const (
		readings  = "iot_analytics.readings"
		evolution = "iot_analytics.co2_evolution"
		withRows  = "iot_analytics.co2_with_actions"
		timeline  = "iot_analytics.actions_timeline"
		week      = 7
	)
	objects := map[string]schema.Object{}
	for _, d := range datasets {
		for _, o := range d.Objects {
			objects[o.FullName()] = o
		}
	}
	text := func(name string) string { return views[name].SQL }
	// The rows of the port are chosen, and then those are left that the reader may
	// see. What is behind the list of columns is read whichever are asked for.
	_, chosen, _ := strings.Cut(objects[readings].Metadata.ViewQuery, "\nFROM (")
	_, choosing, _ := strings.Cut(chosen, "\nFROM (")
	questions := []question{
		{"`readings`: CO2 of one device", readings, "SELECT observed_at, value", []string{"device_id", "metric"}, week},
		{"`readings`: CO2 of one room by its name", readings, "SELECT observed_at, value, building, room", []string{"metric"}, week},
		{"`readings`: all columns of all", readings, strings.Join(names(joined), " "), nil, week},
		{"`co2_evolution` by `day_start`", evolution, text(evolution), []string{"metric"}, week},
		{"`co2_with_actions` by `day_start`", withRows, text(evolution) + text(withRows), []string{"metric"}, week},
		{"`co2_evolution` by `quarter_start`", evolution, text(evolution), []string{"metric"}, 0},
		{"`actions_timeline`", timeline, text(timeline), []string{"metric"}, 0},
	}
	fmt.Printf("\nTo choose the rows of iot_analytics.readings that count takes %.0f of %.0f bytes a row, two columns without that %.0f.\n",
		bytesOf(joined, choosing), joined.logical, bytesOf(joined, "observed_at value"))
	clusterings := [][]string{joined.table.Clustered, {"tenant_id", "device_id", "metric"}}
	for _, total := range []float64{1e7, 1e9} {
		devices := max(total/days/f.perDay, 1)
		day := total / days * joined.logical
		fmt.Printf("\n%.0f million readings in %.0f days: %.0f devices, %s a day.\n", total/1e6, days, devices, size(day))
		titles := []string{"a refresh", "tables", "bytes a row", "no partitions", "$", "by day", "$"}
		for _, by := range clusterings {
			titles = append(titles, "clustered by "+strings.Join(by, ", "), "$")
		}
		head(titles...)
		for _, q := range questions {
			per := bytesOf(joined, choosing+" "+q.sql)
			whole := total * per
			part, name := whole, q.name+", all days"
			if q.days > 0 {
				part, name = whole*min(q.days/days, 1), fmt.Sprintf("%s, %.0f days", q.name, q.days)
			}
			named := tablesOf(objects, q.of)
			others := 0.0
			for _, o := range named {
				if o.Contract != joined.table {
					others += p.billed(p.other(o, tables, total/float64(f.readings), text(q.of)))
				}
			}
			cells := []string{name, fmt.Sprint(len(named)), fmt.Sprintf("%.0f", per), size(whole), p.dollars(whole, others), size(part), p.dollars(part, others)}
			for _, by := range clusterings {
				read := part * p.share(by, q.filtered, day, f, devices)
				cells = append(cells, size(read), p.dollars(read, others))
			}
			row(cells...)
		}
	}
}

// recorded is what a group of changed rows of an ordered table costs: an UPDATE
// of the row that writers take turns at, and an INSERT that reads that table, the
// rows that wait and the log.
func (p prices) recorded(tables map[string]*sizes) {
	head("a group of changed rows", "bytes a row of the log", "$ with 1,000 rows in the log", "1 million")
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		s := tables[name]
		if !s.table.Ordered || s.rows == 0 {
			continue
		}
		var key float64
		for _, c := range append(s.table.Key, schema.Content) {
			key += s.columns[c]
		}
		least := p.leastMiB * mib
		cost := func(rows float64) string { return fmt.Sprintf("%.5f", (3*least+max(rows*key, least))/tib*p.query) }
		row("`"+name+"`", fmt.Sprintf("%.0f", key), cost(1e3), cost(1e6))
	}
}

// share is how much of a partition is read of a table that is clustered by some
// columns: blocks are found by the leading ones that the query has one value of.
// What is smaller than a block is read whole.
func (p prices) share(clustered, filtered []string, partition float64, f fleet, devices float64) float64 {
	share := 1.0
	for _, column := range clustered {
		if !slices.Contains(filtered, column) {
			break
		}
		switch column {
		case "metric":
			share *= f.ofMetric
		case "device_id":
			share /= devices
		}
	}
	return min(max(share, p.clusterMiB*mib/partition), 1)
}

// billed is what is billed of a table of which a query reads some bytes.
func (p prices) billed(bytes float64) float64 { return max(bytes, p.leastMiB*mib) }

// dollars is what a query costs that reads some bytes of one table, and of others
// what is billed for them.
func (p prices) dollars(bytes, others float64) string {
	return fmt.Sprintf("%.4f", (p.billed(bytes)+others)/tib*p.query)
}

// other is what a query reads of a table that grows as the readings do, times
// those that were measured: the key, what the rows are chosen by and the columns
// that the query names, of all days. What has no rows of a contract is small.
func (p prices) other(o schema.Object, tables map[string]*sizes, times float64, sql string) float64 {
	if o.Contract == nil || tables[o.Contract.FullName()] == nil {
		return 0
	}
	s := tables[o.Contract.FullName()]
	return float64(s.rows) * times * bytesOf(s, sql+" "+strings.Join(s.table.Key, " ")+" "+schema.Content)
}

// tablesOf gives the tables that a query of a table or view names, itself or by
// the views that it reads.
func tablesOf(objects map[string]schema.Object, name string) []schema.Object {
	tables := map[string]schema.Object{}
	var follow func(name string)
	follow = func(name string) {
		o := objects[name]
		if o.Metadata.ViewQuery == "" {
			tables[name] = o
		}
		for _, read := range o.Reads {
			follow(read)
		}
	}
	follow(name)
	return slices.Collect(maps.Values(tables))
}

func size(bytes float64) string {
	switch {
	case bytes >= gib:
		return fmt.Sprintf("%.1f GiB", bytes/gib)
	case bytes >= mib:
		return fmt.Sprintf("%.1f MiB", bytes/mib)
	}
	return fmt.Sprintf("%.0f KiB", bytes/kib)
}

var word = regexp.MustCompile(`[a-z_0-9]+`)

// bytesOf is the size of the columns that a statement names.
func bytesOf(s *sizes, sql string) (bytes float64) {
	words := word.FindAllString(sql, -1)
	for name, size := range s.columns {
		if slices.Contains(words, name) {
			bytes += size
		}
	}
	return bytes
}

func names(s *sizes) (names []string) {
	for _, c := range s.table.Columns {
		names = append(names, c.Name)
	}
	return names
}
