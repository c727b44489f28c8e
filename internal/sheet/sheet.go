// Package sheet reads the tables that people keep by hand (placements,
// actions, customers) and says what changed since the last time as events.
//
// Where a table is kept ends at Grid: cells, as CSV or a spreadsheet gives them.
// A Kind makes rows of it. A row that cannot be used is refused, with sheet,
// row, column and reason of everything that is wrong with it; the others go on.
// A Port compares what is read with what the output port shows, so reading the
// same sheet again makes no event, and a row that was taken out of the sheet is
// marked deleted. A refused row never deletes what it stands for: see
// Kind.Changes.
package sheet

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Kind is what one kind of sheet holds: its columns and what its rows must
// keep among themselves. The kinds are Placements, Actions and Customers.
type Kind[R any] struct {
	name         string
	eventType    string // of changed rows
	rejectedType string // of findings
	encode       func([]R) []byte
	columns      []column[R]
	ignored      []string // columns an output port has and a person does not fill in
	// check looks at what a row says as a whole; read says whether a cell could
	// be read.
	check func(row R, read func(column string) bool) (column, reason string)

	// A row is known by its key. Rows of one group may clash; those of two
	// groups have nothing to do with each other.
	group   string // the column that names the group
	named   bool   // findings name it: the rows of a list have no numbers that anybody sees
	key     func(*R) string
	clash   func(a, b *R) string // why a cannot be beside b of its group, to be read before "of row 7"; empty: it can
	version func(*R) *int64
	deleted func(*R) *bool
	// gone marks a row deleted, with no more of it than its key and what a row has
	// to have: what it said stands in its earlier versions.
	gone func(*R) R
}

// column is a column of a sheet. An empty cell of one that is not required
// leaves the row as it is.
type column[R any] struct {
	name     string
	required bool
	set      func(*R, cell) error
	get      func(*R) string // the text that set reads back
}

