package bigquery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/bigquery/storage/apiv1/storagepb"
	"google.golang.org/api/googleapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// api is the Storage Write API as a test wants it.
type api struct {
	storagepb.UnimplementedBigQueryWriteServer
	answer func(ctx context.Context, rows [][]byte) (*storagepb.AppendRowsResponse, error)

	mu       sync.Mutex
	requests []int // rows of each
}

func (a *api) GetWriteStream(_ context.Context, in *storagepb.GetWriteStreamRequest) (*storagepb.WriteStream, error) {
	return &storagepb.WriteStream{Name: in.GetName(), Location: "EU"}, nil
}

func (a *api) AppendRows(client storagepb.BigQueryWrite_AppendRowsServer) error {
	for {
		in, err := client.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		rows := in.GetProtoRows().GetRows().GetSerializedRows()
		a.mu.Lock()
		a.requests = append(a.requests, len(rows))
		a.mu.Unlock()
		out, err := a.answer(client.Context(), rows)
		if err != nil {
			return err
		}
		if out == nil {
			out = &storagepb.AppendRowsResponse{}
		}
		if err := client.Send(out); err != nil {
			return err
		}
	}
}

func refusal(code codes.Code, rows ...int64) *storagepb.AppendRowsResponse {
	out := &storagepb.AppendRowsResponse{Response: &storagepb.AppendRowsResponse_Error{Error: status.New(code, "test").Proto()}}
	for _, i := range rows {
		out.RowErrors = append(out.RowErrors, &storagepb.RowError{Index: i, Message: "bad"})
	}
	return out
}

