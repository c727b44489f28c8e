package sheet

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
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
// name in findings. Cells are separated by commas, or by semicolons or tabs where
// the header is, or as a first line sep=; says. A row number is that of the line
// where the row begins. The error is r's, or a Fault.
func ReadCSV(name string, r io.Reader) (Grid, error) {
	grid := Grid{Name: name}
	text, err := io.ReadAll(r)
	if err != nil {
		return grid, fmt.Errorf("read %s: %w", name, err)
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if isUTF16(text) {
		return grid, Faultf("it is UTF-16: export the sheet as CSV in UTF-8")
	}
	// Lines that end as on the first computers of Apple.
	if end := bytes.IndexAny(text, "\r\n"); end >= 0 && text[end] == '\r' && !bytes.HasPrefix(text[end:], []byte("\r\n")) {
		text = bytes.ReplaceAll(text, []byte("\r"), []byte("\n"))
	}
	text, comma := separator(text)
	in := csv.NewReader(bytes.NewReader(text))
	in.Comma = comma
	in.FieldsPerRecord = -1 // counted here, so that a row of another length is refused alone
	in.ReuseRecord = true
	header := 0
	for {
		cells, err := in.Read()
		if errors.Is(err, io.EOF) {
			return grid, nil
		}
		if syntax := (*csv.ParseError)(nil); errors.As(err, &syntax) {
			broken := syntax.Err.Error()
			if syntax.Line > syntax.StartLine {
				broken += fmt.Sprintf(": rows %d to %d are taken for one, whose quote is not closed", syntax.StartLine, syntax.Line)
			}
			grid.Rows = append(grid.Rows, Row{Number: syntax.StartLine, Broken: broken})
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

func isUTF16(text []byte) bool {
	return bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}) ||
		len(text) > 1 && (text[0] == 0) != (text[1] == 0) // without a mark
}

// separator gives what separates the cells, and the text without the line that
// may say it; the numbers of the lines stay.
func separator(text []byte) ([]byte, rune) {
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	if of, ok := strings.CutPrefix(strings.ToLower(strings.Trim(string(first), "\" \r")), "sep="); ok {
		switch of {
		case ",", ";", "\t":
			return append([]byte("\n"), rest...), rune(of[0])
		}
	}
	for line := range strings.Lines(string(text)) {
		if strings.Trim(line, ",;\t \r\n") == "" {
			continue
		}
		for _, comma := range ",;\t" {
			in := csv.NewReader(strings.NewReader(line))
			in.Comma = comma
			if cells, err := in.Read(); err == nil && slices.ContainsFunc(cells, isColumn) {
				return text, comma
			}
		}
		break
	}
	return text, ','
}

// isColumn says whether a sheet of any kind has a column of this name.
func isColumn(name string) bool {
	name = strings.ToLower(strings.TrimSpace(name))
	return Placements.has(name) || Actions.has(name) || Customers.has(name)
}

func (k Kind[R]) has(name string) bool {
	return slices.Contains(k.ignored, name) || slices.ContainsFunc(k.columns, func(c column[R]) bool { return c.name == name })
}

func (r *Row) empty() bool {
	for _, value := range r.Cells {
		if s, ok := value.(string); value != nil && (!ok || strings.TrimSpace(s) != "") {
			return false
		}
	}
	return r.Broken == ""
}
