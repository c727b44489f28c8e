package mesh

import (
	"fmt"
	"time"
)

// Instant is a point in time as microseconds since 1970-01-01T00:00:00Z: the
// resolution of TIMESTAMP in both warehouses. Finer input is truncated
// towards the past, so that two instants compare equal exactly if their rows
// do.
type Instant int64

// At gives the instant of t.
func At(t time.Time) Instant { return Instant(t.UnixMicro()) }

// Time gives i as a time in UTC.
func (i Instant) Time() time.Time { return time.UnixMicro(int64(i)).UTC() }

// String formats i as RFC 3339 in UTC, with no more fractional digits than it
// needs.
func (i Instant) String() string { return string(i.AppendText(nil)) }

// AppendText appends i as String gives it. It is several times faster than
// time.Time's own formatting: events carry two instants for every reading.
func (i Instant) AppendText(b []byte) []byte {
	seconds, micros := int64(i)/1e6, int64(i)%1e6
	if micros < 0 {
		seconds, micros = seconds-1, micros+1e6
	}
	days, rest := seconds/86400, seconds%86400
	if rest < 0 {
		days, rest = days-1, rest+86400
	}
	year, month, day := civil(days)
	if year < 0 || year > 9999 {
		return i.Time().AppendFormat(b, time.RFC3339Nano)
	}
	b = append(b,
		byte('0'+year/1000), byte('0'+year/100%10), byte('0'+year/10%10), byte('0'+year%10), '-',
		byte('0'+month/10), byte('0'+month%10), '-',
		byte('0'+day/10), byte('0'+day%10), 'T',
		byte('0'+rest/36000), byte('0'+rest/3600%10), ':',
		byte('0'+rest/600%6), byte('0'+rest/60%10), ':',
		byte('0'+rest/10%6), byte('0'+rest%10))
	if micros > 0 {
		b = append(b, '.')
		for scale := int64(100000); micros > 0; scale /= 10 {
			b = append(b, byte('0'+micros/scale))
			micros %= scale
		}
	}
	return append(b, 'Z')
}

// MarshalText formats i as String does.
func (i Instant) MarshalText() ([]byte, error) { return i.AppendText(nil), nil }

// UnmarshalText reads RFC 3339 with any offset.
func (i *Instant) UnmarshalText(text []byte) error {
	at, err := ParseInstant(string(text))
	if err != nil {
		return err
	}
	*i = at
	return nil
}

// ParseInstant reads RFC 3339 with any offset.
func ParseInstant(s string) (Instant, error) {
	if i, ok := parseUTC(s); ok {
		return i, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, fmt.Errorf("time %q is not RFC 3339", s)
	}
	return At(t), nil
}

// parseUTC reads the form that AppendText writes, and nothing else.
func parseUTC(s string) (Instant, bool) {
	if len(s) < 20 || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' || s[16] != ':' || s[len(s)-1] != 'Z' {
		return 0, false
	}
	year, ok1 := digits(s[0:4])
	month, ok2 := digits(s[5:7])
	day, ok3 := digits(s[8:10])
	hour, ok4 := digits(s[11:13])
	minute, ok5 := digits(s[14:16])
	second, ok6 := digits(s[17:19])
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6) ||
		month < 1 || month > 12 || day < 1 || day > 28 && day > daysIn(year, month) ||
		hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	var micros int64
	if fraction := s[19 : len(s)-1]; fraction != "" {
		if fraction[0] != '.' || len(fraction) < 2 || len(fraction) > 7 {
			return 0, false
		}
		n, ok := digits(fraction[1:])
		if !ok {
			return 0, false
		}
		for range 7 - len(fraction) {
			n *= 10
		}
		micros = n
	}
	seconds := daysSinceEpoch(year, month, day)*86400 + hour*3600 + minute*60 + second
	return Instant(seconds*1e6 + micros), true
}

func digits(s string) (n int64, ok bool) {
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	return n, true
}

func daysIn(year, month int64) int64 {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// civil and daysSinceEpoch are the proleptic Gregorian conversions of Howard
// Hinnant, "chrono-Compatible Low-Level Date Algorithms".
func civil(days int64) (year, month, day int64) {
	z := days + 719468
	era := z / 146097
	if z < 0 {
		era = (z - 146096) / 146097
	}
	dayOfEra := z - era*146097
	yearOfEra := (dayOfEra - dayOfEra/1460 + dayOfEra/36524 - dayOfEra/146096) / 365
	dayOfYear := dayOfEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	m := (5*dayOfYear + 2) / 153
	day = dayOfYear - (153*m+2)/5 + 1
	month = m + 3
	if m >= 10 {
		month = m - 9
	}
	year = yearOfEra + era*400
	if month <= 2 {
		year++
	}
	return year, month, day
}

func daysSinceEpoch(year, month, day int64) int64 {
	if month <= 2 {
		year--
	}
	era := year / 400
	if year < 0 {
		era = (year - 399) / 400
	}
	yearOfEra := year - era*400
	m := month - 3
	if month <= 2 {
		m = month + 9
	}
	dayOfYear := (153*m+2)/5 + day - 1
	dayOfEra := yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear
	return era*146097 + dayOfEra - 719468
}
