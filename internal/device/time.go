package device

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
)

// parseTime reads a time as devices write it:
//
//   - RFC 3339, also with a space or a lower-case letter between date and time,
//     with seconds left out, with a comma before the fraction, with an offset
//     of +0200 or +02, and without one: then it is in zone, nil is UTC (of an
//     hour that comes twice at the end of summer time, one of the two);
//   - seconds, ms, µs or ns since 1970-01-01T00:00:00Z, whole or with a
//     fraction. Up to 11 digits before the point are seconds, up to 14 ms, up
//     to 17 µs, up to 20 ns: read so, none of them lies before 1973 unless it
//     is in seconds.
//
// What is finer than a microsecond is truncated towards the past. set is false
// for what says that there is no time: an empty text, 0, which a clock tells that
// was never set, and 0001-01-01T00:00:00Z, what Go and .NET print for one.
func parseTime(s []byte, zone *time.Location) (at mesh.Instant, set bool, err error) {
	s = bytes.TrimSpace(s)
	if len(s) == 0 {
		return 0, false, nil
	}
	at, ok := parseDateTime(s, zone)
	if !ok {
		at, ok = parseUnix(s)
	}
	if ok && at == 0 && s[0] == '0' {
		return 0, false, nil
	}
	if !ok {
		return 0, false, fmt.Errorf("%s is neither RFC 3339 nor Unix seconds, ms, µs or ns", quote(s))
	}
	switch {
	case at == yearOne:
		return 0, false, nil
	case !InRange(at):
		return 0, false, fmt.Errorf("%s is not in the years 1970 to 2261", quote(s))
	}
	return at, true, nil
}

var (
	yearOne  = mesh.At(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC))
	year2262 = mesh.At(time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC))
)

// InRange says whether an instant is one that devices may tell: since 1970, and
// as long as ns since then fit 64 bits.
func InRange(at mesh.Instant) bool { return at >= 0 && at < year2262 }

// field consumes n digits.
func field(s *[]byte, n int) (value int, ok bool) {
	if len(*s) < n {
		return 0, false
	}
	for i := range n {
		if !isDigit((*s)[i]) {
			return 0, false
		}
		value = value*10 + int((*s)[i]-'0')
	}
	*s = (*s)[n:]
	return value, true
}

func one(s *[]byte, of string) bool {
	if len(*s) == 0 || strings.IndexByte(of, (*s)[0]) < 0 {
		return false
	}
	*s = (*s)[1:]
	return true
}

func parseDateTime(s []byte, in *time.Location) (mesh.Instant, bool) {
	year, ok1 := field(&s, 4)
	ok1 = ok1 && one(&s, "-")
	month, ok2 := field(&s, 2)
	ok2 = ok2 && one(&s, "-")
	day, ok3 := field(&s, 2)
	ok3 = ok3 && one(&s, "Tt ")
	hour, ok4 := field(&s, 2)
	ok4 = ok4 && one(&s, ":")
	minute, ok5 := field(&s, 2)
	if !(ok1 && ok2 && ok3 && ok4 && ok5) || hour > 23 || minute > 59 {
		return 0, false
	}
	second, micros := 0, 0
	if one(&s, ":") {
		var ok bool
		if second, ok = field(&s, 2); !ok || second > 59 {
			return 0, false
		}
		if one(&s, ".,") {
			if micros, ok = fraction(&s); !ok {
				return 0, false
			}
		}
	}
	one(&s, " ") // as in 2022-10-06 13:23:00 +0200
	local := len(s) == 0
	offset, ok := zone(s)
	if !ok {
		return 0, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, micros*1000, time.UTC)
	if t.Day() != day || t.Month() != time.Month(month) { // a 31st of September is taken for the 1st of October
		return 0, false
	}
	if local && in != nil {
		return mesh.At(time.Date(year, time.Month(month), day, hour, minute, second, micros*1000, in)), true
	}
	return mesh.At(t) - mesh.Instant(offset)*1e6, true
}

// fraction consumes digits and gives them as microseconds.
func fraction(s *[]byte) (micros int, ok bool) {
	n := 0
	for ; n < len(*s) && isDigit((*s)[n]); n++ {
		if n < 6 {
			micros = micros*10 + int((*s)[n]-'0')
		}
	}
	*s = (*s)[n:]
	for i := n; i < 6; i++ {
		micros *= 10
	}
	return micros, n > 0
}

// zone gives the seconds that an offset is ahead of UTC.
func zone(s []byte) (seconds int, ok bool) {
	if len(s) == 0 || len(s) == 1 && s[0]|0x20 == 'z' {
		return 0, true
	}
	sign := 1
	if s[0] == '-' {
		sign = -1
	}
	if !one(&s, "+-") {
		return 0, false
	}
	hours, ok := field(&s, 2)
	if !ok || hours > 23 {
		return 0, false
	}
	minutes := 0
	if len(s) > 0 {
		one(&s, ":")
		if minutes, ok = field(&s, 2); !ok || minutes > 59 || len(s) > 0 {
			return 0, false
		}
	}
	return sign * (hours*3600 + minutes*60), true
}

// parseUnix reads a decimal number by its digits: no float64 holds a time of
// this century in ns.
func parseUnix(s []byte) (mesh.Instant, bool) {
	digits, exponent := s, 0
	negative := one(&digits, "-")
	if i := bytes.IndexAny(digits, "eE"); i >= 0 {
		var ok bool
		if exponent, ok = smallInt(digits[i+1:]); !ok {
			return 0, false
		}
		digits = digits[:i]
	}
	whole, fraction, point := bytes.Cut(digits, []byte("."))
	if len(whole) == 0 || point && len(fraction) == 0 {
		return 0, false
	}
	var buf [48]byte
	all := append(append(buf[:0], whole...), fraction...)
	for i := range len(all) {
		if !isDigit(all[i]) {
			return 0, false
		}
	}
	before := len(whole) + exponent // how many of all stand before the point
	for len(all) > 0 && all[0] == '0' {
		all = all[1:]
		before--
	}
	switch { // from here on, how many stand before the point of the microseconds
	case len(all) == 0:
		return 0, true
	case before <= 11:
		before += 6
	case before <= 14:
		before += 3
	case before <= 17:
	case before <= 20:
		before -= 3
	default:
		return 0, false
	}
	var at mesh.Instant
	for i := range max(before, 0) { // at most 17
		at *= 10
		if i < len(all) {
			at += mesh.Instant(all[i] - '0')
		}
	}
	if negative {
		at = -at
		if before < len(all) && len(bytes.Trim(all[max(before, 0):], "0")) > 0 {
			at--
		}
	}
	return at, true
}

// smallInt reads an exponent; beyond two digits none makes a time.
func smallInt(s []byte) (n int, ok bool) {
	negative := one(&s, "-")
	if !negative {
		one(&s, "+")
	}
	if len(s) == 0 || len(s) > 2 {
		return 0, false
	}
	n, ok = field(&s, len(s))
	if negative {
		n = -n
	}
	return n, ok
}
