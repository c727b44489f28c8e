// Package pubsubtest is a Pub/Sub service to test against: pstest with a faster
// way out.
//
// pstest hands one message to a stream and then waits 10 ms for the next: less
// than 100 a second. Here a stream gets what the stream said it can hold. When a
// stream ends, what it did not acknowledge is delivered again at once. Pub/Sub
// waits for the end of the ack deadline, at least 10 s, which a test of many
// kills cannot.
package pubsubtest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// The topic and the subscription of a Server.
const (
	Topic        = "projects/p/topics/t"
	Subscription = "projects/p/subscriptions/s"
)

// Server is a Pub/Sub service with one topic and one subscription. Its Addr is
// for PUBSUB_EMULATOR_HOST.
type Server struct {
	Addr string

	fake  *pstest.Server
	front *front
	mu    sync.Mutex // of Messages
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{fake: pstest.NewServer()}
	t.Cleanup(func() { s.fake.Close() })
	if _, err := s.fake.GServer.CreateTopic(t.Context(), &pubsubpb.Topic{Name: Topic}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.fake.GServer.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: Subscription, Topic: Topic}); err != nil {
		t.Fatal(err)
	}
	s.front = &front{GServer: &s.fake.GServer, holders: map[string]*stream{}, streams: map[*stream]bool{}}
	s.Addr = Serve(t, s.front)
	return s
}

// Serve serves a subscriber service until the test ends, and gives its address.
func Serve(t testing.TB, service pubsubpb.SubscriberServer) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pubsubpb.RegisterSubscriberServer(server, service)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// Publish publishes messages.
func (s *Server) Publish(t testing.TB, messages ...*pubsubpb.PubsubMessage) {
	t.Helper()
	if _, err := s.fake.GServer.Publish(t.Context(), &pubsubpb.PublishRequest{Topic: Topic, Messages: messages}); err != nil {
		t.Fatal(err)
	}
}

// Acked counts acknowledgements, also of what had been acknowledged before.
func (s *Server) Acked() int { return int(s.front.acked.Load()) }

// Unacked counts the messages that were never acknowledged.
func (s *Server) Unacked() int {
	n := 0
	for _, m := range s.Messages() {
		if m.Acks == 0 {
			n++
		}
	}
	return n
}

// Held counts the messages that a stream has and has not settled.
func (s *Server) Held() int {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	return len(s.front.holders)
}

// Messages is all that was published, with how often each was delivered and
// acknowledged, and with its modacks.
func (s *Server) Messages() []pstest.Message {
	// pstest fills in the messages that it has given to others before.
	s.mu.Lock()
	defer s.mu.Unlock()
	var messages []pstest.Message
	for _, m := range s.fake.Messages() {
		messages = append(messages, pstest.Message{
			ID: m.ID, Data: m.Data, Attributes: m.Attributes, PublishTime: m.PublishTime, OrderingKey: m.OrderingKey, Topic: m.Topic,
			Deliveries: m.Deliveries, Acks: m.Acks, Modacks: m.Modacks,
		})
	}
	return messages
}

// Cut ends the streams there are with a code.
func (s *Server) Cut(code codes.Code) {
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	for stream := range s.front.streams {
		stream.cut <- code
	}
}

// front is pstest but for its streams.
type front struct {
	*pstest.GServer

	acked atomic.Int64

	mu      sync.Mutex
	holders map[string]*stream // by ack id, which is the message's in pstest
	streams map[*stream]bool
}

// stream is one StreamingPull.
type stream struct {
	room  int           // messages it can take
	freed chan struct{} // when there is more room
	cut   chan codes.Code
}

// look is how often a stream looks for what was published.
const look = 2 * time.Millisecond

func (f *front) StreamingPull(to pubsubpb.Subscriber_StreamingPullServer) error {
	begin, err := to.Recv()
	if err != nil {
		return err
	}
	room := int(begin.MaxOutstandingMessages)
	if room < 1 {
		return fmt.Errorf("a stream without a bound of outstanding messages")
	}
	s := &stream{room: room, freed: make(chan struct{}, 1), cut: make(chan codes.Code, 1)}
	f.mu.Lock()
	f.streams[s] = true
	f.mu.Unlock()
	defer f.end(s, begin.Subscription)
	ended := make(chan struct{})
	pings := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := to.Recv(); err != nil {
				return
			}
			select {
			case pings <- struct{}{}:
			case <-to.Context().Done():
				return
			}
		}
	}()
	published := time.NewTicker(look)
	defer published.Stop()
	for {
		messages, err := f.pull(to.Context(), s, begin.Subscription)
		if err != nil {
			return err
		}
		if len(messages) > 0 {
			if err := to.Send(&pubsubpb.StreamingPullResponse{ReceivedMessages: messages}); err != nil {
				return err
			}
			continue
		}
		select {
		case <-pings:
			if err := to.Send(&pubsubpb.StreamingPullResponse{}); err != nil {
				return err
			}
		case <-s.freed:
		case <-published.C:
		case code := <-s.cut:
			return status.Error(code, "cut by the test")
		case <-ended:
			return nil
		}
	}
}

func (f *front) pull(ctx context.Context, s *stream, subscription string) ([]*pubsubpb.ReceivedMessage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.room == 0 || ctx.Err() != nil {
		return nil, ctx.Err()
	}
	got, err := f.Pull(ctx, &pubsubpb.PullRequest{Subscription: subscription, MaxMessages: int32(min(s.room, 1000)), ReturnImmediately: true})
	if err != nil {
		return nil, err
	}
	for _, m := range got.ReceivedMessages {
		f.holders[m.AckId] = s
	}
	s.room -= len(got.ReceivedMessages)
	return got.ReceivedMessages, nil
}

// release gives room for messages that are settled.
func (f *front) release(ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		if s := f.holders[id]; s != nil {
			delete(f.holders, id)
			s.room++
			select {
			case s.freed <- struct{}{}:
			default:
			}
		}
	}
}

// end nacks what s holds.
func (f *front) end(s *stream, subscription string) {
	f.mu.Lock()
	delete(f.streams, s)
	var left []string
	for id, holder := range f.holders {
		if holder == s {
			left = append(left, id)
			delete(f.holders, id)
		}
	}
	f.mu.Unlock()
	f.ModifyAckDeadline(context.Background(), &pubsubpb.ModifyAckDeadlineRequest{Subscription: subscription, AckIds: left})
}

func (f *front) Acknowledge(ctx context.Context, req *pubsubpb.AcknowledgeRequest) (*emptypb.Empty, error) {
	f.acked.Add(int64(len(req.AckIds)))
	f.release(req.AckIds)
	return f.GServer.Acknowledge(ctx, req)
}

func (f *front) ModifyAckDeadline(ctx context.Context, req *pubsubpb.ModifyAckDeadlineRequest) (*emptypb.Empty, error) {
	if req.AckDeadlineSeconds == 0 {
		f.release(req.AckIds) // before another stream can have them
		return f.GServer.ModifyAckDeadline(ctx, req)
	}
	// The library may extend what it has nacked before. Where a message keeps its
	// ack id that would hold it back for as long.
	f.mu.Lock()
	req.AckIds = slices.DeleteFunc(req.AckIds, func(id string) bool { return f.holders[id] == nil })
	f.mu.Unlock()
	return f.GServer.ModifyAckDeadline(ctx, req)
}