// start gives a warehouse whose rows go to a.
func start(t *testing.T, a *api) *Warehouse {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	storagepb.RegisterBigQueryWriteServer(server, a)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	list := tables(t)
	for i := range list {
		list[i].MadeFrom = nil // no version is asked for: there is no REST API
	}
	w, err := Open(t.Context(), Config{Project: "p", Location: "EU", Endpoint: "http://127.0.0.1:1", Storage: listener.Addr().String()},
		[]contract.Product{{Tables: list}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return w
}

func batchOf(id string, n int) warehouse.Batch {
	b := warehouse.Batch{Table: "iot_telemetry.readings", EventSource: "/s", EventID: id}
	for i := range n {
		b.Rows = append(b.Rows, reading(i))
	}
	return b
}

// What waits while requests are under way goes together, and no request has
// more than it may.
func TestWhatWaitsGoesTogether(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{}, 1000)
	a := &api{answer: func(context.Context, [][]byte) (*storagepb.AppendRowsResponse, error) {
		begun <- struct{}{}
		<-release
		return nil, nil
	}}
	w := start(t, a)
	sender := w.tables["iot_telemetry.readings"].sender
	var all sync.WaitGroup
	appendOne := func(i, rows int) {
		all.Go(func() {
			if _, err := w.Append(t.Context(), batchOf(fmt.Sprint(i), rows)); err != nil {
				t.Errorf("Append() = %v", err)
			}
		})
	}
	// The first requests go at once; of a connection the server sees one at a time.
	appendOne(0, 1)
	<-begun
	for i := range 200 {
		appendOne(1+i, 5)
	}
	// All but those of the requests under way wait for the sender.
	for free := int64(maxWaiting - 190*1000); sender.room.TryAcquire(free); runtime.Gosched() {
		sender.room.Release(free)
	}
	close(release)
	all.Wait()
	total := 0
	for _, n := range a.requests {
		total += n
	}
	if total != 1001 || len(a.requests) > 100 {
		t.Errorf("%d requests with %d rows, want far fewer than 201 with 1001", len(a.requests), total)
	}
}

func TestLargeBatchesAreDivided(t *testing.T) {
	var mu sync.Mutex
	stored := 0
	a := &api{answer: func(_ context.Context, rows [][]byte) (*storagepb.AppendRowsResponse, error) {
		size := 0
		for _, row := range rows {
			size += len(row) + rowOverhead
		}
		mu.Lock()
		defer mu.Unlock()
		stored += len(rows)
		if size > maxRequest || len(rows) > maxRows {
			t.Errorf("a request has %d rows of %d bytes, want %d or fewer of %d", len(rows), size, maxRows, maxRequest)
		}
		return nil, nil
	}}
	w := start(t, a)
	const n = 50_000
	if _, err := w.Append(t.Context(), batchOf("large", n)); err != nil {
		t.Fatal(err)
	}
	if stored != n || len(a.requests) < 3 {
		t.Errorf("%d rows in %d requests, want %d in 3 or more", stored, len(a.requests), n)
	}
}

// A request that is answered late is given up, and the rows are sent again over
// another connection: the first one may never be heard of again.
func TestNoAnswer(t *testing.T) {
	first := true
	var mu sync.Mutex
	a := &api{answer: func(ctx context.Context, _ [][]byte) (*storagepb.AppendRowsResponse, error) {
		mu.Lock()
		deaf := first
		first = false
		mu.Unlock()
		if deaf {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, nil
	}}
	w := start(t, a)
	w.link.answerWithin = 100 * time.Millisecond
	if _, err := w.Append(t.Context(), batchOf("1", 1)); err != nil {
		t.Errorf("Append() = %v", err)
	}
	if len(a.requests) < 2 {
		t.Errorf("%d requests, want 2 or more", len(a.requests))
	}
}

// A service that stays away is a passing error, after a time.
func TestPatienceEnds(t *testing.T) {
	a := &api{answer: func(context.Context, [][]byte) (*storagepb.AppendRowsResponse, error) {
		return refusal(codes.ResourceExhausted), nil
	}}
	w := start(t, a)
	w.link.patience = 300 * time.Millisecond
	_, err := w.Append(t.Context(), batchOf("1", 1))
	if err == nil || mesh.IsPermanent(err) || !strings.Contains(err.Error(), "event /s 1") {
		t.Errorf("Append() = %v, want a passing error that names the event", err)
	}
	if len(a.requests) < 2 {
		t.Errorf("%d requests, want several", len(a.requests))
	}
	// It was not stored, and is not remembered.
	a.answer = func(context.Context, [][]byte) (*storagepb.AppendRowsResponse, error) { return nil, nil }
	before := len(a.requests)
	for range 2 {
		if _, err := w.Append(t.Context(), batchOf("1", 1)); err != nil {
			t.Errorf("Append() = %v", err)
		}
	}
	if n := len(a.requests) - before; n != 1 {
		t.Errorf("%d requests for an event that came twice, want 1", n)
	}
}

// Who gives up does not wait, and what is to be stored afterwards is: that event
// too, which is not remembered as stored.
func TestCancelWhileUnderWay(t *testing.T) {
	begun, release := make(chan struct{}, 10), make(chan struct{})
	a := &api{answer: func(context.Context, [][]byte) (*storagepb.AppendRowsResponse, error) {
		begun <- struct{}{}
		<-release
		return nil, nil
	}}
	w := start(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := w.Append(ctx, batchOf("1", 1))
		done <- err
	}()
	<-begun
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Append() = %v, want %v", err, context.Canceled)
	}
	close(release)
	for _, id := range []string{"1", "2"} {
		if _, err := w.Append(t.Context(), batchOf(id, 1)); err != nil {
			t.Errorf("Append() of event %s = %v", id, err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.requests) != 3 {
		t.Errorf("%d requests, want 3", len(a.requests))
	}
}

// One batch that spoils a request does not keep the others of it from being
// stored, and fails alone.
func TestSpoiledRequest(t *testing.T) {
	spoiled := func(row []byte) bool { return strings.Contains(string(row), "spoiled") }
	for _, code := range []codes.Code{codes.Internal, codes.InvalidArgument} {
		a := &api{answer: func(_ context.Context, rows [][]byte) (*storagepb.AppendRowsResponse, error) {
			if slices.ContainsFunc(rows, spoiled) {
				return refusal(code), nil
			}
			return nil, nil
		}}
		w := start(t, a)
		w.link.patience = 3 * time.Second
		s := w.tables["iot_telemetry.readings"].sender
		var group []*piece
		for _, text := range []string{"one", "spoiled", "two"} {
			p := &piece{ctx: t.Context(), rows: rows{[][]byte{[]byte(text)}, []int{0}}, answer: make(chan error, 1)}
			group = append(group, p)
		}
		ctx, cancel := context.WithTimeout(t.Context(), w.link.patience)
		s.deliver(ctx, slices.Clone(group))
		cancel()
		for i, p := range group {
			if err := <-p.answer; (err != nil) != (i == 1) || err != nil && status.Code(err) != code {
				t.Errorf("%v: batch %d: %v", code, i, err)
			}
		}
	}
}

// Row errors that name no row of the request must not end in a circle.
func TestRowErrorsOfNoRow(t *testing.T) {
	a := &api{answer: func(context.Context, [][]byte) (*storagepb.AppendRowsResponse, error) {
		return refusal(codes.InvalidArgument, 7, -1), nil
	}}
	w := start(t, a)
	if _, err := w.Append(t.Context(), batchOf("1", 2)); err == nil || mesh.IsPermanent(err) {
		t.Errorf("Append() = %v, want a passing error", err)
	}
}

func TestPasses(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{status.Error(codes.Unavailable, ""), true},
		{fmt.Errorf("a: %w", status.Error(codes.Aborted, "")), true},
		{status.Error(codes.InvalidArgument, ""), false},
		{status.Error(codes.PermissionDenied, ""), false},
		{status.Error(codes.NotFound, ""), false},
		{io.EOF, true},
		{context.DeadlineExceeded, true},
		{&net.OpError{Op: "read", Err: errors.New("connection reset by peer")}, true},
		{&googleapi.Error{Code: 503}, true},
		{&googleapi.Error{Code: 429}, true},
		{&googleapi.Error{Code: 403, Errors: []googleapi.ErrorItem{{Reason: "rateLimitExceeded"}}}, true},
		{&googleapi.Error{Code: 403, Errors: []googleapi.ErrorItem{{Reason: "accessDenied"}}}, false},
		{&googleapi.Error{Code: 400, Message: "Transaction is aborted due to concurrent update against table p:d.t"}, true},
		{&bigquery.Error{Reason: "jobBackendError"}, true},
		{&bigquery.Error{Reason: "invalidQuery", Message: "Could not serialize access to table p:d.t due to concurrent update"}, true},
		{&bigquery.Error{Reason: "invalidQuery"}, false},
		{errors.New("no row"), false},
	} {
		if got := passes(test.err); got != test.want {
			t.Errorf("passes(%v) = %v, want %v", test.err, got, test.want)
		}
	}
}

func TestLedger(t *testing.T) {
	var l ledger
	hash := func(i int) warehouse.EventHash {
		return (&warehouse.Batch{Table: "t", EventSource: "/s", EventID: fmt.Sprint(i)}).Hash()
	}
	for i := range 3 * generationSize {
		l.add(hash(i))
	}
	if !l.has(hash(3*generationSize-1)) || !l.has(hash(2*generationSize)) || l.has(hash(0)) {
		t.Error("the ledger does not remember the last events alone")
	}
	if n := len(l.young) + len(l.old); n > 2*generationSize {
		t.Errorf("the ledger holds %d events", n)
	}
	if (&warehouse.Batch{Table: "t", EventSource: "ab", EventID: "c"}).Hash() == (&warehouse.Batch{Table: "t", EventSource: "a", EventID: "bc"}).Hash() {
		t.Error("two events have one hash")
	}
}
