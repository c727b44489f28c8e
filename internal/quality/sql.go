package quality

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Statement counts by rules of a table. Its tables are in braces.
type Statement struct {
	SQL   string
	Rules []*contract.Rule // each is a column of the answer, in this order
	From  time.Time        // of the window; zero: all rows
	// Rows says that the first column of the answer is how many rows were looked
	// at, and that the rules' columns follow.
	Rows bool
}

// Statements counts by rules of a table over a window, with one statement for
// those that share a pass. A rule that has no SQL is left out, and is in failed.
func Statements(t *contract.Table, rules []*contract.Rule, w Window) (all []Statement, failed map[*contract.Rule]error) {
	failed = map[*contract.Rule]error{}
	shared := map[time.Time]int{} // the statement of a window
	for _, r := range rules {
		from := w.From(t, r)
		at, there := shared[from]
		one, conditional, err := statement(t, r, from)
		switch {
		case err != nil:
			failed[r] = err
		case !conditional:
			all = append(all, one)
		case there:
			all[at].Rules = append(all[at].Rules, r)
		default:
			shared[from] = len(all)
			all = append(all, Statement{Rules: []*contract.Rule{r}, From: from, Rows: true})
		}
	}
	for _, at := range shared {
		all[at].SQL = pass(t, all[at].Rules, all[at].From)
	}
	return all, failed
}

// statement is that of a rule alone; conditional: it is one of rows that are looked at one by
// one, whose statement pass writes.
func statement(t *contract.Table, r *contract.Rule, from time.Time) (s Statement, conditional bool, err error) {
	s = Statement{Rules: []*contract.Rule{r}, From: from}
	switch r.Metric {
	case "":
		s.SQL = query(t, r, from)
	case "duplicateValues":
		s.SQL, s.Rows = duplicates(t, columnsOf(r), from), true
	default:
		_, err = condition(t, r)
		return s, true, err
	}
	return s, false, nil
}

// pass counts by all of the rules as it reads the rows once.
func pass(t *contract.Table, rules []*contract.Rule, from time.Time) string {
	sql := "SELECT COUNT(*) AS looked_at"
	for i, r := range rules {
		where, _ := condition(t, r) // there is one: statement asked
		sql += fmt.Sprintf(", COUNT(CASE WHEN %s THEN 1 END) AS n%d", where, i)
	}
	return sql + rowsOf(t, from)
}

// rowsOf are the rows of a window, as t.
func rowsOf(t *contract.Table, from time.Time) string {
	sql := " FROM {" + t.FullName() + "} AS t"
	if !from.IsZero() {
		sql += " WHERE t." + t.Time + " >= " + literal.Time(mesh.At(from))
	}
	return sql
}

func duplicates(t *contract.Table, columns []string, from time.Time) string {
	by := "t." + strings.Join(columns, ", t.")
	null := "t." + strings.Join(columns, " IS NULL OR t.") + " IS NULL"
	return "SELECT CAST(COALESCE(SUM(n), 0) AS INT64) AS looked_at, CAST(COALESCE(SUM(CASE WHEN alike = 1 THEN n - 1 END), 0) AS INT64) AS n0" +
		" FROM (SELECT COUNT(*) AS n, MAX(CASE WHEN " + null + " THEN 0 ELSE 1 END) AS alike" + rowsOf(t, from) + " GROUP BY " + by + ") AS g"
}

// condition is true of rows that a rule counts.
func condition(t *contract.Table, r *contract.Rule) (string, error) {
	if r.Metric == "rowCount" {
		return "TRUE", nil
	}
	c, err := column(t, r.Column)
	if err != nil {
		return "", err
	}
	name := "t." + r.Column
	among := func(values []string) string {
		var all []string
		for _, value := range values {
			all = append(all, write(c, value))
		}
		return "IN (" + strings.Join(all, ", ") + ")"
	}
	switch r.Metric {
	case "nullValues":
		return name + " IS NULL", nil
	case "missingValues":
		if len(r.Missing) == 0 {
			return name + " IS NULL", nil
		}
		return name + " IS NULL OR " + name + " " + among(r.Missing), nil
	case "invalidValues":
		switch {
		case len(r.Values) > 0:
			return name + " NOT " + among(r.Values), nil
		case r.Pattern != "":
			// Both call a match by other names, and differ in what a part of it is. This they
			// have in common: what matches, if only an empty part of it, gets longer.
			return "REGEXP_REPLACE(" + name + ", " + literal.Text(r.Pattern) + ", " + literal.Text(`\0.`) + ") = " + name, nil
		case r.Least != "" || r.Most != "":
			least, most := r.Least, r.Most
			if c.Type == contract.Float64 { // DuckDB has NaN behind all numbers, BigQuery in no order
				least, most = cmp.Or(least, lowest), cmp.Or(most, highest)
			}
			var in []string
			if least != "" {
				in = append(in, name+" >= "+write(c, least))
			}
			if most != "" {
				in = append(in, name+" <= "+write(c, most))
			}
			return "NOT (" + strings.Join(in, " AND ") + ")", nil
		}
	}
	return "", fmt.Errorf("the metric %s is not known", r.Metric)
}

// The least and the greatest number.
const (
	lowest  = "-1.7976931348623157e+308"
	highest = "1.7976931348623157e+308"
)

// write is a value of a rule in SQL.
func write(c *contract.Column, value string) string {
	switch c.Type {
	case contract.Float64:
		f, _ := strconv.ParseFloat(value, 64)      // it was read
		return strconv.FormatFloat(f, 'e', -1, 64) // an exponent makes it no decimal
	case contract.Timestamp:
		at, _ := time.Parse(time.RFC3339Nano, value)
		return literal.Time(mesh.At(at))
	case contract.Int64, contract.Bool:
		return value
	}
	return literal.Text(value)
}

// tables of the query of a rule: what stands behind FROM or JOIN, with the name
// it has there. Anywhere else a.device_id looks the same.
var tables = regexp.MustCompile(`(?i)\b(FROM|JOIN)\s+([a-z][a-z0-9_]*\.[a-z][a-z0-9_]*)\b(\s+(?:AS\s+)?([a-z_][a-z0-9_]*)\b)?`)

// afterTable are the words that follow a table which has no other name.
var afterTable = regexp.MustCompile(`(?i)^(WHERE|JOIN|LEFT|RIGHT|INNER|FULL|CROSS|NATURAL|SEMI|ANTI|ASOF|POSITIONAL|LATERAL|ON|USING|GROUP|ORDER|HAVING|LIMIT|OFFSET|UNION|INTERSECT|EXCEPT|QUALIFY|WINDOW|TABLESAMPLE|PIVOT|UNPIVOT|FOR)$`)

// query is that of a rule, over the rows of the window where it reads its table.
func query(t *contract.Table, r *contract.Rule, from time.Time) string {
	return tables.ReplaceAllStringFunc(r.Query, func(match string) string {
		part := tables.FindStringSubmatch(match)
		word, table, behind := part[1], part[2], part[3]
		if from.IsZero() || table != t.FullName() {
			return word + " {" + table + "}" + behind
		}
		rows := word + " (SELECT *" + rowsOf(t, from) + ")"
		if behind == "" || afterTable.MatchString(part[4]) {
			return rows + " AS " + t.Name + behind
		}
		return rows + behind
	})
}
