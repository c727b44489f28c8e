package device

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/telemesh/telemesh/internal/mesh"
)

// csvRows reads tables of text, RFC 4180, with a header
// (https://www.rfc-editor.org/rfc/rfc4180). It is recognized by its media types
// and by a first line of names, one of them that of a device or of a time, which
// is followed by a line of as many cells. What separates them, comma, semicolon
// or tab, is what gives the first lines the same number of cells.
var csvRows = reader{
	format: "csv",
	media:  []string{"text/csv", "text/tab-separated-values"},
	looks: func(payload []byte) bool {
		if bytes.IndexByte(payload, '\n') < 0 { // a single value of a topic, mostly
			return false
		}
		h, err := csvHeader(payload, ",;\t")
		return err == nil && h.rows > 0 && h.placed()
	},
	raw: (*Parser).readCSV,
}

// csvProbed is how many rows have to have as many cells as the header for a
// separator to be the right one.
const csvProbed = 10

// csvTable is what the header of a table says.
type csvTable struct {
	comma rune
	from  int // where the table begins, behind a byte order mark
	rows  int // how many rows were probed, at most csvProbed

	// Columns; -1: none.
	device, date, time  int
	metric, value, unit int // of long rows: all of them have a metric and a value

	names []string // of the columns
	units []string // that names have behind them, by UCUM code
}

// csvRoles are the columns of long rows, by folded name.
var csvRoles = map[string]func(*csvTable) *int{
	"metric":    func(t *csvTable) *int { return &t.metric },
	"property":  func(t *csvTable) *int { return &t.metric },
	"parameter": func(t *csvTable) *int { return &t.metric },
	"value":     func(t *csvTable) *int { return &t.value },
	"unit":      func(t *csvTable) *int { return &t.unit },
	"date":      func(t *csvTable) *int { return &t.date },
}

// csvHeader reads the header, separated by one of commas.
func csvHeader(payload []byte, commas string) (*csvTable, error) {
	from := len(payload) - len(bytes.TrimPrefix(payload, byteOrderMark))
	var found *csvTable
	var cause error
	for _, comma := range commas {
		rows := csvReader(payload[from:], comma)
		cells, err := rows.Read()
		if err != nil || len(cells) < 2 {
			continue
		}
		t := &csvTable{comma: comma, from: from, device: -1, date: -1, time: -1, metric: -1, value: -1, unit: -1}
		if !t.header(cells) {
			continue
		}
		row := 0
		for ; t.rows < csvProbed; t.rows++ {
			row = from + int(rows.InputOffset())
			if _, err = rows.Read(); err != nil {
				break
			}
		}
		switch {
		case err != nil && err != io.EOF:
			cause = cmp.Or(cause, csvFault(row, err))
		case found == nil || t.placed() && !found.placed():
			found = t
		case t.placed() || !found.placed():
			return nil, fault(from, "the first lines may be separated by %q or by %q", found.comma, comma)
		}
	}
	if found == nil {
		return nil, cmp.Or(cause, fault(from, "no header: the first line has to name at least two columns, in at most %d bytes each", maxName))
	}
	return found, nil
}

func csvReader(text []byte, comma rune) *csv.Reader {
	rows := csv.NewReader(bytes.NewReader(text))
	rows.Comma, rows.ReuseRecord = comma, true
	rows.TrimLeadingSpace = comma != '\t' // which is a space, too
	return rows
}

// placed says whether a column is that of a device or of a time.
func (t *csvTable) placed() bool { return t.device >= 0 || t.time >= 0 }

