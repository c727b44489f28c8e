package catalog

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
)

// Hit is a product or a port that has all words of a search.
type Hit struct {
	Product *Product
	Port    *Port // nil: the product itself
	Columns []Column
	score   float64
}

// What a word in a field counts for.
const (
	inName    = 10.0
	inColumn  = 5.0
	inPeople  = 4.0 // owner, domain, kind
	inPurpose = 3.0
	inDetail  = 1.0 // of columns, rules, levels, consumers
)

// How a word may stand in a text: as all of it, as a word, at the begin of one, in one.
const (
	all    = 1.2
	whole  = 1.0
	begins = 0.6
	inside = 0.3
)

// field is a text and what a word in it counts for.
type field struct {
	text   string
	weight float64
}

// Search finds what has all words of a text, the best first: products, and
// output ports with the columns that the words are in. Case does not count.
func (c *Catalog) Search(text string) []Hit {
	words := wordsOf(text)
	if len(words) == 0 {
		return nil
	}
	var hits []Hit
	for _, p := range c.Products {
		about := []field{{p.Name, inName}, {p.Owner, inPeople}, {p.Domain, inPeople}, {p.Kind, inPeople}, {p.Purpose, inPurpose}, {p.Usage, inDetail}, {p.Limits, inDetail}}
		if score := rank(words, about); score > 0 {
			hits = append(hits, Hit{Product: p, score: score})
		}
		for _, port := range p.Ports {
			fields := append(port.fields(), field{p.Name, inPeople}, field{p.Owner, inDetail}, field{p.Domain, inDetail})
			score := rank(words, fields)
			if score == 0 {
				continue
			}
			hit := Hit{Product: p, Port: port, score: score}
			for _, column := range port.Columns {
				if slices.ContainsFunc(words, func(word string) bool { return rank([]string{word}, column.fields()) > 0 }) {
					hit.Columns = append(hit.Columns, column)
				}
			}
			hits = append(hits, hit)
		}
	}
	slices.SortStableFunc(hits, func(a, b Hit) int { return cmp.Compare(b.score, a.score) })
	return hits
}

func (p *Port) fields() []field {
	fields := []field{{p.Name, inName}, {string(p.Kind), inDetail}, {p.Purpose, inPurpose}}
	if t := p.Table; t != nil {
		fields = append(fields, field{t.Purpose, inPurpose}, field{t.Usage, inDetail}, field{t.Limits, inDetail}, field{t.Rows, inDetail})
	}
	for _, c := range p.Columns {
		fields = append(fields, c.fields()...)
	}
	for _, r := range p.Rules() {
		fields = append(fields, field{r.Purpose, inDetail}, field{r.Dimension, inDetail})
	}
	for _, l := range p.Levels() {
		fields = append(fields, field{l.Property, inDetail}, field{l.Purpose, inDetail})
	}
	for _, consumer := range p.Consumers {
		fields = append(fields, field{consumer.Name, inDetail})
	}
	return fields
}

func (c *Column) fields() []field {
	return []field{{c.Name, inColumn}, {c.Purpose, inDetail}, {c.Unit, inDetail}, {c.Classification, inDetail}}
}

// rank adds, for each word, the best place that it has; 0: one has none.
func rank(words []string, fields []field) float64 {
	sum := 0.0
	for _, word := range words {
		best := 0.0
		for _, f := range fields {
			text := strings.ToLower(f.text)
			if f.weight*all <= best || !strings.Contains(text, word) {
				continue
			}
			how := inside
			for _, other := range wordsOf(text) {
				switch {
				case other == word:
					how = whole
				case strings.HasPrefix(other, word):
					how = max(how, begins)
				}
			}
			if text == word {
				how = all
			}
			best = max(best, f.weight*how)
		}
		if best == 0 {
			return 0
		}
		sum += best
	}
	return sum
}

// wordsOf a text, in lower case. Names of columns are words, and so are their
// parts.
func wordsOf(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}
