package bigquery

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/telemesh/telemesh/internal/warehouse"
)

// ledger remembers the last events that this process stored, so that their
// redelivery costs nothing. It holds two generations and forgets the older when
// the younger is full. What it does not remember is appended again, which the
// views do not show.
type ledger struct {
	mu         sync.Mutex
	young, old map[eventHash]struct{}
}

const generationSize = 1 << 16

// eventHash is a SHA-256 of an event's source and id and of the table, cut to
// what no two events share.
type eventHash [16]byte

func hashEvent(b *warehouse.Batch) (h eventHash) {
	var buf [256]byte
	key := buf[:0]
	for _, s := range [...]string{b.Table, b.EventSource, b.EventID} {
		key = binary.AppendUvarint(key, uint64(len(s)))
		key = append(key, s...)
	}
	sum := sha256.Sum256(key)
	copy(h[:], sum[:])
	return h
}

func (l *ledger) has(h eventHash) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, young := l.young[h]
	_, old := l.old[h]
	return young || old
}

func (l *ledger) add(h eventHash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.young == nil || len(l.young) == generationSize {
		l.old, l.young = l.young, map[eventHash]struct{}{}
	}
	l.young[h] = struct{}{}
}
