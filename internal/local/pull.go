package local

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
)

// puller asks a consumer for messages, so many at a time that the subscriber
// never waits for one that is there, and never for more.
//
// It speaks the protocol of JetStream itself. In jetstream.MessagesContext
// (nats.go v1.48.0) the goroutine that asks and the one that reads can miss
// each other when all that was asked for arrives before the former notes that
// it has asked; then nothing is asked for any more. Here one goroutine does
// both, and a request stands until it is answered, so that nothing runs while
// nothing comes.
type puller struct {
	conn     *nats.Conn
	inbox    *nats.Subscription
	messages chan *nats.Msg
	subject  string // of requests
	most     int    // asked for and not read
	asked    int
}

func newPuller(conn *nats.Conn, stream, consumer string, most int) (*puller, error) {
	p := &puller{
		conn:     conn,
		messages: make(chan *nats.Msg, most+1), // and one that says that there are no more
		subject:  "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + consumer,
		most:     most,
	}
	var err error
	p.inbox, err = conn.ChanSubscribe(conn.NewInbox(), p.messages)
	return p, err
}

// next waits for a message. It is called by one goroutine.
func (p *puller) next(ctx context.Context) (*nats.Msg, error) {
	for {
		if p.asked <= p.most/2 {
			request := []byte(`{"batch":` + strconv.Itoa(p.most-p.asked) + `}`)
			if err := p.conn.PublishRequest(p.subject, p.inbox.Subject, request); err != nil {
				return nil, err
			}
			p.asked = p.most
		}
		select {
		case msg := <-p.messages:
			if msg.Reply == "" { // a status: the server ends requests only with the consumer
				return nil, fmt.Errorf("the event store ends deliveries: %s %s", msg.Header.Get("Status"), msg.Header.Get("Description"))
			}
			p.asked--
			return msg, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
