// Package bigquery is the warehouse of the cloud.
//
// Rows are appended by the Storage Write API to the default stream of
// <product>_internal.<name>_appended, which takes a row at least once and is
// never changed. The output port and the internal view choose from it when
// they are read (package schema), so what they show depends on the set of rows
// appended and on nothing else.
//
// A table that others are made from is read as a log, whose order has to be
// the same for every reader. Its batches wait in <name>_appended until a
// transaction copies them into <product>_internal.<name>, one after the other
// (record.go).
package bigquery

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/bigquery/storage/managedwriter"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/telemesh/telemesh/internal/contract"
)

var errClosed = errors.New("warehouse is closed")

// Config names the datasets.
type Config struct {
	Project  string
	Location string // of the datasets: EU, US, europe-west4
	// Endpoint and Storage are where the REST API and the Storage Write API are
	// spoken in plain text and without credentials, by an emulator:
	// http://HOST:PORT and HOST:PORT. Empty: Google's.
	Endpoint string
	Storage  string
}

const scheme = "bigquery"

// ParseURL reads bigquery://PROJECT?location=EU, the form that WAREHOUSE_URL
// has; endpoint and storage may be given as well.
func ParseURL(text string) (c Config, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return c, err
	}
	query := u.Query()
	c = Config{Project: u.Host, Location: query.Get("location"), Endpoint: query.Get("endpoint"), Storage: query.Get("storage")}
	for name := range query {
		switch name {
		case "location", "endpoint", "storage":
		default:
			return c, fmt.Errorf("%q: unknown parameter %s; there are location, endpoint and storage", text, name)
		}
	}
	switch {
	case u.Scheme != scheme || c.Project == "" || u.Path != "" && u.Path != "/":
		return c, fmt.Errorf("%q: want bigquery://PROJECT?location=LOCATION", text)
	case (c.Endpoint == "") != (c.Storage == ""):
		return c, fmt.Errorf("%q: endpoint and storage go together", text)
	}
	return c, nil
}

// options for a client of the REST API.
func (c Config) options() []option.ClientOption {
	if c.Endpoint == "" {
		return nil
	}
	return []option.ClientOption{option.WithEndpoint(c.Endpoint), option.WithoutAuthentication()}
}

// NewClient gives a client of the REST API.
func (c Config) NewClient(ctx context.Context) (*bigquery.Client, error) {
	client, err := bigquery.NewClient(ctx, c.Project, c.options()...)
	if err != nil {
		return nil, fmt.Errorf("open BigQuery of project %s: %w", c.Project, err)
	}
	client.Location = c.Location
	return client, nil
}

func (c Config) newWriter(ctx context.Context) (*managedwriter.Client, error) {
	// All tables of a process share connections.
	options := []option.ClientOption{managedwriter.WithMultiplexing(), managedwriter.WithMultiplexPoolLimit(2)}
	if c.Storage != "" {
		conn, err := grpc.NewClient(c.Storage, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		options = append(options, option.WithGRPCConn(conn))
	}
	writer, err := managedwriter.NewClient(ctx, c.Project, options...)
	if err != nil {
		return nil, fmt.Errorf("open the Storage Write API of project %s: %w", c.Project, err)
	}
	return writer, nil
}

// Warehouse is the datasets of one project.
type Warehouse struct {
	config Config
	client *bigquery.Client
	link   *link
	ledger ledger

	mu     sync.RWMutex
	tables map[string]*table // by contract.Table.FullName
	closed bool
	users  sync.WaitGroup // calls that have not returned

	ctx    context.Context // of queries: Close ends them
	cancel context.CancelFunc
}

// Open gives the warehouse of a project, whose tables are those of the
// products; Apply adds more. It connects to nothing before it is used.
func Open(ctx context.Context, c Config, products []contract.Product) (*Warehouse, error) {
	client, err := c.NewClient(ctx)
	if err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	w := &Warehouse{config: c, client: client, link: newLink(ctx, c), tables: map[string]*table{}}
	w.ctx, w.cancel = context.WithCancel(ctx)
	if err := w.know(products); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// know makes the tables of products those that rows can be appended to.
func (w *Warehouse) know(products []contract.Product) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range products {
		for i := range p.Tables {
			t := &p.Tables[i]
			if w.tables[t.FullName()] != nil {
				continue
			}
			made, err := w.newTable(t)
			if err != nil {
				return fmt.Errorf("table %s: %w", t.FullName(), err)
			}
			w.tables[t.FullName()] = made
		}
	}
	return nil
}

// use says that a call has begun; the caller calls w.users.Done at its end.
func (w *Warehouse) use() error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return errClosed
	}
	w.users.Add(1)
	return nil
}

// Close ends queries, and returns when what was appended is stored.
func (w *Warehouse) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	w.users.Wait()
	for _, t := range w.tables {
		t.close()
	}
	return errors.Join(w.link.close(), w.client.Close())
}
