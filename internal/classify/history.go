package classify

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

const (
	// maxRows bounds what is read of the history for one event. The newest are read: what
	// is left out could only be told of records that come very late.
	maxRows = 50_000
	// maxAsked bounds how many keys one statement asks for: a warehouse refuses a long one.
	maxAsked = 200
)

// recall remembers the keys of records that are not known with what the history has of
// them. What it has and nobody told of before is told when its record comes: only then is
// it known to be delivered.
func (c *Classifier) recall(ctx context.Context, names []string, of map[string][]*measured) error {
	var unknown []*measured // one of each
	var first mesh.Instant
	for _, name := range names {
		if c.memory.get(name) != nil {
			continue
		}
		for i, m := range of[name] {
			if len(unknown) == 0 && i == 0 || m.at < first {
				first = m.at
			}
		}
		unknown = append(unknown, of[name][0])
	}
	if len(unknown) == 0 {
		return nil
	}
	found := map[string][]*measured{}
	if c.rule.History != nil {
		for some := range slices.Chunk(unknown, maxAsked) {
			if err := c.read(ctx, some, first-micros(c.rule.History.Within), found); err != nil {
				// Not permanent, whatever the warehouse says of the statement: the records
				// are not at fault, and a table may come to be.
				return fmt.Errorf("rule %s: read what was before from %s: %v", c.rule.Name, c.rule.History.Table, err)
			}
		}
	}
	for _, m := range unknown {
		name := mesh.Hash(m.key...)
		c.memory.add(name).takeAll(c.rule, found[name])
	}
	return nil
}

// read adds what the history has of some keys.
func (c *Classifier) read(ctx context.Context, some []*measured, from mesh.Instant, found map[string][]*measured) error {
	answer, err := c.warehouse.Query(ctx, c.statement(some, from))
	if err != nil {
		return err
	}
	for row, err := range answer.All {
		if err != nil {
			return err
		}
		text, err := c.record(row)
		if err != nil {
			return err
		}
		m, err := c.rule.recalled(text)
		if err != nil {
			continue // it would not have been told, either
		}
		name := mesh.Hash(m.key...)
		found[name] = append(found[name], m)
	}
	return nil
}

// recalled is measure of a row: the rule is for all of them.
func (r *Rule) recalled(text []byte) (*measured, error) {
	past := *r
	past.when = nil
	return past.measure(&scope{record: valueOf(text)}, 0)
}

// record is a row as the record that it was.
func (c *Classifier) record(row []any) ([]byte, error) {
	record := map[string]any{}
	for i, cell := range row {
		switch cell := cell.(type) {
		case nil:
		case time.Time:
			record[c.rule.columns[i]] = mesh.At(cell).String()
		default:
			record[c.rule.columns[i]] = cell
		}
	}
	return json.Marshal(record)
}

func (c *Classifier) statement(some []*measured, from mesh.Instant) string {
	var keys []string
	for _, m := range some {
		var is []string
		for i, name := range c.rule.Key {
			is = append(is, equals(name, m.key[i]))
		}
		if len(m.key) > len(c.rule.Key) && c.rule.Member != "" {
			is = append(is, equals(c.rule.Member, m.member))
		}
		keys = append(keys, "("+strings.Join(is, " AND ")+")")
	}
	h := c.rule.History
	return fmt.Sprintf("SELECT %s FROM %s WHERE (%s) AND %s >= %s AND (%s) ORDER BY %s DESC LIMIT %d",
		strings.Join(c.rule.columns, ", "), h.Table, h.Where, c.rule.atColumn, literal.Time(from), strings.Join(keys, " OR "), c.rule.atColumn, maxRows)
}

func equals(column, value string) string {
	if value == "" {
		return fmt.Sprintf("(%s IS NULL OR %s = '')", column, column)
	}
	return column + " = " + literal.Text(value)
}
