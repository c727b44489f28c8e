// Package source reads the placements sheet and the actions logbook at every
// tick of a PingSource and replies what changed: placements.changed,
// placements.rejected, actions.logged and actions.rejected, each only if there
// is something new.
//
// A sheet is written as
//
//	google-sheets:SPREADSHEET_ID                  the first sheet of a Google spreadsheet
//	google-sheets:SPREADSHEET_ID/Sheet name!A:I   one of its sheets, or a range of it
//	https://HOST/placements.csv                   CSV
//	/data/placements.csv                          CSV, a file
//
// A sheet that nobody may read any more, that is gone, or whose header cannot
// be read is a finding about the sheet as a whole (row 0): nothing is known of
// its rows, and what is stored stays. So is one that has lost all its rows, unless
// SHEETS_ALLOW_EMPTY says that it may. A service that does not answer is tried
// again, within the tick for a while, then at the next one. What keeps one sheet
// from being read does not keep the other.
//
// Any other event than a tick is a permanent error. A tick that is delivered
// again is answered with the same events. A later tick does not tell again what
// is on its way; what the output port does not show after some minutes is told
// once more.
package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
	_ "time/tzdata" // an image may have none

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
)

const name = "sheet-source"

// A tick comes each minute. It ends before the next one, whoever does not
// answer; a sheet takes so much of it that the other one can be read as well.
const (
	tickTimeout = 58 * time.Second
	readTimeout = 25 * time.Second
)

// Config is the configuration of the function.
type Config struct {
	Placements string `envconfig:"PLACEMENTS_SHEET"`   // empty: none is read
	Actions    string `envconfig:"ACTIONS_SHEET"`      // empty: none is read
	AllowEmpty bool   `envconfig:"SHEETS_ALLOW_EMPTY"` // a sheet without rows takes out all there are
	TimeZone   string `envconfig:"TIMEZONE"`           // of times without an offset in CSV, such as Europe/Amsterdam; empty: they are refused

	PlacementsPort string `envconfig:"PLACEMENTS_URL" default:"http://iot-metadata-port.iot.svc.cluster.local/placements"`
	ActionsPort    string `envconfig:"ACTIONS_URL" default:"http://iot-actions-port.iot.svc.cluster.local/actions"`
	CustomersPort  string `envconfig:"CUSTOMERS_URL"` // empty: tenants are not compared with customers

	SheetsEndpoint string `envconfig:"SHEETS_ENDPOINT"` // empty: Google's
}

// Start makes the function.
func Start(ports function.Ports) (*function.Function, error) {
	config, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	s, err := newSource(config, ports.Client, ports.Log)
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: s.handle}, nil
}

type source struct {
	log        *slog.Logger
	allowEmpty bool
	placements *feed[mesh.Placement] // nil: none is read
	actions    *feed[mesh.Action]    // nil: none is read
	devices    *sheet.Port[mesh.Placement]
	customers  *sheet.Port[mesh.Customer] // nil: not looked at
	ticks      sheet.Ticks
}

// feed is a sheet on its way to its output port.
type feed[R any] struct {
	kind   sheet.Kind[R]
	reader reader
	port   *sheet.Port[R]
	warn   func(context.Context, *sheet.Sheet[R])
}

// reader reads the cells of a sheet.
type reader interface {
	name() string
	read(ctx context.Context) (sheet.Grid, error)
}

