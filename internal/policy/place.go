package policy

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// lineOf is the line of a field, as spec.filters[0].exact; of one that is not there
// that of its parent. A document that is no YAML has line 1.
func lineOf(n *yaml.Node, field string) int {
	line := 1
	for field != "" && n != nil {
		switch n.Kind {
		case yaml.DocumentNode:
			n = n.Content[0]
			continue
		case yaml.MappingNode:
			name := field
			if i := strings.IndexAny(field, ".["); i >= 0 {
				name = field[:i]
			}
			field = strings.TrimPrefix(field[len(name):], ".")
			n = member(n, name, &line)
		case yaml.SequenceNode:
			index, rest, _ := strings.Cut(strings.TrimPrefix(field, "["), "]")
			i, err := strconv.Atoi(index)
			if err != nil || i >= len(n.Content) {
				return line
			}
			n, field = n.Content[i], strings.TrimPrefix(rest, ".")
			line = n.Line
		default:
			return line
		}
	}
	return line
}

// member finds the value of a name, and puts the line of the name where line is.
func member(n *yaml.Node, name string, line *int) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			*line = n.Content[i].Line
			return n.Content[i+1]
		}
	}
	return nil
}
