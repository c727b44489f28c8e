package emulator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/bigquery/storage/apiv1/storagepb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Fault is what may happen to a request.
type Fault int

// The faults.
const (
	Reset       Fault = iota // its connections are reset before it is handled
	Unavailable              // it is answered so, and not handled; as are the next two
	Exhausted
	Aborted // a statement: by a concurrent one
	Lost    // it is handled, and its connections are reset before it is answered
	Slow    // it is handled late
)

func (f Fault) String() string {
	return [...]string{"Reset", "Unavailable", "Exhausted", "Aborted", "Lost", "Slow"}[f]
}

// late is how late a Slow answer comes.
const late = 200 * time.Millisecond

// Faults says which requests meet one. The same seed and the same requests in
// the same order give the same faults.
type Faults struct {
	mu     sync.Mutex
	random *rand.Rand
	next   []Fault
	rate   float64
	kinds  []Fault
	refuse func(row protoreflect.Message) (cause string)
	met    map[Fault]int
	conns  map[net.Conn]struct{} // of the Storage Write API
}

// NewFaults gives no faults yet.
func NewFaults(seed uint64) *Faults {
	return &Faults{random: rand.New(rand.NewPCG(seed, 0)), met: map[Fault]int{}, conns: map[net.Conn]struct{}{}}
}

// Next has the next n requests meet a fault, after those that were said before.
func (f *Faults) Next(kind Fault, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		f.next = append(f.next, kind)
	}
}

// Randomly has a share of the requests meet one of the faults.
func (f *Faults) Randomly(rate float64, kinds ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rate, f.kinds = rate, kinds
}

// Refuse has the rows that cause gives a text for rejected by the Storage Write
// API; "" lets a row through.
func (f *Faults) Refuse(cause func(row protoreflect.Message) string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = cause
}

// Met says how many requests met a fault.
func (f *Faults) Met(kind Fault) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.met[kind]
}

// Behind gives the project as it is seen through faults, until the test ends.
func (e *Emulator) Behind(t testing.TB, f *Faults) *Emulator {
	t.Helper()
	seen := *e
	seen.close = nil
	t.Cleanup(func() {
		if err := seen.Close(); err != nil {
			t.Error(err)
		}
	})
	var err error
	if seen.Storage, err = seen.serveWrites("127.0.0.1", e.Storage, f); err != nil {
		t.Fatal(err)
	}
	seen.Handler = f.handler(e.Handler)
	web := httptest.NewServer(seen.Handler)
	t.Cleanup(web.Close)
	seen.URL = web.URL
	return &seen
}

// meet says what happens to a request.
func (f *Faults) meet() (kind Fault, ok bool) {
	if f == nil {
		return 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case len(f.next) > 0:
		kind, f.next = f.next[0], f.next[1:]
	case f.random.Float64() < f.rate:
		kind = f.kinds[f.random.IntN(len(f.kinds))]
	default:
		return 0, false
	}
	f.met[kind]++
	return kind, true
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// around handles an append request, or does what happens to it instead. An
// error ends the stream of requests.
func (f *Faults) around(ctx context.Context, schema *descriptorpb.DescriptorProto, in *storagepb.AppendRowsRequest,
	handle func() (*storagepb.AppendRowsResponse, error)) (*storagepb.AppendRowsResponse, error) {
	kind, ok := f.meet()
	if !ok || kind == Slow {
		if ok {
			wait(ctx, late)
		}
		if out := f.bad(schema, in); out != nil {
			return out, nil
		}
		return handle()
	}
	switch kind {
	case Unavailable:
		return nil, status.Error(codes.Unavailable, "the service is currently unavailable")
	case Aborted:
		return nil, status.Error(codes.Aborted, "Closing the stream because server is closing")
	case Exhausted:
		return failed(status.New(codes.ResourceExhausted, "Exceeds 'AppendRows throughput' quota")), nil
	case Lost:
		if f.bad(schema, in) == nil {
			if out, err := handle(); err != nil || out.GetError() != nil {
				return out, err
			}
		}
		f.reset()
	default:
		f.reset()
	}
	return nil, status.Error(codes.Unavailable, "nobody hears this")
}

// bad is the answer to a request with rows that are refused; nil: there are
// none.
func (f *Faults) bad(schema *descriptorpb.DescriptorProto, in *storagepb.AppendRowsRequest) *storagepb.AppendRowsResponse {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	refuse := f.refuse
	f.mu.Unlock()
	if refuse == nil {
		return nil
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("row"), MessageType: []*descriptorpb.DescriptorProto{schema}}, nil)
	if err != nil {
		return failed(status.New(codes.InvalidArgument, err.Error()))
	}
	var rows []*storagepb.RowError
	for i, b := range in.GetProtoRows().GetRows().GetSerializedRows() {
		row := dynamicpb.NewMessage(file.Messages().Get(0))
		cause := ""
		if err := proto.Unmarshal(b, row); err != nil {
			cause = err.Error()
		} else {
			cause = refuse(row)
		}
		if cause != "" {
			rows = append(rows, &storagepb.RowError{Index: int64(i), Code: storagepb.RowError_FIELDS_ERROR, Message: cause})
		}
	}
	if rows == nil {
		return nil
	}
	out := failed(status.New(codes.InvalidArgument, "Errors found while processing rows. Please refer to the row_errors field for details."))
	out.RowErrors = rows
	return out
}

// listen remembers the connections of a listener, which reset resets.
func (f *Faults) listen(l net.Listener) net.Listener {
	if f == nil {
		return l
	}
	return &listener{l, f}
}

type listener struct {
	net.Listener
	faults *Faults
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.faults.mu.Lock()
		l.faults.conns[conn] = struct{}{}
		l.faults.mu.Unlock()
	}
	return conn, err
}

func (f *Faults) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.conns {
		abort(conn)
		delete(f.conns, conn)
	}
}

// abort closes a connection so that the other side sees a reset.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// handler is the REST API seen through faults.
func (f *Faults) handler(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, ok := f.meet()
		if !ok {
			api.ServeHTTP(w, r)
			return
		}
		switch kind {
		case Slow:
			wait(r.Context(), late)
			api.ServeHTTP(w, r)
		case Unavailable:
			fail(w, http.StatusServiceUnavailable, "backendError", "Error encountered during execution. Retrying may solve the problem.")
		case Exhausted:
			fail(w, http.StatusForbidden, "rateLimitExceeded", "Exceeded rate limits")
		case Aborted:
			concurrent(w, r)
		case Lost:
			api.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
			hangUp(w)
		default:
			hangUp(w)
		}
	})
}

// concurrent answers a transaction as BigQuery does if another one was ahead,
// and anything else as it does if it is not available.
func concurrent(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	var body struct {
		Query string `json:"query"`
	}
	if json.NewDecoder(bytes.NewReader(text)).Decode(&body) == nil && strings.Contains(body.Query, "BEGIN TRANSACTION") {
		fail(w, http.StatusBadRequest, "invalidQuery", "Transaction is aborted due to concurrent update against table")
		return
	}
	fail(w, http.StatusServiceUnavailable, "backendError", "Error encountered during execution. Retrying may solve the problem.")
}

func hangUp(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(fmt.Sprintf("hijack: %v", err))
	}
	abort(conn)
}
