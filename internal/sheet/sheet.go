// Package sheet reads the tables that people keep by hand (placements,
// actions, customers; CSV, as a spreadsheet exports it) and says what changed
// since the last time as events.
//
// A row that cannot be used is refused, with file, row, column and reason; the
// others go on. What is read is compared with the rows stored already, so
// reading the same sheet again makes no event, and a row that was taken out of
// the sheet is marked deleted. A refused row never deletes what it stands for:
// see Kind.Changes.
package sheet

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Kind is what one kind of sheet holds: its columns and what its rows must
// keep among themselves. The kinds are Placements, Actions and Customers.
type Kind[R any] struct {
	name      string
	eventType string
	encode    func([]R) []byte
	columns   []column[R]
	ignored   []string // columns an output port has and a person does not fill in
	check     func(R) (column, reason string)

	// A row is known by its key. Rows of one group may clash; those of two
	// groups have nothing to do with each other.
	group   string // the column that names the group
	key     func(*R) string
	clash   func(a, b *R) string // why a cannot be beside b of its group, to be read before "of row 7"; empty: it can
	version func(*R) *int64
	deleted func(*R) *bool
}

// column is a column of a sheet. An empty cell of one that is not required
// leaves the row as it is.
type column[R any] struct {
	name     string
	required bool
	set      func(*R, string) error
	get      func(*R) string // the cell that set reads back
}

// Placements is the sheet of devices at tenants and places: columns device_id,
// tenant_id, building, floor, room, persons, outside_co2, valid_from, valid_to.
// The interval is [valid_from, valid_to), open where valid_to is empty; two
// intervals of one device must not overlap.
var Placements = Kind[mesh.Placement]{
	name:      "placements",
	eventType: mesh.PlacementsChanged,
	encode:    func(rows []mesh.Placement) []byte { return mesh.Encode(mesh.Placements{Placements: rows}) },
	columns: []column[mesh.Placement]{
		id("device_id", true, func(p *mesh.Placement) *string { return &p.DeviceID }),
		id("tenant_id", true, func(p *mesh.Placement) *string { return &p.TenantID }),
		text("building", false, func(p *mesh.Placement) *string { return &p.Building }),
		text("floor", false, func(p *mesh.Placement) *string { return &p.Floor }),
		text("room", false, func(p *mesh.Placement) *string { return &p.Room }),
		optional("persons", parseCount, formatInt, func(p *mesh.Placement) **int64 { return &p.Persons }),
		optional("outside_co2", parseConcentration, formatFloat, func(p *mesh.Placement) **float64 { return &p.OutsideCO2 }),
		instant("valid_from", func(p *mesh.Placement) *mesh.Instant { return &p.ValidFrom }),
		optional("valid_to", parseInstant, mesh.Instant.String, func(p *mesh.Placement) **mesh.Instant { return &p.ValidTo }),
	},
	ignored: []string{"version"},
	check: func(p mesh.Placement) (string, string) {
		if p.ValidTo != nil && *p.ValidTo <= p.ValidFrom {
			return "valid_to", fmt.Sprintf("%s is not after valid_from %s", *p.ValidTo, p.ValidFrom)
		}
		return "", ""
	},
	group: "device_id",
	key:   func(p *mesh.Placement) string { return p.DeviceID + "\x00" + p.ValidFrom.String() },
	clash: func(a, b *mesh.Placement) string {
		if (a.ValidTo == nil || b.ValidFrom < *a.ValidTo) && (b.ValidTo == nil || a.ValidFrom < *b.ValidTo) {
			return fmt.Sprintf("%s of device %q overlaps %s", interval(a), a.DeviceID, interval(b))
		}
		return ""
	},
	version: func(p *mesh.Placement) *int64 { return &p.Version },
	deleted: func(p *mesh.Placement) *bool { return &p.Deleted },
}

