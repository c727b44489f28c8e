package sheet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/snapshot"
)

// Port is the output port that a source of metadata keeps up to date: a table
// of rows, and beside it rejected_rows, what is wrong with the source.
type Port[R any] struct {
	kind     Kind[R]
	function string

	mu       sync.Mutex
	rows     table[R]
	findings table[mesh.RejectedRow]
}

// NewPort makes the port of kind at address, such as
// http://iot-metadata-port.iot.svc.cluster.local/placements, for the function
// whose events tell of changes.
func NewPort[R any](kind Kind[R], client *http.Client, address, function string) (*Port[R], error) {
	at, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("output port of %s: %w", kind.name, err)
	}
	return &Port[R]{
		kind: kind, function: function,
		rows: table[R]{
			client: client, url: address, key: kind.key, version: kind.version, deleted: kind.deleted,
			decode: func(in *json.Decoder) (row R, err error) { return row, in.Decode(&row) },
		},
		findings: table[mesh.RejectedRow]{
			client: client, url: at.ResolveReference(&url.URL{Path: "rejected_rows"}).String(), decode: decodeFinding,
			key:     func(f *mesh.RejectedRow) string { return place{f.Sheet, f.Row, f.Column}.String() },
			version: func(f *mesh.RejectedRow) *int64 { return &f.Version },
			deleted: func(f *mesh.RejectedRow) *bool { return &f.Deleted },
		},
	}, nil
}

// Rows gives what the port shows, with what was told of and it does not show
// yet.
func (p *Port[R]) Rows(ctx context.Context) ([]R, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rows, _, err := p.rows.read(ctx)
	return rows, err
}

// Lost is a fault where a sheet has no rows any more and the port shows some: that
// is more often a mistake, or somebody who sees nothing, than the end of them
// all. allow is the variable that says that it may be.
func (p *Port[R]) Lost(ctx context.Context, s Sheet[R], allow string) error {
	if len(s.Rows)+len(s.Findings) > 0 {
		return nil
	}
	rows, err := p.Rows(ctx)
	if err == nil && len(rows) > 0 {
		err = Faultf("it has no %s, and there are %d: set %s=true if all of them are to go", p.kind.name, len(rows), allow)
	}
	return err
}

// Changes gives the events of what a sheet says and the port does not show:
// the rows, and the findings, of which those that were put right are deleted.
// Nothing new gives none. What was told of is not told again for a while, until
// the port shows it: who gets the events has to deliver them.
func (p *Port[R]) Changes(ctx context.Context, s Sheet[R]) ([]event.Event, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var changes []R
	if !s.Unreadable {
		stored, last, err := p.rows.read(ctx)
		if err != nil {
			return nil, err
		}
		// What was told and never shown may not have come: there is nothing to delete,
		// and if it comes yet, it is deleted then.
		changes = slices.DeleteFunc(p.kind.Changes(s, stored, last), func(row R) bool {
			return *p.rows.deleted(&row) && !p.rows.shown[p.kind.key(&row)]
		})
	}
	stored, last, err := p.findings.read(ctx)
	if err != nil {
		return nil, err
	}
	found := s.newFindings(stored, last)
	p.rows.told(changes)
	p.findings.told(found)
	told := p.kind.Events(p.function, changes)
	encode := func(rows []mesh.RejectedRow) []byte { return mesh.Encode(mesh.RejectedRows{Rows: rows}) }
	return append(told, events(p.kind.rejectedType, p.function, found, encode, p.findings.key)...), nil
}

// place is the key of a finding.
type place struct {
	sheet  string
	row    int64
	column string
}

func (p place) String() string { return fmt.Sprintf("%s\x00%d\x00%s", p.sheet, p.row, p.column) }

