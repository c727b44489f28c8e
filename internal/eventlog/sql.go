package eventlog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Extension is the value of an extension in SQL on a table that keeps events,
// without quotes: DuckDB gives it with those that it has in JSON, and GoogleSQL
// without.
func Extension(name string) string {
	return fmt.Sprintf(`REPLACE(JSON_VALUE(extensions, '$.%s'), '"', '')`, name)
}

// ExtensionIs is a condition that an extension has one of some values, true also of
// others where DuckDB may give one of these with escapes: who reads the rows
// compares.
func ExtensionIs(name string, values ...string) string {
	for _, v := range values {
		if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' }) {
			return Extension(name) + " IS NOT NULL"
		}
	}
	return fmt.Sprintf("%s IN (%s)", Extension(name), Distinct(values))
}

// Distinct is the strings that differ, as a list in SQL.
func Distinct(all []string) string {
	all = slices.Compact(slices.Sorted(slices.Values(all)))
	for i, s := range all {
		all[i] = literal.Text(s)
	}
	return strings.Join(all, ", ")
}
