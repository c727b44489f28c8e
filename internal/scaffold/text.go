package scaffold

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Files are changed as texts, in the lines that YAML's nodes tell of: so comments
// and form stay.

// documents gives the nodes of the documents of a text, whose lines are those of
// the whole.
func documents(text string) (nodes []*yaml.Node, err error) {
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var n yaml.Node
		switch err := d.Decode(&n); {
		case err == io.EOF:
			return nodes, nil
		case err != nil:
			return nil, err
		case len(n.Content) == 1:
			nodes = append(nodes, n.Content[0])
		}
	}
}

// at gives the node that members, and first elements of lists, lead to; nil: there
// is none.
func at(n *yaml.Node, path ...string) *yaml.Node {
	for _, name := range path {
		for n != nil && n.Kind == yaml.SequenceNode && len(n.Content) > 0 {
			n = n.Content[0]
		}
		if n == nil || n.Kind != yaml.MappingNode {
			return nil
		}
		var next *yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == name {
				next = n.Content[i+1]
			}
		}
		n = next
	}
	return n
}

func value(n *yaml.Node, path ...string) string {
	if n = at(n, path...); n != nil {
		return n.Value
	}
	return ""
}

// lastLine is where a node without folded texts at its end ends.
func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, child := range n.Content {
		last = max(last, lastLine(child))
	}
	return last
}

// insert puts lines behind line n, which is counted from 1.
func insert(text string, n int, lines ...string) string {
	all := strings.SplitAfter(text, "\n")
	return strings.Join(all[:n], "") + strings.Join(lines, "\n") + "\n" + strings.Join(all[n:], "")
}

// replaceLine puts lines in the place of line n.
func replaceLine(text string, n int, lines ...string) string {
	all := strings.SplitAfter(text, "\n")
	return strings.Join(all[:n-1], "") + strings.Join(lines, "\n") + "\n" + strings.Join(all[n:], "")
}

// without leaves out lines, which are told from and to, in their order.
func without(text string, gone [][2]int) string {
	lines := strings.SplitAfter(text, "\n")
	for _, g := range slices.Backward(gone) {
		lines = slices.Delete(lines, g[0]-1, g[1])
	}
	return strings.Join(lines, "")
}

func line(text string, n int) string { return strings.Split(text, "\n")[n-1] }

// addItem adds an element to a list that has one to a line, with its indent before each
// line of the element.
func addItem(text string, list *yaml.Node, item ...string) string {
	indent := strings.Repeat(" ", list.Column-1)
	lines := make([]string, len(item))
	for i := range item {
		lines[i] = indent + item[i]
	}
	return insert(text, lastLine(list), lines...)
}

// addSorted adds a value to a list that stands on one line: [a, b].
func addSorted(text string, list *yaml.Node, add string) (string, error) {
	before := line(text, list.Line)
	from := strings.IndexByte(before, '[')
	to := strings.LastIndexByte(before, ']')
	if list.Style&yaml.FlowStyle == 0 || from < 0 || to < from || lastLine(list) != list.Line {
		return "", fmt.Errorf("line %d: want a list on one line, as [a, b]", list.Line)
	}
	var values []string
	for _, n := range list.Content {
		values = append(values, n.Value)
	}
	if slices.Contains(values, add) {
		return text, nil
	}
	values = append(values, add)
	slices.Sort(values)
	return replaceLine(text, list.Line, before[:from]+"["+strings.Join(values, ", ")+before[to:]), nil
}

// addDocument adds a document behind the others.
func addDocument(text, document string) string {
	return strings.TrimSuffix(text, "\n") + "\n---\n" + document
}

// chunks are the documents of a text as texts.
func chunks(text string) []string { return strings.Split(text, "\n---\n") }

// bare is a document without the comment before it.
func bare(document string) string {
	lines := strings.SplitAfter(document, "\n")
	for len(lines) > 0 && (strings.HasPrefix(lines[0], "#") || strings.TrimSpace(lines[0]) == "") {
		lines = lines[1:]
	}
	return strings.TrimSuffix(strings.Join(lines, ""), "\n") + "\n"
}

// endOf is the last line of what a member of a mapping has, but for comments behind it.
func endOf(text string, n *yaml.Node, member string) (int, error) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != member {
			continue
		}
		end := len(lines)
		if i+2 < len(n.Content) {
			end = n.Content[i+2].Line - 1
		}
		return trimmed(lines, end), nil
	}
	return 0, fmt.Errorf("it has no %s", member)
}

// trimmed is the last line up to end that says something.
func trimmed(lines []string, end int) int {
	for end > 1 {
		if l := strings.TrimSpace(lines[end-1]); l != "" && !strings.HasPrefix(l, "#") {
			break
		}
		end--
	}
	return end
}
