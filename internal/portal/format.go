package portal

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"
)

// functions are what templates write values with.
var functions = template.FuncMap{
	"count":   count,
	"age":     age,
	"utc":     utc,
	"subject": subject,
}

// count prints n with a thin space between thousands.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "−", s[1:]
	}
	var b strings.Builder
	b.WriteString(sign)
	for i, digit := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteRune('\u202f')
		}
		b.WriteRune(digit)
	}
	return b.String()
}

// age prints how long before now t is, in one unit.
func age(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return ""
	case d <= -time.Minute:
		return "ahead by " + span(-d) // a device whose clock is wrong
	case d < time.Second:
		return "now"
	}
	return span(d) + " ago"
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

func utc(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// subject is the part of an event type that tells it from the others.
func subject(eventType string) string {
	return strings.TrimSuffix(strings.TrimPrefix(eventType, "dev.telemesh."), ".v1")
}
