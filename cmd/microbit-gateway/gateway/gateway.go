// Package gateway reads BBC micro:bits by Bluetooth and hands what they measure
// to an ingest endpoint, as CloudEvents in batches.
//
// A notification is on disk before anything is done with it, and stays there
// until ingest has answered that it took it. Who is killed, loses power or has no
// network sends it later, with the time when it came. The event of a notification
// is the same each time it is sent, so that one that comes twice is stored once.
//
// Where the clock of the machine is not set when a notification comes, as on a
// Raspberry Pi that starts without network, the event waits until it is, and its
// time is put right then. What came before a restart is kept but not sent when
// the clock was never set in between: nobody knows when it was.
//
// It keeps to a bound on disk; what has no room is counted and told. It does not
// read what a frame means: that is the format "microbit" of the mesh.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/telemesh/telemesh/internal/microbit"
	"github.com/telemesh/telemesh/internal/spool"
)

// gateway is one that runs.
type gateway struct {
	cfg    config
	spool  *spool.Spool
	times  *times
	sender *sender
	log    *slog.Logger

	wake   chan struct{} // something was kept
	room   chan struct{} // something was sent
	lost   lost
	failed string // why nothing is sent, as last told; empty: it is
	aside  int    // readings put aside since it started
}

// syncEvery is how much, at most, a loss of power takes.
const syncEvery = 10 * time.Second

// open opens the spool for a gateway. log gets what is to be told.
func open(cfg config, clock Clock, log *slog.Logger) (*gateway, error) {
	to, err := newSender(cfg.ingest, cfg.tokenFile, log)
	if err != nil {
		return nil, err
	}
	s, damaged, err := spool.Open(cfg.spool, spool.Config{MaxBytes: cfg.maxBytes, Keep: spool.Keep(cfg.keep)})
	if err != nil {
		return nil, err
	}
	if damaged != "" {
		log.Error("the spool was damaged and is put aside; a new one begins", "file", damaged)
	}
	g := &gateway{cfg: cfg, spool: s, sender: to, log: log, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	if g.times, err = newTimes(clock, cfg.trustClock, s, log); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if n := s.Stats().Records; n > 0 {
		log.Info("readings of before wait to be sent", "readings", n)
	}
	return g, nil
}

// keep puts readings on disk as they come, until there are no more: those that
// come while it writes are written together.
func (g *gateway) keep(readings <-chan reading) {
	ticks := time.NewTicker(syncEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			if err := g.spool.Sync(); err != nil {
				g.log.Warn("the spool may not survive a loss of power", "error", err)
			}
		case r, ok := <-readings:
			if !ok {
				return
			}
			records := [][]byte{r.record()}
			for more := true; more && len(records) < maxTogether; {
				select {
				case r, ok := <-readings:
					if more = ok; ok {
						records = append(records, r.record())
					}
				default:
					more = false
				}
			}
			g.append(records) // of an error readings of later know nothing
		}
	}
}

// maxTogether bounds what is written at a time.
const maxTogether = 500

// append keeps records; what has no room is told.
func (g *gateway) append(records [][]byte, notes ...spool.Note) error {
	_, err := g.spool.Append(records, notes...)
	if errors.As(err, new(spool.DamagedError)) {
		g.log.Error("the spool is damaged; a new one begins", "error", err)
		_, err = g.spool.Append(records, notes...)
	}
	if err != nil {
		g.lost.failed += int64(len(records))
		g.lost.cause = err
	}
	g.lost.tell(g.log, g.spool.Stats(), g.cfg.keep)
	ring(g.wake)
	return err
}

func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// lost is what could not be kept.
type lost struct {
	failed int64 // readings that could not be written
	cause  error
	told   int64
	at     time.Time
}

// tell logs what is lost more than was told before, at most once a minute.
func (l *lost) tell(log *slog.Logger, stats spool.Stats, keep string) {
	all := l.failed + stats.Dropped + stats.Refused
	if all == l.told || !l.at.IsZero() && time.Since(l.at) < time.Minute {
		return
	}
	l.told, l.at = all, time.Now()
	if l.failed > 0 {
		log.Error("readings are lost: they cannot be written", "readings", l.failed, "error", l.cause)
	}
	if n := stats.Dropped + stats.Refused; n > 0 {
		log.Error("readings are lost: the spool is full", "readings", n, "keeps", keep, "waiting", stats.Records)
	}
}

