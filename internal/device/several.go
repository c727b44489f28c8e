package device

import "fmt"

// several finds the readings of a message that differ in their value alone: of
// several objects with the same device and time, or of names that mean the same
// metric. No row could tell them apart.
type several struct {
	from   int // the message's first reading of Parser.out
	passed int // how many have been checked
	ids    map[string]int
}

// check looks at the readings that have come since the last check. Within one
// object none has the id of another.
func (s *several) check(p *Parser) error {
	fresh := p.out[s.from+s.passed:]
	if len(fresh) == 0 {
		return nil
	}
	if s.passed == 0 { // most messages are one object: no map of its ids, then
		s.passed = len(fresh)
		return nil
	}
	if s.ids == nil {
		s.ids = make(map[string]int, s.passed)
		for i := range s.passed {
			s.ids[p.out[s.from+i].ReadingID] = i
		}
	}
	for i := range fresh {
		r := &fresh[i]
		if first, ok := s.ids[r.ReadingID]; ok {
			if was := &p.out[s.from+first]; was.Kind != r.Kind || was.Value != r.Value || was.ValueString != r.ValueString {
				return fmt.Errorf("%s of the device %s at %s has two values", quote(r.Metric), quote(r.DeviceID), r.ObservedAt)
			}
		}
		s.ids[r.ReadingID] = s.passed + i
	}
	s.passed += len(fresh)
	return nil
}
