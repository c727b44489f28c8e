package source

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// cursor is up to where the broker has accepted all of a feed.
type cursor struct {
	file string // empty: none
	log  *slog.Logger

	mu      sync.Mutex
	pending list.List // of *step, in the order in which frames came; no two that are done follow each other
	value   string
	known   bool
	dirty   chan struct{} // the value has changed
	stop    chan struct{}
	stopped chan error // what the last write gave
}

// step is a frame on its way, or several that are done.
type step struct {
	cursor string
	has    bool
	done   bool
}

// writeInterval is how seldom the file is written: a kill brings what was accepted
// in it again.
const writeInterval = time.Second

// openCursor reads the file, if there is one. Without a pointer to a cursor there
// is none: nil.
func openCursor(pointer, file string, log *slog.Logger) (*cursor, error) {
	if pointer == "" {
		return nil, nil
	}
	c := &cursor{file: file, log: log}
	if file == "" {
		return c, nil
	}
	text, err := os.ReadFile(file)
	switch {
	case err == nil:
		c.value = strings.TrimSuffix(string(text), "\n")
		c.known = c.value != ""
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("WEBSOCKET_CURSOR_FILE: %w", err)
	}
	if err := c.write(c.value); err != nil { // rather now than when there is something to lose
		return nil, fmt.Errorf("WEBSOCKET_CURSOR_FILE: %w", err)
	}
	c.dirty, c.stop, c.stopped = make(chan struct{}, 1), make(chan struct{}), make(chan error, 1)
	go c.keep()
	return c, nil
}

// get gives the cursor, if one is known.
func (c *cursor) get() (value string, known bool) {
	if c == nil {
		return "", false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value, c.known
}

// take notes a frame that is on its way; done is to be called when it is accepted.
func (c *cursor) take(f *frame) (done func()) {
	if c == nil {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.pending.PushBack(&step{cursor: f.cursor, has: f.hasCursor})
	return func() { c.done(e) }
}

func (c *cursor) done(e *list.Element) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := e.Value.(*step)
	s.done = true
	if behind := e.Next(); behind != nil && behind.Value.(*step).done {
		c.join(e, behind)
	}
	switch before := e.Prev(); {
	case before == nil:
		c.pending.Remove(e)
		if s.has {
			c.value, c.known = s.cursor, true
			c.moved()
		}
	case before.Value.(*step).done:
		c.join(before, e)
	}
}

// join makes one of two that are done: of what is accepted behind a frame that is not, the
// last cursor is all that counts.
func (c *cursor) join(e, behind *list.Element) {
	into, from := e.Value.(*step), c.pending.Remove(behind).(*step)
	if from.has {
		into.cursor, into.has = from.cursor, true
	}
}

// keep writes the file when the cursor has moved, and at the end.
func (c *cursor) keep() {
	for {
		select {
		case <-c.dirty:
		case <-c.stop:
			value, _ := c.get()
			c.stopped <- c.write(value)
			return
		}
		value, _ := c.get()
		if err := c.write(value); err != nil {
			c.log.Warn("cursor not written, it is tried again", "file", c.file, "error", err)
			c.moved()
		}
		select {
		case <-time.After(writeInterval):
		case <-c.stop:
		}
	}
}

// moved has the file written, if there is one.
func (c *cursor) moved() {
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// close writes the file for the last time.
func (c *cursor) close() error {
	if c == nil || c.stop == nil {
		return nil
	}
	close(c.stop)
	if err := <-c.stopped; err != nil {
		return fmt.Errorf("write WEBSOCKET_CURSOR_FILE: %w", err)
	}
	return nil
}

// write puts the file in the place of the one that is there: a kill leaves one of
// them whole.
func (c *cursor) write(value string) error {
	f, err := os.CreateTemp(filepath.Dir(c.file), filepath.Base(c.file)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(value + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), c.file)
}