func newSource(config Config, client *http.Client, log *slog.Logger) (_ *source, err error) {
	s := &source{log: log, allowEmpty: config.AllowEmpty}
	var zone *time.Location
	if config.TimeZone != "" {
		if zone, err = time.LoadLocation(config.TimeZone); err != nil {
			return nil, fmt.Errorf("TIMEZONE: %w", err)
		}
	}
	if s.devices, err = sheet.NewPort(sheet.Placements, client, config.PlacementsPort, name); err != nil {
		return nil, fmt.Errorf("PLACEMENTS_URL: %w", err)
	}
	if config.CustomersPort != "" {
		if s.customers, err = sheet.NewPort(sheet.Customers, client, config.CustomersPort, name); err != nil {
			return nil, fmt.Errorf("CUSTOMERS_URL: %w", err)
		}
	}
	open := opener{client: client, zone: zone, endpoint: config.SheetsEndpoint}
	if config.Placements != "" {
		r, err := open.reader(config.Placements)
		if err != nil {
			return nil, fmt.Errorf("PLACEMENTS_SHEET: %w", err)
		}
		s.placements = &feed[mesh.Placement]{sheet.Placements, r, s.devices, s.warnOfTenants}
	}
	if config.Actions != "" {
		r, err := open.reader(config.Actions)
		if err != nil {
			return nil, fmt.Errorf("ACTIONS_SHEET: %w", err)
		}
		port, err := sheet.NewPort(sheet.Actions, client, config.ActionsPort, name)
		if err != nil {
			return nil, fmt.Errorf("ACTIONS_URL: %w", err)
		}
		s.actions = &feed[mesh.Action]{sheet.Actions, r, port, s.warnOfActions}
	}
	return s, nil
}

func (s *source) handle(ctx context.Context, in event.Event) ([]event.Event, error) {
	return s.ticks.Take(in, name, func() ([]event.Event, error) {
		ctx, cancel := context.WithTimeout(ctx, tickTimeout)
		defer cancel()
		placements, failed := changes(ctx, s, s.placements)
		actions, err := changes(ctx, s, s.actions)
		events := append(placements, actions...)
		failed = errors.Join(failed, err)
		if len(events) == 0 && failed != nil {
			return nil, failed
		}
		if failed != nil { // what was read must go out now; the rest waits for the next tick
			s.log.Error("sheet not read", "event.id", in.ID(), "error", failed)
		}
		return events, nil
	})
}

// changes gives the events of what a feed's sheet says anew.
func changes[R any](ctx context.Context, s *source, f *feed[R]) ([]event.Event, error) {
	if f == nil {
		return nil, nil
	}
	read, err := f.read(ctx)
	if err == nil && !s.allowEmpty {
		err = f.port.Lost(ctx, read, "SHEETS_ALLOW_EMPTY")
	}
	switch bad := (sheet.Fault{}); {
	case errors.As(err, &bad):
		s.log.Error("sheet cannot be read: its rows stay as they are", "sheet", f.reader.name(), "error", err)
		read = sheet.Unreadable[R](f.reader.name(), bad)
	case err != nil:
		return nil, fmt.Errorf("read sheet %s: %w", f.reader.name(), err)
	default:
		f.warn(ctx, &read)
	}
	return f.port.Changes(ctx, read)
}

// read gives what the sheet says, for as long as one may take.
func (f *feed[R]) read(ctx context.Context) (sheet.Sheet[R], error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	grid, err := f.reader.read(ctx)
	if err != nil {
		return sheet.Sheet[R]{}, err
	}
	read, err := f.kind.Read(grid)
	if err != nil {
		err = sheet.Fault{Err: err}
	}
	return read, err
}

func (s *source) warnOfTenants(ctx context.Context, read *sheet.Sheet[mesh.Placement]) {
	if s.customers == nil {
		return
	}
	customers, err := s.customers.Rows(ctx)
	if err != nil {
		s.unchecked(&read.Unchecked, read.Name, err)
		return
	}
	if len(customers) > 0 { // else nobody keeps them here
		sheet.WarnOfTenants(read, customers)
	}
}

func (s *source) warnOfActions(ctx context.Context, read *sheet.Sheet[mesh.Action]) {
	placements, err := s.devices.Rows(ctx)
	if err != nil {
		s.unchecked(&read.Unchecked, read.Name, err)
		return
	}
	sheet.WarnOfActions(read, placements)
}

func (s *source) unchecked(mark *bool, name string, err error) {
	*mark = true
	s.log.Warn("sheet not compared with other metadata", "sheet", name, "error", err)
}

