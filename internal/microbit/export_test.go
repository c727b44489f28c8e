package microbit

import (
	"context"
	"log/slog"
	"time"

	"github.com/godbus/dbus/v5"
)

// RunHastily is Run that waits for little.
func RunHastily(ctx context.Context, cfg Config, log *slog.Logger, take func(Frame)) error {
	hasty := patience{
		find:     500 * time.Millisecond,
		connect:  500 * time.Millisecond,
		resolve:  100 * time.Millisecond,
		silence:  HastySilence,
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
	HastySilence = 300 * time.Millisecond

	MaxText    = maxText
	MaxChanges = maxChanges
)

// AgentRefuses tells whether the agent that pairs one device refuses whatever is
// asked about another.
func AgentRefuses(device, other dbus.ObjectPath) bool {
	a := &agent{ctx: context.Background(), device: device, passkey: func(context.Context) (uint32, error) { return 0, nil }}
	_, passkey := a.RequestPasskey(other)
	_, pin := a.RequestPinCode(other)
	return passkey != nil && pin != nil && a.RequestConfirmation(other, 0) != nil && a.RequestAuthorization(other) != nil && a.AuthorizeService(other, "") != nil
}

// Paired gives the micro:bits that are paired, by address.
func Paired(ctx context.Context, adapter string) ([]Found, error) {
	b, err := open(ctx, adapter)
	if err != nil {
		return nil, err
	}
	defer b.close()
	return b.paired(ctx)
}