// send sends what is kept, until ctx ends or, once there is no more to come,
// nothing waits.
func (g *gateway) send(ctx context.Context, last <-chan struct{}) error {
	retry := g.cfg.retry
	for {
		if err := g.await(ctx, last); err != nil {
			if errors.Is(err, errNoMore) {
				return nil
			}
			return err
		}
		err := g.deliver(ctx)
		ring(g.room)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			if g.failed != "" {
				g.failed = ""
				g.log.Info("readings are sent again", "waiting", g.spool.Stats().Records)
			}
			retry = g.cfg.retry
			continue
		}
		wait := clockEvery
		if !errors.Is(err, errClock) { // which is told where it is noticed
			if g.failed != err.Error() { // the same every minute says nothing
				g.failed = err.Error()
				g.log.Warn("readings are not sent; they wait", "waiting", g.spool.Stats().Records, "error", err)
			}
			wait = rand.N(retry)
			retry = min(2*retry, g.cfg.lastRetry)
			if l := (later{}); errors.As(err, &l) {
				wait = max(wait, l.after)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// errNoMore says that nothing waits, and nothing will.
var errNoMore = errors.New("no more")

// await returns when a batch is full, or when what waits has lingered.
func (g *gateway) await(ctx context.Context, last <-chan struct{}) error {
	var lingered <-chan time.Time
	for {
		over := false
		select {
		case <-last:
			over = true
		default:
		}
		switch n := g.spool.Stats().Records; {
		case n >= int64(g.cfg.batch) || over && n > 0:
			return nil
		case over:
			return errNoMore
		case n > 0 && lingered == nil:
			lingered = time.After(g.cfg.linger)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-last:
		case <-g.wake:
		case <-lingered:
			return nil
		}
	}
}

// batchBytes bounds a batch besides its number, for texts of the UART.
const batchBytes = 256 << 10

// deliver sends the oldest batch. Its error says why it is to be sent again
// later.
func (g *gateway) deliver(ctx context.Context) error {
	records, err := g.spool.Peek(g.cfg.batch, batchBytes)
	if err != nil {
		return err
	}
	var batch []outgoing
	var bad []refused
	for _, r := range records {
		o, err := g.outgoing(r)
		if errors.Is(err, errClock) {
			if len(batch) == 0 && len(bad) == 0 {
				return err
			}
			break
		}
		if err != nil {
			bad = append(bad, refused{o, err.Error()})
			continue
		}
		batch = append(batch, o)
	}
	accepted, refusals, err := g.halve(ctx, batch)
	switch {
	case err == nil && accepted == 0 && len(refusals) > 0:
		// Then it is not for the readings: a server that takes none is the wrong one.
		err = fmt.Errorf("%s refuses every reading: %s", g.sender.url, refusals[0].cause)
	case accepted > 0:
		bad = append(bad, refusals...)
	}
	return errors.Join(g.putAside(bad), err)
}

// clockEvery is how often is asked whether the clock is set.
const clockEvery = time.Second

// outgoing makes the event of a record.
func (g *gateway) outgoing(record spool.Record) (outgoing, error) {
	o := outgoing{record: record}
	if err := json.Unmarshal(record.Data, &o.reading); err != nil {
		return o, fmt.Errorf("no reading: %w", err)
	}
	at, err := g.times.when(o.reading)
	if err != nil {
		return o, err
	}
	o.reading.At, o.reading.Boot, o.reading.Uptime = at, "", 0
	o.event, err = json.Marshal(o.reading.event(g.cfg.source()))
	return o, err
}

// halve sends a batch and deletes what was taken. Of one whose content is
// refused it sends the halves, down to the events that are refused alone; these
// it gives and does not delete. Its error is that of a batch that was not
// judged.
func (g *gateway) halve(ctx context.Context, batch []outgoing) (accepted int, refusals []refused, err error) {
	if len(batch) == 0 {
		return 0, nil, nil
	}
	kept, err := g.sender.post(ctx, batch)
	if c := (contentError{}); errors.As(err, &c) {
		if len(batch) == 1 {
			return 0, []refused{{batch[0], c.Error()}}, nil
		}
		for _, half := range [][]outgoing{batch[:len(batch)/2], batch[len(batch)/2:]} {
			n, more, err := g.halve(ctx, half)
			accepted, refusals = accepted+n, append(refusals, more...)
			if err != nil {
				return accepted, refusals, err
			}
		}
		return accepted, refusals, nil
	}
	if err != nil {
		return 0, nil, err
	}
	records := make([]spool.Record, 0, len(batch))
	for i, o := range batch {
		if cause, ok := kept[i]; ok {
			refusals = append(refusals, refused{o, cause})
			continue
		}
		records = append(records, o.record)
	}
	return len(batch), refusals, g.spool.Delete(records)
}

// refused is a reading that is not to be sent again as it is.
type refused struct {
	outgoing
	cause string
}

// maxRefused bounds the file of readings put aside, in bytes; there is one of
// before, too.
const maxRefused = 1 << 20

// addTo opens a file to which lines are added. A line that a kill or a full disk
// tore off is ended, so that it does not take the next one with it.
func addTo(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			_, err = f.WriteString("\n")
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// putAside writes readings to refused.ndjson, which `replay` reads, and deletes
// them from the spool.
func (g *gateway) putAside(bad []refused) (err error) {
	if len(bad) == 0 {
		return nil
	}
	name := filepath.Join(g.cfg.spool, "refused.ndjson")
	if info, err := os.Stat(name); err == nil && info.Size() > maxRefused {
		if err := os.Rename(name, filepath.Join(g.cfg.spool, "refused.before.ndjson")); err != nil {
			return err
		}
	}
	f, err := addTo(name)
	if err != nil {
		return fmt.Errorf("put refused readings aside: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var records []spool.Record
	for _, r := range bad {
		line, err := r.reading.line(r.cause)
		if err != nil {
			return err
		}
		if _, err := f.Write(line); err != nil {
			return fmt.Errorf("put refused readings aside: %w", err)
		}
		records = append(records, r.record)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("put refused readings aside: %w", err)
	}
	g.aside += len(bad)
	g.log.Error("readings are put aside: they are not taken as they are", "readings", len(bad), "file", name, "cause", bad[0].cause)
	return g.spool.Delete(records)
}

// stop syncs and closes the spool, and says what waits in it and what is lost.
func (g *gateway) stop() error {
	g.lost.at = time.Time{}
	g.lost.tell(g.log, g.spool.Stats(), g.cfg.keep)
	if n := g.spool.Stats().Records; n > 0 {
		g.log.Info("readings wait on disk", "readings", n, "spool", g.cfg.spool)
	}
	return g.spool.Close()
}

// reading makes a reading of a frame, whose time is that of the frame.
func (g *gateway) reading(f microbit.Frame) reading {
	return reading{Device: g.cfg.deviceID(f.Device), Characteristic: f.Characteristic, At: f.At.UnixMicro(), Value: f.Value}
}