// header takes the names of the columns; false: that is no header.
func (t *csvTable) header(cells []string) bool {
	ranks := [2]int{}
	named := 0
	for i, cell := range cells {
		cell = strings.TrimSpace(cell)
		if cell != "" {
			named++
		}
		if len(cell) > maxName || isCSVNumber(cell) || strings.ContainsFunc(cell, func(r rune) bool { return r < ' ' }) {
			return false
		}
		name, unit := splitUnit(cell)
		t.names, t.units = append(t.names, strings.Clone(name)), append(t.units, unit)
		folded := fold([]byte(cell))
		switch r := roles[folded]; {
		case r.of == ofDevice && (t.device < 0 || r.rank < ranks[0]):
			t.device, ranks[0] = i, r.rank
		case r.of == ofTime && (t.time < 0 || r.rank < ranks[1]):
			t.time, ranks[1] = i, r.rank
		}
		if role := csvRoles[folded]; role != nil {
			if column := role(t); *column < 0 {
				*column = i
			}
		}
	}
	if t.metric < 0 || t.value < 0 {
		t.metric, t.value, t.unit = -1, -1, -1
	}
	if t.time < 0 {
		t.date = -1
	}
	return named >= 2
}

// splitUnit takes a known unit off the name of a column: Temperature [°C].
func splitUnit(column string) (name, unit string) {
	for _, brackets := range [...]string{"[]", "()"} {
		inner, closed := strings.CutSuffix(column, brackets[1:])
		name, unit, open := strings.Cut(inner, brackets[:1])
		name, unit = strings.TrimSpace(name), ucum(strings.TrimSpace(unit))
		if closed && open && name != "" && columnUnits[unit] {
			return name, unit
		}
	}
	return column, ""
}

// readCSV reads a table. Its rows are wide, each column a metric, or long: of a
// column metric, property or parameter, a column value and perhaps a column
// unit, one metric each; the other columns of long rows are attributes. Device
// and time stand in columns named as in plain JSON; a column date is put before
// a time that has none. Without a device column all is the transport's. A column may have
// its unit behind its name, in brackets.
//
// A wide row is an object, and so are the long rows of one device and time that
// follow each other, up to one that has a metric again.
//
// A cell is a number as JSON writes it, or with a + before it, true or false in
// any case, or a text. An empty cell is no value; null, NA and NaN are skipped.
// Where semicolons separate, a comma in a number is a decimal comma; rows that
// have some of them and some decimal points are rejected.
func (p *Parser) readCSV() (isJSON bool, err error) {
	payload := p.m.Payload
	if !utf8.Valid(payload) {
		return false, errors.New("not UTF-8")
	}
	commas := ",;\t"
	if media, _, _ := mediaOf(p.m.ContentType); media == "text/tab-separated-values" {
		commas = "\t"
	}
	t, err := csvHeader(payload, commas)
	if err != nil {
		return false, err
	}
	p.due++
	rows := csvReader(payload[t.from:], t.comma)
	if _, err := rows.Read(); err != nil {
		return false, csvFault(t.from, err)
	}
	reading := csvReading{csvTable: t}
	for {
		from := t.from + int(rows.InputOffset())
		from += len(payload[from:]) - len(bytes.TrimLeft(payload[from:], "\r\n"))
		cells, err := rows.Read()
		switch {
		case err == io.EOF:
			p.finish()
			return false, nil
		case err != nil:
			return false, csvFault(from, err)
		}
		if err := reading.row(p, cells); err != nil {
			line, _ := rows.FieldPos(0)
			return false, fault(from, "line %d: %w", line, err)
		}
	}
}

// csvFault says that a row cannot be read.
func csvFault(from int, err error) error {
	if syntax := (*csv.ParseError)(nil); errors.As(err, &syntax) {
		err = fmt.Errorf("line %d: %w", syntax.Line, syntax.Err)
	}
	return fault(from, "%w", err)
}

// csvReading is the table that is read.
type csvReading struct {
	*csvTable
	object  at     // of the readings since begin
	extra   string // and what of its row is attributes
	begun   bool
	decimal byte // how the numbers that have a fraction are written; 0: none has
}

