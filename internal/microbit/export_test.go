package microbit

import (
	"context"
	"log/slog"
	"time"
)

// RunHastily is Run that waits for little.
func RunHastily(ctx context.Context, cfg Config, log *slog.Logger, take func(Frame)) error {
	hasty := patience{
		find:     500 * time.Millisecond,
		connect:  500 * time.Millisecond,
		resolve:  100 * time.Millisecond,
		silence:  300 * time.Millisecond,
		goodbye:  10 * time.Second,
		retry:    time.Millisecond,
		maxRetry: 20 * time.Millisecond,
	}
	return run(ctx, cfg, hasty, log, take)
}

// Texts gives the texts of notifications, and how many were lost.
func Texts(notifications ...[]byte) (given []string, lost int) {
	var t texts
	for _, n := range notifications {
		lost += t.add(n, func(text []byte) { given = append(given, string(text)) })
	}
	return given, lost
}

// Held is how many bytes an assembler holds after notifications.
func Held(notifications ...[]byte) int {
	var t texts
	for _, n := range notifications {
		t.add(n, func([]byte) {})
	}
	return cap(t.begun)
}

const (
	MaxText    = maxText
	MaxChanges = maxChanges
)
