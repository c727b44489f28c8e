// Package literal writes values in SQL so that GoogleSQL and DuckDB read the same.
package literal

import (
	"fmt"
	"strings"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Text writes a string. The two disagree on quotes, backslashes and line ends in
// a literal: these are put together from code points, and so are braces, between
// which package access has tables. GoogleSQL has no CHR(0),
// and DuckDB no escape; the length of '\t' tells which of them reads the
// statement.
func Text(s string) string {
	var parts []string
	from := 0
	literal := func(to int) {
		if to > from {
			parts = append(parts, "'"+s[from:to]+"'")
		}
	}
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '\'' && c != '\\' && c != '{' && c != '}' && c != 0x7f {
			continue
		}
		literal(i)
		from = i + 1
		if c == 0 {
			parts = append(parts, `CASE WHEN LENGTH('\t') = 1 THEN '\000' ELSE CHR(0) END`)
		} else {
			parts = append(parts, fmt.Sprintf("CHR(%d)", c))
		}
	}
	literal(len(s))
	switch len(parts) {
	case 0:
		return "''"
	case 1:
		return parts[0]
	}
	return "CONCAT(" + strings.Join(parts, ", ") + ")"
}

// Time writes an instant in SQL.
func Time(at mesh.Instant) string {
	return at.Time().Format("TIMESTAMP '2006-01-02 15:04:05.000000+00'")
}
