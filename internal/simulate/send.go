package simulate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/telemesh/telemesh/internal/function"
)

// Sender sends messages to an ingest endpoint, at least once and in order.
type Sender struct {
	URL    string
	Client *http.Client
	Log    *slog.Logger

	// Speed is how many simulated seconds pass in one; 0: all is sent as fast
	// as possible.
	Speed float64
	// Live is the simulated instant at which Run begins. What is sent before
	// is a backlog and goes as fast as possible. Zero: that of the first
	// message.
	Live time.Time
	// Batch is how many messages go in a request at most. 0: 500, what one
	// event holds.
	Batch int
	// Acknowledged is called after each request that was accepted, with how
	// many messages it held and where to go on: Messages from next on are
	// those not acknowledged yet, but for a few of the same instant that may
	// come again. Its error ends Run.
	Acknowledged func(next time.Time, messages int) error
}

// How long to wait before a request that was not accepted is sent again.
const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Run sends messages until there are no more, ctx is done or the endpoint
// refuses them for good. An endpoint that is not there yet, or busy, is waited
// for.
func (s *Sender) Run(ctx context.Context, messages iter.Seq[Sent]) error {
	began, live := time.Now(), s.Live
	batch := s.Batch
	if batch == 0 {
		batch = 500
	}
	var body bytes.Buffer
	held := 0
	flush := func(next time.Time) error {
		if held == 0 {
			return nil
		}
		if err := s.deliver(ctx, body.Bytes()); err != nil {
			return fmt.Errorf("send %d messages to %s: %w", held, s.URL, err)
		}
		n := held
		held = 0
		body.Reset()
		if s.Acknowledged == nil {
			return nil
		}
		return s.Acknowledged(next, n)
	}
	var last time.Time
	for m := range messages {
		if live.IsZero() {
			live = m.At
		}
		due := began
		if s.Speed > 0 && m.At.After(live) {
			due = began.Add(time.Duration(float64(m.At.Sub(live)) / s.Speed))
		}
		if held == batch || time.Until(due) > 0 {
			if err := flush(m.At); err != nil {
				return err
			}
		}
		if err := sleep(ctx, time.Until(due)); err != nil {
			return err
		}
		body.Write(m.Body)
		body.WriteByte('\n')
		held, last = held+1, m.At
	}
	return flush(last.Add(1))
}

// deliver posts a body until it is accepted.
func (s *Sender) deliver(ctx context.Context, body []byte) error {
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		after, err := s.post(ctx, body)
		if err == nil || errors.Is(err, errRefused) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		after = min(max(after, pause), retryMost)
		if s.Log != nil {
			s.Log.Warn("messages not accepted, sending again", "url", s.URL, "after", after, "error", err)
		}
		if err := sleep(ctx, after); err != nil {
			return err
		}
	}
}

var errRefused = errors.New("refused")

func (s *Sender) post(ctx context.Context, body []byte) (after time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errRefused, err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := s.Client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return 0, nil
	}
	err = function.StatusError(resp)
	if !function.Retriable(resp.StatusCode) {
		return 0, fmt.Errorf("%w: %w", errRefused, err)
	}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return time.Duration(seconds) * time.Second, err
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
