package bigquery_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"cloud.google.com/go/bigquery/storage/apiv1/storagepb"
	"google.golang.org/grpc"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

// The rows are those of a fleet of 1,000 devices with five metrics each, one
// message a minute. An event brings 500 of them; 16 callers append.
const (
	benchRows    = 500
	benchCallers = 16
)

type benchRow struct {
	number int
	id     string
}

var (
	benchMetrics = [...]string{"co2", "temperature", "relative_humidity", "pressure", "battery"}
	benchUnits   = [...]string{"ppm", "Cel", "%", "hPa", "V"}
	benchDevices = func() (names [1000]string) {
		for i := range names {
			names[i] = fmt.Sprintf("office-%04d/bme680", i)
		}
		return names
	}()
)

func (r *benchRow) Cells(dst []warehouse.Cell) []warehouse.Cell {
	observed := noon + mesh.Instant(r.number/5000)*60e6
	metric := r.number % 5
	return append(dst,
		warehouse.String(r.id), warehouse.String("tenant-a"),
		warehouse.String(benchDevices[r.number/5%1000]), warehouse.String(benchMetrics[metric]),
		warehouse.Float(float64(r.number*7919%100000)/100), warehouse.Null, warehouse.Null, warehouse.String(benchUnits[metric]),
		warehouse.Instant(observed), warehouse.Instant(observed+1234567), warehouse.Null, warehouse.Int(0), warehouse.Int(1),
		warehouse.Null, warehouse.String("/telemesh/ingest/http"), warehouse.String(r.id), warehouse.Null)
}

// BenchmarkAppend appends readings, one event an iteration, to DuckDB, to the
// emulator, and to a Storage Write API that acknowledges at once and stores
// nothing: what the client is good for.
func BenchmarkAppend(b *testing.B) {
	b.Run("duckdb", func(b *testing.B) { benchAppend(b, duckdbtest.Open(b), nil) })
	b.Run("emulator", func(b *testing.B) {
		e := emulator.Start(b)
		list := applied(b, e)
		wire := new(atomic.Int64)
		e.Storage = counted(b, e.Storage, wire)
		benchAppend(b, open(b, e, list), wire)
	})
	b.Run("acknowledged", func(b *testing.B) {
		list, err := contract.Load(products.FS)
		if err != nil {
			b.Fatal(err)
		}
		for i := range list {
			for j := range list[i].Tables {
				list[i].Tables[j].MadeFrom = nil // no version is asked for
			}
		}
		wire := new(atomic.Int64)
		w, err := bigquery.Open(b.Context(), bigquery.Config{Project: "p", Location: "EU", Endpoint: "http://127.0.0.1:1",
			Storage: counted(b, acknowledge(b), wire)}, list)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { w.Close() })
		benchAppend(b, w, wire)
	})
}

func benchAppend(b *testing.B, w warehouse.Warehouse, wire *atomic.Int64) {
	batches := make([]warehouse.Batch, b.N)
	for i := range batches {
		batches[i] = batch(readings, fmt.Sprint("e", i))
		for j := range benchRows {
			n := i*benchRows + j
			batches[i].Rows = append(batches[i].Rows, &benchRow{n, mesh.Hash("bench", fmt.Sprint(n))})
		}
	}
	if _, err := w.Append(b.Context(), batch(readings, "first", reading("first", noon, 1))); err != nil {
		b.Fatal(err) // connected, and what is made once is made
	}
	before := int64(0)
	if wire != nil {
		before = wire.Load()
	}
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var all sync.WaitGroup
	for range benchCallers {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(batches)); i = next.Add(1) - 1 {
				if _, err := w.Append(b.Context(), batches[i]); err != nil {
					b.Errorf("Append() = %v", err)
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	rows := float64(b.N * benchRows)
	b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
	if wire != nil {
		b.ReportMetric(float64(wire.Load()-before)/rows, "wire-B/row")
	}
}

// counted forwards connections, and counts the bytes that clients send.
func counted(t testing.TB, to string, sent *atomic.Int64) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			go func() {
				io.Copy(server, io.TeeReader(client, counter{sent}))
				server.Close()
			}()
			go func() {
				io.Copy(client, server)
				client.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

type acknowledger struct {
	storagepb.UnimplementedBigQueryWriteServer
}

// acknowledge serves a Storage Write API that stores nothing.
func acknowledge(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(10_000_000))
	storagepb.RegisterBigQueryWriteServer(server, acknowledger{})
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func (acknowledger) GetWriteStream(_ context.Context, in *storagepb.GetWriteStreamRequest) (*storagepb.WriteStream, error) {
	return &storagepb.WriteStream{Name: in.GetName(), Location: "EU"}, nil
}

func (acknowledger) AppendRows(client storagepb.BigQueryWrite_AppendRowsServer) error {
	for {
		if _, err := client.Recv(); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := client.Send(&storagepb.AppendRowsResponse{}); err != nil {
			return err
		}
	}
}
