package local

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
)

func TestSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		untimed := func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
		s := &seldom{log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: untimed}))}
		nats := natsLog{s}
		for i := range 12_000 {
			nats.Errorf("no room for message %d", i)
			if i == 500 {
				s.tell(slog.LevelWarn, "not kept", errors.New("no room"), "trigger", "iot/a")
			}
			time.Sleep(time.Millisecond)
		}
		want := []string{
			`level=ERROR msg="event store" error="no room for message 0"`,
			`level=WARN msg="not kept" trigger=iot/a error="no room"`,
			`level=ERROR msg="event store" error="no room for message 10000" also="9999 times in 10s"`,
			``,
		}
		if diff := cmp.Diff(want, strings.Split(out.String(), "\n")); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		for i := range 1000 {
			s.tell(slog.LevelWarn, strings.Repeat("x", i), errors.New("y"))
		}
		if len(s.kinds) > 100 {
			t.Errorf("%d kinds are remembered, want no more than 100", len(s.kinds))
		}
	})
}

func TestAFullDiskIsCalledOne(t *testing.T) {
	full := fmt.Errorf("open Broker iot/iot: %w", &jetstream.APIError{Code: 500, ErrorCode: errCodeStorage, Description: "insufficient storage resources available"})
	if got := (&store{dir: "/data"}).explain(full); !errors.Is(got, full) || !strings.Contains(got.Error(), "make room on the disk of /data") {
		t.Errorf("explain(%v) = %v", full, got)
	}
	other := errors.New("other")
	if got := (&store{}).explain(other); got != other {
		t.Errorf("explain(%v) = %v", other, got)
	}
	if got := (&store{}).explain(nil); got != nil {
		t.Errorf("explain(nil) = %v", got)
	}
}