// newFindings gives the findings that are not stored, and those that are and
// hold no more, deleted, in the order of the sheet.
func (s *Sheet[R]) newFindings(stored []mesh.RejectedRow, last int64) []mesh.RejectedRow {
	before := map[place]mesh.RejectedRow{}
	for _, f := range stored {
		before[place{f.Sheet, f.Row, f.Column}] = f
	}
	var changes []mesh.RejectedRow
	for _, f := range s.Findings {
		at := place{f.Sheet, f.Row, f.Column}
		if b, ok := before[at]; !ok || b.Reason != f.Reason || b.Severity != f.Severity {
			changes = append(changes, f)
		}
		delete(before, at)
	}
	for _, f := range before {
		if !s.Unreadable && !(s.Unchecked && f.Severity == mesh.SeverityWarning) {
			f.Deleted = true
			changes = append(changes, f)
		}
	}
	for i := range changes {
		changes[i].Version = last + 1
	}
	slices.SortFunc(changes, func(a, b mesh.RejectedRow) int {
		return cmp.Or(cmp.Compare(a.Sheet, b.Sheet), cmp.Compare(a.Row, b.Row), cmp.Compare(a.Column, b.Column))
	})
	return changes
}

// decodeFinding reads a row of rejected_rows, whose columns have other names
// than the members in an event.
func decodeFinding(in *json.Decoder) (mesh.RejectedRow, error) {
	var row struct {
		Sheet    string        `json:"sheet"`
		Row      int64         `json:"row_number"`
		Column   string        `json:"column_name"`
		Reason   string        `json:"reason"`
		Severity mesh.Severity `json:"severity"`
		Version  int64         `json:"version"`
	}
	err := in.Decode(&row)
	return mesh.RejectedRow{Sheet: row.Sheet, Row: row.Row, Column: row.Column, Reason: row.Reason, Severity: row.Severity, Version: row.Version}, err
}

// table is a table of an output port, and what was told of its rows since.
type table[R any] struct {
	client  *http.Client
	url     string
	decode  func(*json.Decoder) (R, error)
	key     func(*R) string
	version func(*R) *int64
	deleted func(*R) *bool

	last   int64           // the highest version that was told
	at     time.Time       // when
	recent map[string]R    // by key: what the port does not show yet
	shown  map[string]bool // the keys of what it showed last
}

// forgetAfter is how long the port has to show what was told. After that it is
// told again: the event may have been lost.
const forgetAfter = 2 * time.Minute

// read gives the rows and the highest version that is known of.
func (t *table[R]) read(ctx context.Context) (rows []R, last int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read output port %s: %w", t.url, err)
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, 0, function.StatusError(resp)
	}
	var recorded, shown int64
	for name, to := range map[string]*int64{snapshot.VersionHeader: &recorded, snapshot.LastRowHeader: &shown} {
		if *to, err = strconv.ParseInt(resp.Header.Get(name), 10, 64); err != nil {
			return nil, 0, fmt.Errorf("header %s: %w", name, err)
		}
	}
	// What has a later version was made by another writer, who knew what the port
	// showed. Several events may carry one version, so that each row is waited for.
	if shown > t.last || time.Since(t.at) > forgetAfter {
		t.recent = nil
	}
	t.shown = map[string]bool{}
	lines := json.NewDecoder(resp.Body)
	for {
		row, err := t.decode(lines)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("row %d: %w", len(rows)+1, err)
		}
		key := t.key(&row)
		t.shown[key] = true
		if told, ok := t.recent[key]; ok && *t.version(&row) < *t.version(&told) {
			continue
		}
		delete(t.recent, key)
		rows = append(rows, row)
	}
	for _, row := range t.recent {
		if !*t.deleted(&row) {
			rows = append(rows, row)
		}
	}
	return rows, max(recorded, shown, t.last), nil
}

func (t *table[R]) told(changes []R) {
	if len(changes) == 0 {
		return
	}
	if t.recent == nil {
		t.recent = map[string]R{}
	}
	for _, row := range changes {
		t.recent[t.key(&row)] = row
		t.last = *t.version(&row)
	}
	t.at = time.Now()
}
