package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/telemesh/telemesh/internal/microbit"
)

// run reads micro:bits until ctx ends.
func run(ctx context.Context, cfg config, clock Clock, log *slog.Logger) (err error) {
	if err := cfg.ble.Validate(); err != nil {
		return err
	}
	record := func(microbit.Frame) {}
	if cfg.record != "" {
		f, err := addTo(cfg.record)
		if err != nil {
			return fmt.Errorf("record: %w", err)
		}
		defer f.Close()
		record = func(frame microbit.Frame) {
			if err := microbit.Record(f, frame); err != nil {
				log.Error("not recorded", "error", err)
			}
		}
	}
	g, err := open(cfg, clock, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.stop()) }()

	readings := make(chan reading, 4*maxTogether)
	kept, sent := make(chan struct{}), make(chan error, 1)
	go func() {
		g.keep(readings)
		close(kept)
	}()
	go func() { sent <- g.send(ctx, nil) }()
	g.listen(ctx, func(f microbit.Frame) {
		record(f)
		r := g.reading(f)
		if err := g.times.stamp(&r); err != nil {
			log.Error("the time of readings may not be put right", "error", err)
		}
		readings <- r
	})
	close(readings)
	<-kept
	if err := <-sent; !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Time between attempts to use BlueZ.
const (
	firstListen = time.Second
	lastListen  = 30 * time.Second
)

// listen gives frames until ctx ends. A BlueZ that cannot be used is tried again:
// what was kept before is sent all the while.
func (g *gateway) listen(ctx context.Context, take func(microbit.Frame)) {
	told := ""
	for wait := firstListen; ; wait = min(2*wait, lastListen) {
		err := microbit.Run(ctx, g.cfg.ble, g.log, take)
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != told {
			told = err.Error()
			g.log.Error("micro:bits cannot be read; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
