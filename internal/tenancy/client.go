package tenancy

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/snapshot"
)

// TableHeader is a header of assignment-port: it names the table of placements
// that the answer was made of. A table that was made anew has another name, and
// counts its versions anew.
const TableHeader = "Telemesh-Table"

// Client keeps an index of what assignment-port serves. Its methods may be
// called from several goroutines.
type Client struct {
	client   *http.Client
	url      string
	snapshot *snapshot.Snapshot[known]
}

// known is an index and the table that it is of.
type known struct {
	index *Index
	table string
}

// NewClient makes a client of the port whose assignments are at url
// (http://HOST/assignments). The index is loaded whole at first, after that what
// has changed.
func NewClient(client *http.Client, url string, refresh time.Duration, log *slog.Logger) *Client {
	c := &Client{client: client, url: url}
	c.snapshot = snapshot.Of(url, refresh, log, c.load)
	return c
}

// Get gives the index, at most the refresh interval old while the port
// answers.
func (c *Client) Get(ctx context.Context) (*Index, error) {
	k, err := c.snapshot.Get(ctx)
	return k.index, err
}

// Newer gives an index asked for just now: for who misses something in the one
// Get gave.
func (c *Client) Newer(ctx context.Context) (*Index, error) {
	k, err := c.snapshot.Newer(ctx)
	return k.index, err
}

// Fresh gives an index that was asked for after the call began, or an error
// that passes.
func (c *Client) Fresh(ctx context.Context) (*Index, error) {
	k, err := c.snapshot.Fresh(ctx)
	return k.index, err
}

func (c *Client) load(ctx context.Context, last *snapshot.Copy[known]) (*snapshot.Copy[known], error) {
	if last == nil {
		return c.whole(ctx)
	}
	index := last.Value.index
	resp, err := snapshot.Ask(ctx, c.client, c.url+"?since="+strconv.FormatInt(index.Version(), 10), last.ETag)
	if err != nil {
		return nil, err
	}
	if resp == nil {
		return last, nil
	}
	defer resp.Body.Close()
	version, err := snapshot.Version(resp)
	if err != nil {
		return nil, err
	}
	table := resp.Header.Get(TableHeader)
	if table != last.Value.table || version < index.Version() {
		return c.whole(ctx)
	}
	var changed []mesh.Assignment
	if err := decode(resp.Body, func(a *mesh.Assignment) error {
		changed = append(changed, *a)
		changed[len(changed)-1].DeviceID, changed[len(changed)-1].TenantID = strings.Clone(a.DeviceID), strings.Clone(a.TenantID)
		return nil
	}); err != nil {
		return nil, err
	}
	if index, err = index.With(changed, version); err != nil {
		return nil, err
	}
	return &snapshot.Copy[known]{Value: known{index, table}, ETag: resp.Header.Get("ETag")}, nil
}

// whole loads everything.
func (c *Client) whole(ctx context.Context) (*snapshot.Copy[known], error) {
	resp, err := snapshot.Ask(ctx, c.client, c.url, "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	version, err := snapshot.Version(resp)
	if err != nil {
		return nil, err
	}
	index, err := Read(resp.Body, version)
	if err != nil {
		return nil, err
	}
	return &snapshot.Copy[known]{Value: known{index, resp.Header.Get(TableHeader)}, ETag: resp.Header.Get("ETag")}, nil
}