// row reads a row.
func (t *csvReading) row(p *Parser, cells []string) error {
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	if err := t.place(p, cells); err != nil {
		return err
	}
	if t.metric >= 0 {
		unit := ""
		if t.unit >= 0 {
			unit = ucum(cells[t.unit])
		}
		if len(unit) > maxName {
			return fmt.Errorf("the unit %s has %d bytes, at most %d are read", quote(unit), len(unit), maxName)
		}
		return t.cell(p, cells[t.metric], unit, cells[t.value])
	}
	for i, cell := range cells {
		if i == t.device || i == t.time || i == t.date {
			continue
		}
		if err := t.cell(p, t.names[i], t.units[i], cell); err != nil {
			return err
		}
	}
	return nil
}

// place takes the device and the time of a row, and begins an object if it is
// not part of that of the row before.
func (t *csvReading) place(p *Parser, cells []string) error {
	device := ""
	if t.device >= 0 {
		device = p.text([]byte(cells[t.device]))
	}
	if err := p.device(device); err != nil {
		return err
	}
	if err := t.timed(p, cells); err != nil {
		return err
	}
	extra := ""
	if t.metric >= 0 {
		for i, cell := range cells {
			if t.attribute(i) {
				extra += cell + "\x00"
			}
		}
	}
	next := p.at
	if t.begun && t.metric >= 0 && next == t.object && extra == t.extra {
		if n := p.names[cells[t.metric]]; n == nil || n.object != p.object {
			return nil
		}
	}
	p.at = t.object
	p.finish()
	p.begin()
	p.at, t.object, t.extra, t.begun = next, next, extra, true
	for i, cell := range cells {
		if t.metric >= 0 && t.attribute(i) {
			p.attributeText(t.names[i], cell)
		}
	}
	return nil
}

// timed takes the time of a row.
func (t *csvReading) timed(p *Parser, cells []string) error {
	if t.time < 0 {
		return p.untimed()
	}
	at, set, err := parseTime([]byte(cells[t.time]), p.zone)
	if err != nil && t.date >= 0 {
		at, set, err = parseTime([]byte(cells[t.date]+" "+cells[t.time]), p.zone)
	}
	switch {
	case err != nil:
		return fmt.Errorf("time: %w", err)
	case !set:
		return p.untimed()
	}
	p.observed(at)
	return nil
}

// attribute says whether column i of long rows is an attribute.
func (t *csvReading) attribute(i int) bool {
	return i != t.device && i != t.date && i != t.time && i != t.metric && i != t.value && i != t.unit
}

// cell reads a value.
func (t *csvReading) cell(p *Parser, name, unit, cell string) error {
	var r mesh.Reading
	switch literal := t.number(cell); {
	case cell == "":
		return nil
	case literal != "":
		if !setNumber(&r, []byte(literal)) {
			p.skipped++
			return nil
		}
		point := strings.IndexAny(cell, ".,")
		if point < 0 {
			break
		}
		if t.decimal = cmp.Or(t.decimal, cell[point]); t.comma == ';' && t.decimal != cell[point] {
			return fmt.Errorf("%s is %s, and other numbers have a decimal %q: what the comma means cannot be told", quote(name), quote(cell), t.decimal)
		}
	case strings.EqualFold(cell, "true"):
		r.Kind, r.Value = mesh.Boolean, 1
	case strings.EqualFold(cell, "false"):
		r.Kind = mesh.Boolean
	case cell == "null" || cell == "NULL" || cell == "NA" || strings.EqualFold(cell, "nan"):
		p.skipped++
		return nil
	default:
		r.Kind, r.ValueString = mesh.Text, p.text([]byte(cell))
	}
	return p.putReading(r, p.text([]byte(name)), "", unit)
}

// number gives a number in JSON's notation, empty if the cell is none.
func (t *csvReading) number(cell string) string {
	if t.comma == ';' && strings.Count(cell, ",") == 1 && !strings.Contains(cell, ".") {
		cell = strings.Replace(cell, ",", ".", 1)
	}
	if !isCSVNumber(cell) {
		return ""
	}
	return strings.TrimPrefix(cell, "+")
}

func isCSVNumber(cell string) bool {
	rest, plus := strings.CutPrefix(cell, "+")
	return isJSONNumber(rest) && !(plus && strings.HasPrefix(rest, "-"))
}