// opener makes readers.
type opener struct {
	client   *http.Client
	zone     *time.Location
	endpoint string
	google   *client // made when the first sheet of a Google spreadsheet is opened
}

func (o *opener) reader(at string) (reader, error) {
	of, google := strings.CutPrefix(at, "google-sheets:")
	if m := editPage.FindStringSubmatch(of); m != nil {
		return nil, fmt.Errorf("%q is the page on which a spreadsheet is edited: write google-sheets:%s", at, m[1])
	}
	if google {
		s, err := newSpreadsheet(at, of)
		if err != nil {
			return nil, err
		}
		if o.google == nil {
			if o.google, err = newClient(o.endpoint); err != nil {
				return nil, err
			}
		}
		s.client = o.google
		return s, nil
	}
	if strings.HasPrefix(at, "http://") || strings.HasPrefix(at, "https://") {
		u, err := url.Parse(at)
		if err != nil {
			return nil, err
		}
		return &page{client: o.client, zone: o.zone, url: u}, nil
	}
	return file{at, o.zone}, nil
}

// file is a CSV file.
type file struct {
	path string
	zone *time.Location
}

func (f file) name() string { return f.path }

func (f file) read(ctx context.Context) (sheet.Grid, error) {
	text, err := sheet.ReadFile(ctx, f.path)
	if err != nil {
		return sheet.Grid{}, err
	}
	grid, err := sheet.ReadCSV(f.path, bytes.NewReader(text))
	grid.Zone = f.zone
	return grid, err
}

// page is CSV at a URL. What it was the last time is kept, for as long as the
// server says that it has not changed.
type page struct {
	client *http.Client
	zone   *time.Location
	url    *url.URL
	etag   string
	grid   sheet.Grid
}

// name leaves out what lets who knows it read the sheet.
func (p *page) name() string {
	shown := *p.url
	shown.User, shown.RawQuery, shown.Fragment = nil, "", ""
	return shown.String()
}

func (p *page) read(ctx context.Context) (sheet.Grid, error) {
	text, header, ends, err := p.get(ctx, p.etag)
	if err == nil && text == nil {
		return p.grid, nil
	}
	// An answer that does not say where it ends may have been cut off, as if the
	// rest of its rows had been taken out.
	if err == nil && !ends {
		var again []byte
		if again, header, _, err = p.get(ctx, ""); err == nil && !bytes.Equal(text, again) {
			err = errors.New("its answers do not say where they end, and two in a row differ")
		}
	}
	if err != nil {
		return sheet.Grid{}, err
	}
	grid, err := sheet.ReadCSV(p.name(), bytes.NewReader(text))
	if err != nil {
		return sheet.Grid{}, err
	}
	grid.Zone = p.zone
	p.grid, p.etag = grid, header.Get("ETag")
	return grid, nil
}

// get asks for the page; text is nil where it is still the one with this tag.
func (p *page) get(ctx context.Context, etag string) (text []byte, header http.Header, ends bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url.String(), nil)
	if err != nil {
		return nil, nil, false, err
	}
	req.Header.Set("Accept", "text/csv, */*;q=0.1")
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, nil, false, fmt.Errorf("get: %w", sheet.WithoutURL(err))
	}
	defer resp.Body.Close()
	switch status := resp.StatusCode; {
	case status == http.StatusNotModified && etag != "":
		return nil, nil, true, nil
	case status == http.StatusOK:
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return nil, nil, false, sheet.Faultf("%s: share the sheet with who has the link, or see to the key in its address", resp.Status)
	case status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests:
		return nil, nil, false, sheet.Faultf("%s: see to its address", resp.Status) // the body may repeat the address
	default:
		return nil, nil, false, errors.New(resp.Status)
	}
	// Who must log in first is shown a page where.
	if kind := resp.Header.Get("Content-Type"); strings.HasPrefix(kind, "text/html") {
		return nil, nil, false, sheet.Faultf("%s is no CSV: is the sheet shared with who has the link?", kind)
	}
	text, err = sheet.ReadAll(resp.Body)
	return text, resp.Header, sheet.Ends(resp), err
}
