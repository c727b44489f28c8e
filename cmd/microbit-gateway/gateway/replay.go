package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/microbit"
	"github.com/telemesh/telemesh/internal/spool"
)

// position is how much of a file is kept: it is written with the frames, so that
// who is killed goes on behind them.
type position struct {
	File   string `json:"file"`
	Frames int    `json:"frames"`
	Hash   string `json:"hash"` // of the frames
}

func (p *position) add(record []byte) {
	p.Frames++
	p.Hash = mesh.Hash(p.Hash, string(record))
}

// leads tells whether the file still begins with the frames.
func (p position) leads(g *gateway, file io.Reader) bool {
	var now position
	for f, err := range microbit.Recorded(file) {
		if now.Frames == p.Frames {
			break
		}
		if err == nil {
			now.add(g.reading(f).record())
		}
	}
	return now.Frames == p.Frames && now.Hash == p.Hash
}

// positionNote is the note of the spool that has the position.
const positionNote = "replay"

// replay sends the frames of a file with the times that it gives them, and
// returns when all are sent. It gives how many it has read.
func replay(ctx context.Context, cfg config, clock Clock, log *slog.Logger, name string) (read int, err error) {
	file, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if name, err = filepath.Abs(name); err != nil {
		return 0, err
	}
	g, err := open(cfg, clock, log)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	var at position
	if text, err := g.spool.Note(positionNote); err != nil {
		return 0, err
	} else if text != "" {
		if err := json.Unmarshal([]byte(text), &at); err != nil {
			return 0, fmt.Errorf("note of the replay: %w", err)
		}
	}
	// It may be another recording under the name of the one before, or a pipe.
	if at.File != name || !at.leads(g, io.NewSectionReader(file, 0, math.MaxInt64)) {
		at = position{File: name}
	}
	if at.Frames > 0 {
		log.Info("frames of this file were taken before; it goes on behind them", "frames", at.Frames, "file", name)
	}

	sending, stop := context.WithCancel(ctx)
	defer stop()
	last, sent := make(chan struct{}), make(chan error, 1)
	go func() { sent <- g.send(sending, last) }()
	read, bad, err := g.readFile(ctx, file, &at)
	if err == nil {
		close(last)
	} else {
		stop()
	}
	if ended := <-sent; err == nil {
		err = ended
	}
	if err == nil { // the next replay of the file is one from its beginning
		_, err = g.spool.Append(nil, spool.Note{Name: positionNote})
	}
	switch stats := g.spool.Stats(); {
	case ctx.Err() != nil:
		err = hinted{fmt.Errorf("replay %s: %w", name, ctx.Err()), "the same command goes on where it was"}
	case err != nil:
	case stats.Dropped+stats.Refused+g.lost.failed > 0:
		err = hinted{fmt.Errorf("%d frames had no room on disk and are not sent", stats.Dropped+stats.Refused+g.lost.failed), "leave out --speed, or give more --max-bytes"}
	case g.aside > 0:
		err = fmt.Errorf("%d frames were not taken: see %s", g.aside, filepath.Join(cfg.spool, "refused.ndjson"))
	case bad > 0:
		err = fmt.Errorf("%d lines of %s are no frames", bad, name)
	}
	return read, err
}

// readFile keeps the frames behind a position, at the speed of the configuration.
func (g *gateway) readFile(ctx context.Context, file *os.File, at *position) (read, bad int, err error) {
	var records [][]byte
	var size int64
	flush := func() error {
		if len(records) == 0 {
			return nil
		}
		text, err := json.Marshal(at)
		if err != nil {
			return err
		}
		if err := g.append(records, spool.Note{Name: positionNote, Value: string(text)}); err != nil {
			return err
		}
		records, size = nil, 0
		// What is not paced does not run ahead of what is sent.
		for g.cfg.speed == 0 && g.spool.Stats().Bytes > g.cfg.maxBytes/2 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-g.room:
			}
		}
		return ctx.Err()
	}
	var first time.Time // of the file
	begun := time.Now()
	for f, err := range microbit.Recorded(file) {
		if err != nil {
			bad++
			g.log.Error("not read", "file", at.File, "error", err)
			continue
		}
		if read++; read <= at.Frames {
			continue
		}
		if first.IsZero() {
			first = f.At
		}
		if g.cfg.speed > 0 {
			if wait := time.Until(begun.Add(time.Duration(float64(f.At.Sub(first)) / g.cfg.speed))); wait > 0 {
				if err := flush(); err != nil {
					return read, bad, err
				}
				select {
				case <-ctx.Done():
					return read, bad, ctx.Err()
				case <-time.After(wait):
				}
			}
		}
		record := g.reading(f).record()
		at.add(record)
		size += int64(len(record)) + spool.Overhead
		if records = append(records, record); len(records) == maxTogether || size > g.cfg.maxBytes/4 {
			if err := flush(); err != nil {
				return read, bad, err
			}
		}
	}
	return read, bad, flush()
}