// Actions is the logbook: columns action_id, tenant_id, device_id, building,
// room, action, taken_at. An action is about one device or one room.
var Actions = Kind[mesh.Action]{
	name:      "actions",
	eventType: mesh.ActionsLogged,
	encode:    func(rows []mesh.Action) []byte { return mesh.Encode(mesh.Actions{Actions: rows}) },
	columns: []column[mesh.Action]{
		id("action_id", true, func(a *mesh.Action) *string { return &a.ActionID }),
		id("tenant_id", true, func(a *mesh.Action) *string { return &a.TenantID }),
		id("device_id", false, func(a *mesh.Action) *string { return &a.DeviceID }),
		text("building", false, func(a *mesh.Action) *string { return &a.Building }),
		text("room", false, func(a *mesh.Action) *string { return &a.Room }),
		text("action", true, func(a *mesh.Action) *string { return &a.Action }),
		instant("taken_at", func(a *mesh.Action) *mesh.Instant { return &a.TakenAt }),
	},
	ignored: []string{"recorded_at", "version"},
	check: func(a mesh.Action) (string, string) {
		if a.DeviceID == "" && a.Room == "" {
			return "room", "empty, and so is device_id: an action is about a device or a room"
		}
		return "", ""
	},
	group:   "action_id",
	key:     func(a *mesh.Action) string { return a.ActionID },
	clash:   func(a, _ *mesh.Action) string { return fmt.Sprintf("action_id %q is that", a.ActionID) },
	version: func(a *mesh.Action) *int64 { return &a.Version },
	deleted: func(a *mesh.Action) *bool { return &a.Deleted },
}

// Customers is the sheet of who the tenants are: columns customer_id, name,
// sector, country.
var Customers = Kind[mesh.Customer]{
	name:      "customers",
	eventType: mesh.CustomersChanged,
	encode:    func(rows []mesh.Customer) []byte { return mesh.Encode(mesh.Customers{Customers: rows}) },
	columns: []column[mesh.Customer]{
		id("customer_id", true, func(c *mesh.Customer) *string { return &c.CustomerID }),
		text("name", true, func(c *mesh.Customer) *string { return &c.Name }),
		text("sector", false, func(c *mesh.Customer) *string { return &c.Sector }),
		text("country", false, func(c *mesh.Customer) *string { return &c.Country }),
	},
	ignored: []string{"version"},
	check:   func(mesh.Customer) (string, string) { return "", "" },
	group:   "customer_id",
	key:     func(c *mesh.Customer) string { return c.CustomerID },
	clash:   func(a, _ *mesh.Customer) string { return fmt.Sprintf("customer_id %q is that", a.CustomerID) },
	version: func(c *mesh.Customer) *int64 { return &c.Version },
	deleted: func(c *mesh.Customer) *bool { return &c.Deleted },
}

func interval(p *mesh.Placement) string {
	to := "…"
	if p.ValidTo != nil {
		to = p.ValidTo.String()
	}
	return "[" + p.ValidFrom.String() + ", " + to + ")"
}

// Sheet is what one file says.
type Sheet[R any] struct {
	Rows    []R        // in the order of the file, without version
	Refused []RowError // in the order of the file
}

// RowError is a row that was refused.
type RowError struct {
	File   string
	Row    int    // line of the file where the row begins; the header is in line 1
	Column string // empty: the row as a whole
	Reason string

	group string // cell of the kind's group column; empty: not known
}

func (e RowError) Error() string {
	at := fmt.Sprintf("%s: row %d", e.File, e.Row)
	if e.Column != "" {
		at += fmt.Sprintf(": column %q", e.Column)
	}
	return at + ": " + e.Reason
}

// Read reads a sheet from r; file is its name in errors. The first row names
// the columns, in any order. The error is about the file as a whole: it has no
// header, lacks a required column, has one that is not known (a misspelled
// column would be lost silently), or r fails.
func (k Kind[R]) Read(file string, r io.Reader) (Sheet[R], error) {
	var sheet Sheet[R]
	in := csv.NewReader(r)
	in.FieldsPerRecord = -1 // counted here, so that a row of another length is refused alone
	in.ReuseRecord = true
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return sheet, fmt.Errorf("%s: empty: the first row must name the columns %s", file, k.names())
	}
	if err != nil {
		return sheet, fmt.Errorf("%s: header: %w", file, err)
	}
	columns, err := k.header(header)
	if err != nil {
		return sheet, fmt.Errorf("%s: row 1: %w", file, err)
	}
	accepted := map[string][]placed[R]{}
	for {
		cells, err := in.Read()
		if errors.Is(err, io.EOF) {
			return sheet, nil
		}
		if syntax := (*csv.ParseError)(nil); errors.As(err, &syntax) {
			sheet.Refused = append(sheet.Refused, RowError{File: file, Row: syntax.StartLine, Reason: syntax.Err.Error()})
			continue
		}
		if err != nil {
			return sheet, fmt.Errorf("read %s: %w", file, err)
		}
		line, _ := in.FieldPos(0)
		if !slices.ContainsFunc(cells, func(cell string) bool { return strings.TrimSpace(cell) != "" }) {
			continue // spreadsheets export the empty rows below the last one
		}
		row, refused := k.row(columns, cells)
		if refused == nil {
			group := k.groupOf(&row)
			if refused = k.clashes(&row, accepted[group]); refused == nil {
				accepted[group] = append(accepted[group], placed[R]{row, line})
				sheet.Rows = append(sheet.Rows, row)
				continue
			}
			refused.group = group
		}
		refused.File, refused.Row = file, line
		sheet.Refused = append(sheet.Refused, *refused)
	}
}

