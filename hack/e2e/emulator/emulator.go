// Package emulator runs the BigQuery emulator inside a test process: the REST
// API and the Storage Write API, for the real clients.
//
// Before both APIs stands what fills what the emulator lacks (rest.go, write.go),
// and before that, if a test wants it, a bad network (faults.go). What it lacks
// beyond that:
//   - access: dataset access entries are kept and given back, but nobody is
//     refused anything and SESSION_USER() is always User. What ports and views
//     show to whom is tested by making User a member of this and that, and by
//     readers' names in the place of SESSION_USER(). That an authorized view may
//     read what its reader may not is tested in a real project alone.
//   - a dry run runs the statement and forgets what it did; it tells errors, but
//     neither bytes nor whether the statement reads.
//   - ROLLBACK and conflicts of transactions: requests run one after the other.
//     What BigQuery says of a conflict is answered by Faults, in the words of its
//     documentation.
//   - GROUP BY and DISTINCT take instants of one second for one.
//   - -0 comes back as 0 from a query.
//   - a row that the Storage Write API cannot decode fails its connection, and
//     gives no row error. Faults.Refuse gives them.
package emulator

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/goccy/bigquery-emulator/server"
	"google.golang.org/api/iterator"

	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
)

// User is what SESSION_USER() is in every query.
const User = "dummy"

const (
	project  = "example-project"
	location = "EU"
)

// Emulator is an emulator with one project; with several it would find a name
// that is given without a project in any of them. A copy whose URL or Storage is
// that of a proxy before it is the same project seen through the proxy.
type Emulator struct {
	Project string
	URL     string       // of the REST API: http://127.0.0.1:PORT
	Storage string       // of the Storage Write API, in plain text: 127.0.0.1:PORT
	Handler http.Handler // what answers at URL

	turns *turns
	close []func() error // in the order of their making
}

// Start starts an emulator with an empty project on loopback addresses. It ends
// with the test.
func Start(t testing.TB) *Emulator {
	t.Helper()
	e, err := Open("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("the emulator ended with %v", err)
		}
	})
	return e
}

// Open starts an emulator with an empty project. It listens on ports of host, on
// all addresses of the machine if that is empty; URL and Storage are those of
// this machine. What it analyses SQL with has a memory of 2 GiB, which all
// emulators of a process share and none gives back: with all the products there is
// room for about 20.
func Open(host string) (_ *Emulator, err error) {
	e := &Emulator{Project: project, turns: new(turns)}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	dir, err := os.MkdirTemp("", "bigquery")
	if err != nil {
		return nil, err
	}
	e.atClose(func() error { return os.RemoveAll(dir) })
	s, err := server.New(server.Storage("file:" + filepath.Join(dir, "bigquery") + "?cache=shared"))
	if err != nil {
		return nil, err
	}
	if err := s.SetProject(project); err != nil {
		return nil, err
	}
	storage := make(chan string, 1)
	s.SetListenCallback(func(_, grpc string) { storage <- grpc })
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(context.Background(), "127.0.0.1:0", "127.0.0.1:0") }()
	var behind string
	select {
	case behind = <-storage:
	case err := <-ended:
		return nil, err
	}
	e.atClose(func() error {
		// Stop waits for streams that clients hold open.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		stopped := make(chan error, 1)
		go func() { stopped <- errors.Join(s.Stop(ctx), <-ended) }()
		select {
		case err := <-stopped:
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return err
		case <-ctx.Done():
			return errors.New("the emulator does not stop: a client was not closed")
		}
	})
	r := newREST(e.turns.handler(s.Handler))
	e.Handler = r
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	web := &httptest.Server{Listener: listener, Config: &http.Server{Handler: r}}
	web.Start()
	e.atClose(func() error {
		web.Close()
		r.stop()
		return nil
	})
	e.URL = "http://" + here(listener)
	if e.Storage, err = e.serveWrites(host, behind, nil); err != nil {
		return nil, err
	}
	return e, nil
}

// Close ends the emulator, when its clients are closed.
func (e *Emulator) Close() error {
	var errs []error
	for _, end := range slices.Backward(e.close) {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

func (e *Emulator) atClose(end func() error) { e.close = append(e.close, end) }

// here is the address of a listener for who is on this machine.
func here(l net.Listener) string {
	address := l.Addr().(*net.TCPAddr)
	if address.IP.IsUnspecified() {
		return fmt.Sprintf("127.0.0.1:%d", address.Port)
	}
	return address.String()
}

// Empty takes all rows out of all tables, which costs a fraction of an emulator
// with the same tables.
func (e *Emulator) Empty(t testing.TB) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	client, err := e.Config().NewClient(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for dataset, err := range all(client.Datasets(ctx).Next) {
		if err != nil {
			t.Fatal(err)
		}
		for table, err := range all(dataset.Tables(ctx).Next) {
			if err != nil {
				t.Fatal(err)
			}
			there, err := table.Metadata(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if there.ViewQuery != "" {
				continue
			}
			if _, err := client.Query("DELETE FROM `" + table.DatasetID + "." + table.TableID + "` WHERE TRUE").Read(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// all gives what an iterator of Google's clients gives.
func all[T any](next func() (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			v, err := next()
			if errors.Is(err, iterator.Done) || !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// Config is what the warehouse needs to reach the project.
func (e *Emulator) Config() bigquery.Config {
	return bigquery.Config{Project: e.Project, Location: location, Endpoint: e.URL, Storage: e.Storage}
}
