package sheet

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Grid is the cells of a sheet, wherever it is kept. The first row that is not
// empty names the columns.
type Grid struct {
	Name string // of the sheet in findings
	Rows []Row
	// Zone is whose wall clock times without an offset are of; nil: such times
	// are refused.
	Zone *time.Location
	// Locale is that of the spreadsheet, such as en_US or nl_NL: it tells a day
	// from a month in texts such as 2/3/2026. Empty: not known.
	Locale string
}

// Row is a row of cells. A cell is a string, a float64, a bool, or nil where it
// is empty: what the values of a spreadsheet are. Empty cells at the end may be
// left out.
type Row struct {
	Number int // of the row in the sheet, from 1
	Cells  []any
	Broken string // why it cannot be taken apart; empty: it can
}

// ReadCSV reads the cells of a CSV file, as spreadsheets export it; name is its
// name in findings. A row number is that of the line where the row begins. The
// error is r's.
func ReadCSV(name string, r io.Reader) (Grid, error) {
	grid := Grid{Name: name}
	in := csv.NewReader(r)
	in.FieldsPerRecord = -1 // counted here, so that a row of another length is refused alone
	in.ReuseRecord = true
	header := 0
	for {
		cells, err := in.Read()
		if errors.Is(err, io.EOF) {
			return grid, nil
		}
		if syntax := (*csv.ParseError)(nil); errors.As(err, &syntax) {
			grid.Rows = append(grid.Rows, Row{Number: syntax.StartLine, Broken: syntax.Err.Error()})
			continue
		}
		if err != nil {
			return grid, fmt.Errorf("read %s: %w", name, err)
		}
		line, _ := in.FieldPos(0)
		row := Row{Number: line, Cells: make([]any, len(cells))}
		for i, cell := range cells {
			row.Cells[i] = cell
		}
		if len(grid.Rows) == 0 {
			row.Cells[0] = strings.TrimPrefix(cells[0], "\ufeff")
		}
		switch {
		case row.empty(): // spreadsheets export the empty rows below the last one
			row.Cells = nil
		case header == 0:
			header = len(cells)
		case len(cells) != header:
			row.Broken = fmt.Sprintf("%d cells, the header has %d", len(cells), header)
		}
		grid.Rows = append(grid.Rows, row)
	}
}

func (r *Row) empty() bool {
	for _, value := range r.Cells {
		if s, ok := value.(string); value != nil && (!ok || strings.TrimSpace(s) != "") {
			return false
		}
	}
	return r.Broken == ""
}
