package device

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/telemesh/telemesh/internal/mesh"
)

// series is the values of an object that each may tell their own time.
type series struct {
	p      *Parser
	values []value
}

// value is one of them; own, as and unit are as in Parser.put.
type value struct {
	node          int32
	own, as, unit string
	at            mesh.Instant // untold: it tells none
}

// untold is no time; those of devices begin at 1970.
const untold mesh.Instant = -1

// add adds a value. One that is null is skipped.
func (s *series) add(v value) error {
	switch {
	case s.p.doc.kind(v.node) == null || v.own == "":
		s.p.skipped++
		return nil
	case len(s.values) >= maxReadings:
		return fmt.Errorf("more than %d readings", maxReadings)
	}
	s.values = append(s.values, v)
	return nil
}

// put makes readings of the values, those of equal time as one object. begin
// gives each object device and attributes, otherwise the time of what tells
// none.
func (s *series) put(begin, otherwise func() error) error {
	p := s.p
	slices.SortStableFunc(s.values, func(a, b value) int { return cmp.Compare(a.at, b.at) })
	for from := 0; from < len(s.values); {
		if err := begin(); err != nil {
			return err
		}
		at := s.values[from].at
		if at != untold {
			p.observed(at)
		} else if err := otherwise(); err != nil {
			return err
		}
		for ; from < len(s.values) && s.values[from].at == at; from++ {
			v := s.values[from]
			if err := p.put(v.node, v.own, v.as, v.unit); err != nil {
				return err
			}
		}
		p.finish()
		p.begin()
	}
	return nil
}

// instant reads the time that value c tells, of an interval START/END (ISO
// 8601) its end: what is measured over it is known then.
func (p *Parser) instant(c int32) (mesh.Instant, error) {
	var s []byte
	switch k := p.doc.kind(c); k {
	case text:
		s = p.doc.chars(c)
		if _, end, ok := bytes.Cut(s, []byte("/")); ok {
			s = end
		}
	case number:
		s = p.doc.raw(c)
	default:
		return untold, p.fault(c, "time %s is %s", quote(p.doc.name(c)), k)
	}
	at, set, err := parseTime(s, p.zone)
	switch {
	case err != nil:
		return untold, p.fault(c, "time %s: %w", quote(p.doc.name(c)), err)
	case !set:
		return untold, nil
	}
	return at, nil
}

// firstTime gives the first of some times, 0 is none, that is one; they may be
// intervals.
func (p *Parser) firstTime(times ...int32) (mesh.Instant, error) {
	for _, c := range times {
		if c == 0 {
			continue
		}
		if at, err := p.instant(c); err != nil || at != untold {
			return at, err
		}
	}
	return untold, nil
}

// ended is Parser.time for times that may be intervals.
func (p *Parser) ended(times ...int32) error {
	at, err := p.firstTime(times...)
	if err != nil || at == untold {
		return cmp.Or(err, p.untimed())
	}
	p.observed(at)
	return nil
}
