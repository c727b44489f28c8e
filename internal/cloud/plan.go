package cloud

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Action is what is done to an object.
type Action string

// The actions, as a plan prints them.
const (
	Create  Action = "create"
	Modify  Action = "change"
	Destroy Action = "destroy"
)

var signs = map[Action]string{Create: "+", Modify: "~", Destroy: "-"}

// Change is one difference between what is wanted and what is there.
type Change struct {
	Action Action  `json:"action"`
	Kind   string  `json:"kind"`             // dataset, table, view, access, member, topic, subscription, product, contract
	Name   string  `json:"name"`             // iot_telemetry.readings
	Fields []Field `json:"fields,omitempty"` // what differs
}

// Field is a property that differs. Empty: there is none.
type Field struct {
	Name string `json:"name"`
	Old  string `json:"old"`
	New  string `json:"new"`
}

// Plan is what has to be done for a project to be what is wanted.
type Plan struct {
	Project string `json:"project"`
	Steps   []Step `json:"steps"` // in the order of Apply
	// Left would go with Config.Destroy.
	Left []Change `json:"left,omitempty"`
	// Refused says why the plan cannot be applied.
	Refused []string `json:"refused,omitempty"`
	// Notes say what differs and stays so, and what is not looked at.
	Notes []string `json:"notes,omitempty"`
}

// Step is what is done at once, or not at all.
type Step struct {
	Phase   Phase    `json:"phase"`
	Changes []Change `json:"changes"`

	do func(context.Context) error
}

// Phase is what steps are for. They are done in this order.
type Phase int

// The phases.
const (
	Narrow    Phase = iota // take access away
	Remove                 // destroy what no product names
	Build                  // datasets, tables and columns
	Show                   // views
	Authorize              // let views read what they are made of
	Widen                  // give access
	Feed                   // topics and subscriptions
	Record                 // remember the contracts
)

var phases = [...]string{"narrow", "remove", "build", "show", "authorize", "widen", "feed", "record"}

func (p Phase) String() string { return phases[p] }

// MarshalText gives the name.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Empty says whether there is nothing to do.
func (p *Plan) Empty() bool { return len(p.Steps) == 0 }

// patience is how long a plan or a step may take: the clients try again for
// ever what may pass.
const patience = 3 * time.Minute

// Plan compares what is wanted with what is there. It changes nothing.
func (p *Project) Plan(ctx context.Context) (*Plan, error) {
	w, err := p.want()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := p.read(ctx, w)
	if err != nil {
		return nil, err
	}
	if err := p.readQueries(ctx, w, s); err != nil {
		return nil, err
	}
	return p.compare(w, s)
}

// JSON writes the plan for a program.
func (p *Plan) JSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(p)
}

// Write writes the plan for a person: a line for each change, one for each
// field, and at the end how many there are.
func (p *Plan) Write(out io.Writer) error {
	var b strings.Builder
	counts := map[Action]int{}
	for _, step := range p.Steps {
		for _, c := range step.Changes {
			counts[c.Action]++
			c.write(&b)
		}
	}
	for _, c := range p.Left {
		fmt.Fprintf(&b, "left: %s %s: %s with --destroy\n", c.Kind, c.Name, c.left())
	}
	for _, note := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	for _, refused := range p.Refused {
		fmt.Fprintf(&b, "refused: %s\n", strings.ReplaceAll(refused, "\n", "\n    "))
	}
	if b.Len() > 0 && len(p.Refused) == 0 {
		b.WriteByte('\n')
	}
	switch {
	case len(p.Refused) > 0: // nothing is done
	case p.Empty():
		b.WriteString("no changes\n")
	default:
		fmt.Fprintf(&b, "%d to create, %d to change, %d to destroy\n", counts[Create], counts[Modify], counts[Destroy])
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (c *Change) write(b *strings.Builder) {
	fmt.Fprintf(b, "%s %s %s\n", signs[c.Action], c.Kind, c.Name)
	for _, f := range c.Fields {
		name, old, now := f.Name, f.Old, f.New
		if strings.Contains(old+now, "\n") {
			var line int
			line, old, now = firstDifference(old, now)
			name = fmt.Sprintf("%s, line %d", name, line)
		}
		old, now = around(old, now)
		switch {
		case c.Action != Modify:
			fmt.Fprintf(b, "    %s: %s\n", name, plain(old+now))
		case old == "":
			fmt.Fprintf(b, "    %s: + %s\n", name, plain(now))
		case now == "":
			fmt.Fprintf(b, "    %s: - %s\n", name, plain(old))
		default:
			fmt.Fprintf(b, "    %s: %s → %s\n", name, plain(old), plain(now))
		}
	}
}

// left is what --destroy would do.
func (c *Change) left() string {
	if c.Action == Destroy {
		return "would be destroyed"
	}
	var fields []string
	for _, f := range c.Fields {
		fields = append(fields, fmt.Sprintf("%s %s → %s", f.Name, cmp.Or(f.Old, "none"), cmp.Or(f.New, "none")))
	}
	return strings.Join(fields, ", ") + ", and the rows beyond it would be destroyed,"
}

// firstDifference gives the first line that differs, counted from 1.
func firstDifference(old, now string) (line int, a, b string) {
	olds, news := strings.Split(old, "\n"), strings.Split(now, "\n")
	for i := range max(len(olds), len(news)) {
		a, b = "", ""
		if i < len(olds) {
			a = strings.TrimSpace(olds[i])
		}
		if i < len(news) {
			b = strings.TrimSpace(news[i])
		}
		if a != b {
			return i + 1, a, b
		}
	}
	return 1, "white space", "other white space"
}

// longest is how much of a line is printed.
const longest = 160

// around cuts from the begin of two long lines what they have in common, but for
// some words.
func around(old, now string) (string, string) {
	const words = 40
	a, b := []rune(old), []rune(now)
	same := 0
	for same < min(len(a), len(b)) && a[same] == b[same] {
		same++
	}
	if max(len(a), len(b)) <= longest || same <= words {
		return old, now
	}
	return "…" + string(a[same-words:]), "…" + string(b[same-words:])
}

// plain keeps what others wrote from the terminal, and long lines short.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return s
}
