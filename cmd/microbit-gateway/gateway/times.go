package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/telemesh/telemesh/internal/spool"
)

// Clock is the clock of the machine.
type Clock interface {
	Now() time.Time
	// Set says whether somebody has set it since the machine started: a time
	// server. Until then it is where it stood when the power went.
	Set() bool
	// Boot names this start of the machine, and says how long ago it was. That
	// goes on evenly while the clock is set.
	Boot() (id string, ago time.Duration)
}

// times puts the times of readings right that came before the clock was set.
type times struct {
	clock Clock
	trust bool // the clock is taken as it is
	spool *spool.Spool
	log   *slog.Logger

	mu    sync.Mutex
	boots []boot // of which the clock was set, the last ones
	told  bool

	between int64 // in µs, the time of the clock less that since the start of the machine
}

// boot is when a start of the machine was.
type boot struct {
	ID    string `json:"id"`
	Began int64  `json:"began"` // µs since 1970
}

const (
	// clockNote is the note of the spool that has the boots. A time that was put
	// right once is the same when it is sent again.
	clockNote = "boots"
	// maxApart is how much later, in µs, one clock may be read than the other.
	maxApart = 1e6
	// maxBoots is more than have readings that wait, or their times are lost.
	maxBoots = 64
)

func newTimes(clock Clock, trust bool, s *spool.Spool, log *slog.Logger) (*times, error) {
	t := &times{clock: clock, trust: trust, spool: s, log: log}
	text, err := s.Note(clockNote)
	if err == nil && text != "" {
		err = json.Unmarshal([]byte(text), &t.boots)
	}
	return t, err
}

// find gives when a start was; ok is false where its clock was never set.
func (t *times) find(id string) (began int64, ok bool) {
	i := slices.IndexFunc(t.boots, func(b boot) bool { return b.ID == id })
	if i < 0 {
		return 0, false
	}
	return t.boots[i].Began, true
}

// settle says whether the clock was set since the machine started: it is right
// from then on, also where no time server is heard any more.
func (t *times) settle(id string, ago time.Duration) (bool, error) {
	if _, ok := t.find(id); ok {
		return true, nil
	}
	if !t.trust && !t.clock.Set() {
		if !t.told {
			t.told = true
			t.log.Warn("the clock is not set yet: readings wait until it is, or for --trust-clock")
		}
		return false, nil
	}
	boots := append(slices.Clone(t.boots), boot{id, t.clock.Now().UnixMicro() - ago.Microseconds()})
	boots = boots[max(0, len(boots)-maxBoots):]
	text, err := json.Marshal(boots)
	if err == nil {
		_, err = t.spool.Append(nil, spool.Note{Name: clockNote, Value: string(text)})
	}
	if err != nil {
		return false, err
	}
	if t.told {
		t.log.Info("the clock is set")
	}
	t.boots = boots
	return true, nil
}

// stamp notes with a reading that came just now how its time is put right, where
// the clock is not set.
func (t *times) stamp(r *reading) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, ago := t.clock.Boot()
	ok, err := t.settle(id, ago)
	if ok {
		return nil
	}
	now, up := t.clock.Now().UnixMicro(), ago.Microseconds()
	// The two clocks are read one after the other. As long as none was set it is the same
	// that lies between them, so that readings keep their order and their distances.
	if d := now - up - t.between; d < -maxApart || d > maxApart {
		t.between = now - up
	}
	r.Boot, r.Uptime = id, r.At-t.between
	if waited := now - r.At; waited < 0 || waited > time.Minute.Microseconds() { // the clock was set in between
		r.Uptime = up
	}
	return err
}

// errClock says that a time is not known yet.
var errClock = errors.New("the clock of this machine is not set: wait for its time server, or give --trust-clock if it is right")

// when gives the time of a reading in µs since 1970, errClock as long as it is
// not known, or another error where it never will be.
func (t *times) when(r reading) (int64, error) {
	if r.Boot == "" {
		return r.At, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if began, ok := t.find(r.Boot); ok {
		return began + r.Uptime, nil
	}
	id, ago := t.clock.Boot()
	if r.Boot != id {
		return 0, fmt.Errorf("nobody knows when it came: the clock of this machine was not set before it started again")
	}
	ok, err := t.settle(id, ago)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, errClock
	}
	began, _ := t.find(id)
	return began + r.Uptime, nil
}