// Placements is the sheet of devices at tenants and places: columns device_id,
// tenant_id, building, floor, room, persons, outside_co2, valid_from, valid_to.
// The interval is [valid_from, valid_to), open where valid_to is empty; two
// intervals of one device must not overlap.
var Placements = Kind[mesh.Placement]{
	name:         "placements",
	eventType:    mesh.PlacementsChanged,
	rejectedType: mesh.PlacementsRejected,
	encode:       func(rows []mesh.Placement) []byte { return mesh.Encode(mesh.Placements{Placements: rows}) },
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
	check: func(p mesh.Placement, read func(string) bool) (string, string) {
		if p.ValidTo != nil && *p.ValidTo <= p.ValidFrom && read("valid_from") {
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
	gone: func(p *mesh.Placement) mesh.Placement {
		return mesh.Placement{DeviceID: p.DeviceID, TenantID: p.TenantID, ValidFrom: p.ValidFrom, Deleted: true}
	},
}

// Actions is the logbook: columns action_id, tenant_id, device_id, building,
// room, action, taken_at. An action is about one device or one room; tenant_id
// may be empty.
var Actions = Kind[mesh.Action]{
	name:         "actions",
	eventType:    mesh.ActionsLogged,
	rejectedType: mesh.ActionsRejected,
	encode:       func(rows []mesh.Action) []byte { return mesh.Encode(mesh.Actions{Actions: rows}) },
	columns: []column[mesh.Action]{
		id("action_id", true, func(a *mesh.Action) *string { return &a.ActionID }),
		id("tenant_id", false, func(a *mesh.Action) *string { return &a.TenantID }),
		id("device_id", false, func(a *mesh.Action) *string { return &a.DeviceID }),
		text("building", false, func(a *mesh.Action) *string { return &a.Building }),
		text("room", false, func(a *mesh.Action) *string { return &a.Room }),
		text("action", true, func(a *mesh.Action) *string { return &a.Action }),
		instant("taken_at", func(a *mesh.Action) *mesh.Instant { return &a.TakenAt }),
	},
	ignored: []string{"recorded_at", "version"},
	check: func(a mesh.Action, read func(string) bool) (string, string) {
		if a.DeviceID == "" && a.Room == "" && read("device_id") && read("room") {
			return "room", "empty, and so is device_id: an action is about a device or a room"
		}
		return "", ""
	},
	group:   "action_id",
	key:     func(a *mesh.Action) string { return a.ActionID },
	clash:   func(a, _ *mesh.Action) string { return fmt.Sprintf("action_id %q is that", a.ActionID) },
	version: func(a *mesh.Action) *int64 { return &a.Version },
	deleted: func(a *mesh.Action) *bool { return &a.Deleted },
	gone: func(a *mesh.Action) mesh.Action {
		return mesh.Action{ActionID: a.ActionID, Action: a.Action, TakenAt: a.TakenAt, Deleted: true}
	},
}

// Customers is the sheet of who the tenants are: columns customer_id, name,
// sector, country.
var Customers = Kind[mesh.Customer]{
	name:         "customers",
	eventType:    mesh.CustomersChanged,
	rejectedType: mesh.CustomersRejected,
	encode:       func(rows []mesh.Customer) []byte { return mesh.Encode(mesh.Customers{Customers: rows}) },
	columns: []column[mesh.Customer]{
		id("customer_id", true, func(c *mesh.Customer) *string { return &c.CustomerID }),
		text("name", true, func(c *mesh.Customer) *string { return &c.Name }),
		text("sector", false, func(c *mesh.Customer) *string { return &c.Sector }),
		text("country", false, func(c *mesh.Customer) *string { return &c.Country }),
	},
	ignored: []string{"version"},
	check:   func(mesh.Customer, func(string) bool) (string, string) { return "", "" },
	group:   "customer_id",
	named:   true,
	key:     func(c *mesh.Customer) string { return c.CustomerID },
	clash:   func(a, _ *mesh.Customer) string { return fmt.Sprintf("customer_id %q is that", a.CustomerID) },
	version: func(c *mesh.Customer) *int64 { return &c.Version },
	deleted: func(c *mesh.Customer) *bool { return &c.Deleted },
	gone: func(c *mesh.Customer) mesh.Customer {
		return mesh.Customer{CustomerID: c.CustomerID, Name: c.Name, Deleted: true}
	},
}

func interval(p *mesh.Placement) string {
	to := "…"
	if p.ValidTo != nil {
		to = p.ValidTo.String()
	}
	return "[" + p.ValidFrom.String() + ", " + to + ")"
}

// Sheet is what one grid says.
type Sheet[R any] struct {
	Name string
	Rows []R // in the order of the grid, without version
	// Findings are what is wrong, in the order of the grid, without version: one
	// for each cell, row as a whole, or (row 0) sheet as a whole. A row with an
	// error is not among Rows.
	Findings []mesh.RejectedRow
	// Unreadable says that nothing is known of the rows: what is stored stays as
	// it is, and so do the findings.
	Unreadable bool
	// Unchecked says that what warnings come from could not be looked up: those
	// that are there stay.
	Unchecked bool

	numbers []int           // of Rows in the grid
	refused map[string]bool // groups of rows that were refused; empty: not known of which
}

// Unreadable is what a sheet says that cannot be read, because of err: that it
// cannot.
func Unreadable[R any](name string, err error) Sheet[R] {
	s := Sheet[R]{Name: strings.ToValidUTF8(name, "\ufffd"), Unreadable: true}
	s.find(0, "", err.Error(), mesh.SeverityError)
	return s
}

// longestReason, in bytes, is enough for what is wrong with a cell, and keeps what
// stands in it from making an event too long.
const longestReason = 2000

// find adds a finding to those there are about the same place.
func (s *Sheet[R]) find(row int, column, reason string, severity mesh.Severity) {
	if len(reason) > longestReason {
		reason = reason[:longestReason] + "…"
	}
	reason = strings.ToValidUTF8(reason, "\ufffd") // another server may have said it
	at, found := slices.BinarySearchFunc(s.Findings, row, func(f mesh.RejectedRow, row int) int { return cmp.Compare(f.Row, int64(row)) })
	for ; found && at < len(s.Findings) && s.Findings[at].Row == int64(row); at++ {
		if f := &s.Findings[at]; f.Column == column {
			if len(f.Reason) < longestReason {
				f.Reason += "; " + reason
			}
			if severity == mesh.SeverityError {
				f.Severity = severity
			}
			return
		}
	}
	s.Findings = slices.Insert(s.Findings, at, mesh.RejectedRow{Sheet: s.Name, Row: int64(row), Column: column, Reason: reason, Severity: severity})
}

// Describe says a finding in one line.
func Describe(f mesh.RejectedRow) string {
	at := f.Sheet
	if f.Row > 0 {
		at += fmt.Sprintf(": row %d", f.Row)
	}
	if f.Column != "" {
		at += fmt.Sprintf(": column %q", f.Column)
	}
	return at + ": " + f.Reason
}

// Read makes rows of a grid. Its first row names the columns, in any order. The
// error is about the sheet as a whole: it has no header, lacks a required
// column, or has one that is not known (a misspelled column would be lost
// silently).
func (k Kind[R]) Read(grid Grid) (Sheet[R], error) {
	sheet := Sheet[R]{Name: strings.ToValidUTF8(grid.Name, "\ufffd"), refused: map[string]bool{}}
	rows := slices.DeleteFunc(slices.Clone(grid.Rows), func(r Row) bool { return r.empty() })
	if len(rows) == 0 {
		return sheet, fmt.Errorf("empty: the first row must name the columns %s", k.names())
	}
	columns, err := k.header(&grid, rows[0])
	if err != nil {
		return sheet, fmt.Errorf("row %d: %w", rows[0].Number, err)
	}
	accepted := map[string][]placed[R]{}
	for _, cells := range rows[1:] {
		row, group, problems := k.row(&grid, columns, cells)
		if k.named && group != "" {
			for i := range problems {
				problems[i].reason = fmt.Sprintf("%s (%s %q)", problems[i].reason, k.group, group)
			}
		}
		if problems == nil {
			if reason := k.clashes(&row, accepted[group]); reason != "" {
				problems = []problem{{"", reason}}
			}
		}
		if problems == nil {
			accepted[group] = append(accepted[group], placed[R]{row, cells.Number})
			sheet.Rows = append(sheet.Rows, row)
			sheet.numbers = append(sheet.numbers, cells.Number)
			continue
		}
		sheet.refused[group] = true
		for _, p := range problems {
			sheet.find(cells.Number, p.column, p.reason, mesh.SeverityError)
		}
	}
	return sheet, nil
}

type placed[R any] struct {
	row    R
	number int
}

// problem is what is wrong with a row.
type problem struct{ column, reason string }

// header finds each named column's place in the kind's table; nil for one that
// is ignored. All that is wrong is told at once.
func (k Kind[R]) header(grid *Grid, row Row) ([]*column[R], error) {
	if row.Broken != "" {
		return nil, errors.New(row.Broken)
	}
	columns := make([]*column[R], len(row.Cells))
	seen := map[string]bool{}
	var wrong, unknown []string
	for i, value := range row.Cells {
		c, ok, err := grid.cell(value)
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		if err != nil || !ok {
			continue
		}
		name := strings.ToLower(c.text)
		at := slices.IndexFunc(k.columns, func(c column[R]) bool { return c.name == name })
		switch {
		case seen[name]:
			wrong = append(wrong, fmt.Sprintf("column %q is there twice", name))
		case at >= 0:
			columns[i] = &k.columns[at]
		case slices.Contains(k.ignored, name):
			columns[i] = &column[R]{}
		default:
			unknown = append(unknown, strconv.Quote(c.text))
		}
		seen[name] = true
	}
	switch len(unknown) {
	case 0:
	case 1:
		wrong = append(wrong, fmt.Sprintf("column %s is not one of %s", unknown[0], k.names()))
	default:
		wrong = append(wrong, fmt.Sprintf("columns %s are not of %s", strings.Join(unknown, ", "), k.names()))
	}
	for _, c := range k.columns {
		if c.required && !seen[c.name] {
			wrong = append(wrong, fmt.Sprintf("no column %q", c.name))
		}
	}
	if wrong != nil {
		return nil, errors.New(strings.Join(wrong, "; "))
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

// row reads the cells of one row; group is empty where it is not known.
func (k Kind[R]) row(grid *Grid, columns []*column[R], cells Row) (row R, group string, problems []problem) {
	if cells.Broken != "" {
		return row, "", []problem{{"", cells.Broken}}
	}
	filled := map[string]bool{}
	for i, value := range cells.Cells {
		c, ok, err := grid.cell(value)
		switch {
		case !ok:
			continue
		case i >= len(columns) || columns[i] == nil:
			problems = append(problems, problem{"", fmt.Sprintf("cell %d, %q, is in a column that the header does not name", i+1, c.text)})
			continue
		case columns[i].set == nil: // ignored
			continue
		case err == nil:
			err = columns[i].set(&row, c)
		}
		filled[columns[i].name] = true
		if err != nil {
			problems = append(problems, problem{columns[i].name, err.Error()})
		}
	}
	for _, c := range k.columns {
		if c.required && !filled[c.name] {
			problems = append(problems, problem{c.name, "empty"})
		}
	}
	read := func(column string) bool {
		return !slices.ContainsFunc(problems, func(p problem) bool { return p.column == column })
	}
	if column, reason := k.check(row, read); reason != "" {
		problems = append(problems, problem{column, reason})
	}
	return row, k.groupOf(&row), problems
}

func (k Kind[R]) groupOf(row *R) string {
	for _, c := range k.columns {
		if c.name == k.group {
			return c.get(row)
		}
	}
	panic("sheet " + k.name + ": no column " + k.group)
}

// clashes says why row cannot stand beside those of its group that came before
// it; empty: it can.
func (k Kind[R]) clashes(row *R, before []placed[R]) string {
	var reasons []string
	for i := range before {
		if reason := k.clash(row, &before[i].row); reason != "" {
			reasons = append(reasons, fmt.Sprintf("%s of row %d", reason, before[i].number))
		}
	}
	return strings.Join(reasons, "; ")
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
