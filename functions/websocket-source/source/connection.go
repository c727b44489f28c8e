package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	// dialTime is what a connection may take to be made, and a message to be sent.
	dialTime = 30 * time.Second
	// firstBackoff is the longest wait after the first failure.
	firstBackoff = 500 * time.Millisecond
	// closeTime is what saying that the source ends may take.
	closeTime = time.Second
	// settled is how long a connection lasts that is no failure: the next one is
	// made after a short wait.
	settled = 10 * time.Second
	// maxRetryAfter bounds what a feed can ask for.
	maxRetryAfter = 10 * time.Minute
)

// Why the source itself ends a connection.
var (
	errSilent     = errors.New("no frame has come for WEBSOCKET_SILENCE")
	errUnanswered = errors.New("a ping was not answered within WEBSOCKET_PING_TIMEOUT")
)

// read reads one connection after the other until ctx is done. What was read then
// may still find room until draining is done.
func (s *Source) read(ctx, draining context.Context) {
	for failures := 0; ctx.Err() == nil; failures++ {
		began := time.Now()
		err := s.connection(ctx, draining)
		if ctx.Err() != nil {
			return
		}
		cause, last, after := causeOf(err)
		s.metrics.ended.WithLabelValues(cause).Inc()
		if time.Since(began) > settled {
			failures = 0
		}
		wait := max(after, s.backoff(failures, last))
		s.log.Warn("connection ended, the next one is made", "cause", cause, "error", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// backoff is what follows a number of failures: a random part of a time that
// doubles, so that the clients of a feed do not come back at the same moment.
// last: of the longest such time.
func (s *Source) backoff(failures int, last bool) time.Duration {
	most := min(firstBackoff<<min(failures, 20), s.cfg.Backoff)
	if last {
		most = s.cfg.Backoff
	}
	return rand.N(most)
}

// refused is a handshake that the feed has not agreed to.
type refused struct {
	status int
	after  time.Duration
	err    error
}

func (r *refused) Error() string { return r.err.Error() }

// causeOf says why a connection ended, whether somebody has to see to it, and how
// long the feed wants to be left alone.
func causeOf(err error) (cause string, last bool, after time.Duration) {
	if r, ok := errors.AsType[*refused](err); ok {
		last = r.status >= 400 && r.status < 500 && r.status != http.StatusRequestTimeout && r.status != http.StatusTooManyRequests
		return strconv.Itoa(r.status), last, r.after
	}
	switch code := websocket.CloseStatus(err); code {
	case -1:
	case websocket.StatusProtocolError, websocket.StatusUnsupportedData, websocket.StatusInvalidFramePayloadData,
		websocket.StatusPolicyViolation, websocket.StatusMandatoryExtension:
		return strconv.Itoa(int(code)), true, 0
	default:
		return strconv.Itoa(int(code)), false, 0
	}
	switch {
	case errors.Is(err, websocket.ErrMessageTooBig):
		return strconv.Itoa(int(websocket.StatusMessageTooBig)), false, 0
	case errors.Is(err, errSilent):
		return "silent", false, 0
	case errors.Is(err, errUnanswered):
		return "unanswered", false, 0
	case errors.Is(err, errUnreachable):
		return "unreachable", false, 0
	}
	return "dropped", false, 0
}

var errUnreachable = errors.New("not connected")

// connection makes a connection and reads its frames until it ends.
func (s *Source) connection(ctx, draining context.Context) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	leaving := ctx
	ctx, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	defer context.AfterFunc(leaving, func() { // the feed is told, but not waited for
		defer time.AfterFunc(closeTime, func() { end(context.Canceled) }).Stop()
		conn.Close(websocket.StatusGoingAway, "")
	})()
	conn.SetReadLimit(s.cfg.MaxFrame)
	if err := s.subscribe(ctx, conn); err != nil {
		return err
	}
	s.metrics.connections.Inc()
	s.metrics.connected.Set(1)
	defer s.metrics.connected.Set(0)
	_, resumed := s.cursor.get()
	s.log.Info("connected", "resumed", resumed)
	if s.cfg.Ping > 0 && s.cfg.PingTimeout > 0 {
		go s.ping(ctx, conn, end)
	}
	// While there is no room nothing is read, and nobody is silent.
	silence := time.AfterFunc(never, func() { end(errSilent) })
	defer silence.Stop()
	var buf bytes.Buffer
	for {
		if s.cfg.Silence > 0 {
			silence.Reset(s.cfg.Silence)
		}
		data, err := readFrame(ctx, conn, &buf)
		silence.Stop()
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return cause
		}
		if err != nil {
			return err
		}
		if err := s.take(draining, data); err != nil {
			return err
		}
	}
}

const never = 1<<63 - 1

// dial connects to the feed. Its errors do not tell the URL, which may hold what
// is secret.
func (s *Source) dial(ctx context.Context) (*websocket.Conn, error) {
	value, _ := s.cursor.get()
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn, resp, err := websocket.Dial(dialing, strings.ReplaceAll(s.cfg.URL, "{cursor}", url.QueryEscape(value)),
		&websocket.DialOptions{HTTPHeader: s.header.Clone()})
	if err == nil {
		return conn, nil
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, &refused{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), time.Now()), fmt.Errorf("the feed answers %s", resp.Status)}
	}
	return nil, fmt.Errorf("%w: %w", errUnreachable, err)
}

