package bigquery

import (
	"sync"

	"github.com/telemesh/telemesh/internal/warehouse"
)

// ledger remembers the last events that this process stored, so that their
// redelivery costs nothing. It holds two generations and forgets the older when
// the younger is full. What it does not remember is appended again, which the
// views do not show.
type ledger struct {
	mu         sync.Mutex
	young, old map[warehouse.EventHash]struct{}
}

const generationSize = 1 << 16

func (l *ledger) has(h warehouse.EventHash) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, young := l.young[h]
	_, old := l.old[h]
	return young || old
}

func (l *ledger) add(h warehouse.EventHash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.young == nil || len(l.young) == generationSize {
		l.old, l.young = l.young, map[warehouse.EventHash]struct{}{}
	}
	l.young[h] = struct{}{}
}
