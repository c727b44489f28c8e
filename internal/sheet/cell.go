package sheet

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/telemesh/telemesh/internal/mesh"
)

func text[R any](name string, required bool, field func(*R) *string) column[R] {
	return column[R]{name, required,
		func(row *R, cell string) error { *field(row) = cell; return nil },
		func(row *R) string { return *field(row) },
	}
}

// id is a text that may become an attribute of an event, and with it a header.
func id[R any](name string, required bool, field func(*R) *string) column[R] {
	c := text(name, required, field)
	set := c.set
	c.set = func(row *R, cell string) error {
		if strings.ContainsFunc(cell, unicode.IsControl) {
			return fmt.Errorf("%q holds a control character", cell)
		}
		return set(row, cell)
	}
	return c
}

func instant[R any](name string, field func(*R) *mesh.Instant) column[R] {
	return column[R]{name, true,
		func(row *R, cell string) (err error) { *field(row), err = parseInstant(cell); return err },
		func(row *R) string { return field(row).String() },
	}
}

// optional is a column whose empty cell is nil.
func optional[R, V any](name string, parse func(string) (V, error), format func(V) string, field func(*R) **V) column[R] {
	return column[R]{name, false,
		func(row *R, cell string) error {
			v, err := parse(cell)
			if err == nil {
				*field(row) = &v
			}
			return err
		},
		func(row *R) string {
			if v := *field(row); v != nil {
				return format(*v)
			}
			return ""
		},
	}
}

func parseCount(cell string) (int64, error) {
	n, err := strconv.ParseInt(cell, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a whole number from 0", cell)
	}
	return n, nil
}

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }

func parseConcentration(cell string) (float64, error) {
	f, err := strconv.ParseFloat(cell, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) || f < 0 {
		return 0, fmt.Errorf("%q is not a number of ppm (a decimal point, no unit)", cell)
	}
	return f, nil
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// layouts are RFC 3339 and what people and exports make of it: no seconds, an
// offset without colon or of hours alone. time.Parse takes fractions of a
// second after any of them.
var layouts = [...]string{
	"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05Z07",
	"2006-01-02T15:04Z07:00", "2006-01-02T15:04Z0700", "2006-01-02T15:04Z07",
}

// parseInstant reads a time with its offset. One without is refused: whose
// wall clock it was decides who sees an hour of readings.
func parseInstant(cell string) (mesh.Instant, error) {
	s := strings.ToUpper(cell)
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + strings.TrimLeft(s[11:], " ")
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, strings.Replace(s, " ", "", 1)); err == nil {
			return mesh.At(t), nil
		}
	}
	return 0, fmt.Errorf("%q is not a time with an offset, such as 2026-03-02T08:30:00+01:00 or 2026-03-02T07:30:00Z", cell)
}