type placed[R any] struct {
	row  R
	line int
}

// header finds each named column's place in the kind's table; nil for one that
// is ignored.
func (k Kind[R]) header(names []string) ([]*column[R], error) {
	columns := make([]*column[R], len(names))
	seen := map[string]bool{}
	for i, name := range names {
		if i == 0 {
			name = strings.TrimPrefix(name, "\ufeff")
		}
		name = strings.ToLower(strings.TrimSpace(name))
		if seen[name] {
			return nil, fmt.Errorf("column %q is there twice", name)
		}
		seen[name] = true
		at := slices.IndexFunc(k.columns, func(c column[R]) bool { return c.name == name })
		switch {
		case at >= 0:
			columns[i] = &k.columns[at]
		case !slices.Contains(k.ignored, name):
			return nil, fmt.Errorf("column %q is not one of %s", name, k.names())
		}
	}
	for _, c := range k.columns {
		if c.required && !seen[c.name] {
			return nil, fmt.Errorf("no column %q", c.name)
		}
	}
	return columns, nil
}

func (k Kind[R]) names() string {
	var names []string
	for _, c := range k.columns {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}

// row reads the cells of one row.
func (k Kind[R]) row(columns []*column[R], cells []string) (row R, refused *RowError) {
	if len(cells) != len(columns) {
		return row, &RowError{Reason: fmt.Sprintf("%d cells, the header has %d", len(cells), len(columns))}
	}
	for i, c := range columns {
		if c == nil {
			continue
		}
		cell := strings.TrimSpace(cells[i])
		var err error
		switch {
		case cell != "":
			err = c.set(&row, cell)
		case c.required:
			err = errors.New("empty")
		}
		if err != nil && refused == nil {
			refused = &RowError{Column: c.name, Reason: err.Error()}
		}
	}
	if refused == nil {
		if column, reason := k.check(row); reason != "" {
			refused = &RowError{Column: column, Reason: reason}
		}
	}
	if refused != nil {
		refused.group = k.groupOf(&row)
	}
	return row, refused
}

func (k Kind[R]) groupOf(row *R) string {
	for _, c := range k.columns {
		if c.name == k.group {
			return c.get(row)
		}
	}
	panic("sheet " + k.name + ": no column " + k.group)
}

// clashes refuses row if it cannot stand beside those of its group that came
// before it.
func (k Kind[R]) clashes(row *R, before []placed[R]) *RowError {
	for i := range before {
		if reason := k.clash(row, &before[i].row); reason != "" {
			return &RowError{Reason: fmt.Sprintf("%s of row %d", reason, before[i].line)}
		}
	}
	return nil
}

// Write writes rows as a sheet that Read reads back.
func (k Kind[R]) Write(w io.Writer, rows []R) error {
	out := csv.NewWriter(w)
	cells := make([]string, len(k.columns))
	for i, c := range k.columns {
		cells[i] = c.name
	}
	err := out.Write(cells)
	for i := range rows {
		if err != nil {
			break
		}
		for j, c := range k.columns {
			cells[j] = c.get(&rows[i])
		}
		err = out.Write(cells)
	}
	out.Flush()
	if err = errors.Join(err, out.Error()); err != nil {
		return fmt.Errorf("write %s: %w", k.name, err)
	}
	return nil
}
