package show

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// feed keeps the latest events, for any number of readers. None of these can hold
// up who adds: one that is too slow misses what is not kept any more.
type feed struct {
	mostEvents, mostBytes int
	began                 string // tells its numbers from those of the process before

	mu    sync.Mutex
	kept  [][]byte // the oldest first
	bytes int
	last  int64         // number of the latest, from 1
	news  chan struct{} // closed when one is added, or the feed ends
	ended bool
}

func newFeed(events, bytes int) *feed {
	return &feed{mostEvents: events, mostBytes: bytes, began: strconv.FormatInt(time.Now().UnixNano(), 36), news: make(chan struct{})}
}

// add keeps one more, as make gives it for its number.
func (f *feed) add(make func(n int64) []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	one := make(f.last)
	f.kept, f.bytes = append(f.kept, one), f.bytes+len(one)
	for len(f.kept) > f.mostEvents || f.bytes > f.mostBytes {
		f.bytes -= len(f.kept[0])
		f.kept[0] = nil
		f.kept = f.kept[1:]
	}
	f.wake()
}

func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.wake()
}

func (f *feed) wake() {
	close(f.news)
	f.news = make(chan struct{})
}

// part is some events that follow each other.
type part struct {
	events [][]byte
	last   int64           // number of the last of them
	missed int64           // before them, which are not kept any more
	news   <-chan struct{} // closed when there is more
	ended  bool
}

// after gives events after number n, as many as fit into a write or one.
func (f *feed) after(n int64) part {
	const write = 256 << 10
	f.mu.Lock()
	defer f.mu.Unlock()
	first := f.last - int64(len(f.kept)) + 1
	p := part{last: n, news: f.news, ended: f.ended}
	if n+1 < first {
		p.missed, p.last = first-1-n, first-1
	}
	size := 0
	for _, one := range f.kept[p.last+1-first:] {
		if size += len(one); size > write && p.events != nil {
			break
		}
		p.events = append(p.events, one)
	}
	p.last += int64(len(p.events))
	return p
}

// start is the number after which the oldest that is kept comes.
func (f *feed) start() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last - int64(len(f.kept))
}

// id names event n to who comes again for those after it.
func (f *feed) id(n int64) string { return fmt.Sprintf("%s-%d", f.began, n) }

// number is the n of an id; false: it is none of this process.
func (f *feed) number(id string) (int64, bool) {
	began, text, _ := strings.Cut(id, "-")
	n, err := strconv.ParseInt(text, 10, 64)
	f.mu.Lock()
	defer f.mu.Unlock()
	return n, err == nil && began == f.began && n >= 0 && n <= f.last
}