// retryAfter reads the header field of that name (RFC 9110, section 10.2.3).
func retryAfter(value string, now time.Time) time.Duration {
	var after time.Duration
	if seconds, err := strconv.Atoi(value); err == nil {
		after = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		after = at.Sub(now)
	}
	return min(max(after, 0), maxRetryAfter)
}

// subscribe sends what the feed is asked for.
func (s *Source) subscribe(ctx context.Context, conn *websocket.Conn) error {
	messages := s.cfg.Subscribe
	if value, known := s.cursor.get(); known && s.cfg.Resume != "" {
		quoted, err := jsontext.AppendQuote(nil, value)
		if err != nil {
			return fmt.Errorf("cursor %q: %w", value, err)
		}
		messages = strings.ReplaceAll(s.cfg.Resume, "{cursor}", string(quoted[1:len(quoted)-1]))
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	for message := range lines(messages) {
		if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
			return fmt.Errorf("subscribe: %w", err)
		}
	}
	return nil
}

// pressed is whether the source reads nothing, since there is no room. No ping is
// sent then: its answer is not seen, and the feed may wait for it to be taken.
type pressed struct {
	now   atomic.Bool
	times atomic.Int64
}

// ping sends pings until ctx is done, and ends the connection when none is
// answered.
func (s *Source) ping(ctx context.Context, conn *websocket.Conn, end func(error)) {
	for {
		select {
		case <-time.After(s.cfg.Ping):
		case <-ctx.Done():
			return
		}
		if s.pressed.now.Load() {
			continue
		}
		times := s.pressed.times.Load()
		answering, cancel := context.WithTimeout(ctx, s.cfg.PingTimeout)
		err := conn.Ping(answering)
		cancel()
		switch {
		case err == nil || s.pressed.now.Load() || s.pressed.times.Load() != times:
		case errors.Is(err, context.DeadlineExceeded):
			end(errUnanswered)
			return
		default: // the connection has ended: who reads it says why
			return
		}
	}
}

// readFrame reads a frame into memory of its own.
func readFrame(ctx context.Context, conn *websocket.Conn, buf *bytes.Buffer) ([]byte, error) {
	_, r, err := conn.Reader(ctx)
	if err != nil {
		return nil, err
	}
	buf.Reset()
	if _, err := buf.ReadFrom(r); err != nil {
		return nil, err
	}
	return bytes.Clone(buf.Bytes()), nil
}

// take brings a frame on its way, when there is room.
func (s *Source) take(draining context.Context, data []byte) error {
	s.metrics.frames.Inc()
	s.metrics.bytes.Add(float64(len(data)))
	f := s.frames.read(data, time.Now())
	done := s.cursor.take(&f)
	if f.event == nil {
		s.metrics.passedOver.Inc()
		done()
		return nil
	}
	s.pressed.times.Add(1)
	s.pressed.now.Store(true)
	place, err := s.flight.Reserve(draining, len(data))
	s.pressed.now.Store(false)
	if err != nil {
		return err
	}
	key := "" // events of one type come together
	if s.frames.has[eventType] {
		key = f.event.Type()
	}
	at := f.event.Time()
	s.flight.Go(key, place, *f.event, func(err error) {
		if err != nil {
			return
		}
		s.metrics.accepted.Inc()
		s.metrics.lag.Set(time.Since(at).Seconds())
		done()
	})
	return nil
}
