package source

import (
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho/session"
)

// acks counts acknowledgements between what asks for them and the connection:
// paho sends them from time to time, and a process that ends before leaves
// accepted messages unacknowledged.
type acks struct {
	mu     sync.Mutex
	unsent int
	none   chan struct{} // closed when unsent is 0; nil: nobody waits
}

func (a *acks) due() { a.count(1) }

func (a *acks) sent() { a.count(-1) }

func (a *acks) count(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.set(a.unsent + n)
}

// lost says that what is unsent will not be sent.
func (a *acks) lost() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.set(0)
}

// set is called with a.mu held. An acknowledgement may be sent before due says
// that it will be.
func (a *acks) set(unsent int) {
	a.unsent = unsent
	if a.none != nil && unsent <= 0 {
		close(a.none)
		a.none = nil
	}
}

// ackTime is what acknowledgements may take. Those behind a message that was not
// accepted are not sent at all.
const ackTime = time.Second

// wait returns when the last acknowledgement is sent; nothing asks for one any
// more.
func (a *acks) wait() {
	a.mu.Lock()
	if a.unsent <= 0 {
		a.mu.Unlock()
		return
	}
	a.none = make(chan struct{})
	none := a.none
	a.mu.Unlock()
	select {
	case <-none:
	case <-time.After(ackTime):
	}
}

// sessionOf is a session that tells when an acknowledgement was sent.
type sessionOf struct {
	session.SessionManager
	acks *acks
}

func (s *sessionOf) Ack(p *packets.Publish) error {
	err := s.SessionManager.Ack(p)
	s.acks.sent()
	return err
}

func (s *sessionOf) ConnectionLost(p *packets.Disconnect) error {
	err := s.SessionManager.ConnectionLost(p)
	s.acks.lost()
	return err
}
