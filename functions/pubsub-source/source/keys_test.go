package source

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/pubsub/pubsubtest"
)

// ordered is a service with message ordering as Pub/Sub has it,
// https://cloud.google.com/pubsub/docs/ordering: it sends messages of a key
// without waiting for their acks, and after a nack it sends the message and all
// later ones of its key again, also the acknowledged. pstest sends one at a time.
type ordered struct {
	pubsubpb.UnimplementedSubscriberServer
	keys, each int // keys k0, k1, …, each with messages 0, 1, …

	mu    sync.Mutex
	next  []int // by key, what is sent next
	acked []map[int]bool
	nacks int
}

func (o *ordered) StreamingPull(to pubsubpb.Subscriber_StreamingPullServer) error {
	if _, err := to.Recv(); err != nil {
		return err
	}
	// In portions, so that some are under way whenever one is nacked.
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-to.Context().Done():
			return nil
		case <-tick.C:
		}
		resp := &pubsubpb.StreamingPullResponse{
			SubscriptionProperties: &pubsubpb.StreamingPullResponse_SubscriptionProperties{MessageOrderingEnabled: true},
		}
		o.mu.Lock()
		for k := range o.keys {
			for range 7 {
				if o.next[k] == o.each {
					break
				}
				resp.ReceivedMessages = append(resp.ReceivedMessages, &pubsubpb.ReceivedMessage{
					AckId: fmt.Sprintf("%d/%d", k, o.next[k]),
					Message: &pubsubpb.PubsubMessage{
						MessageId: fmt.Sprintf("%d-%d", k, o.next[k]), OrderingKey: fmt.Sprint("k", k), Data: fmt.Append(nil, o.next[k]),
					},
				})
				o.next[k]++
			}
		}
		o.mu.Unlock()
		if len(resp.ReceivedMessages) > 0 {
			if err := to.Send(resp); err != nil {
				return err
			}
		}
	}
}

func (o *ordered) Acknowledge(_ context.Context, req *pubsubpb.AcknowledgeRequest) (*emptypb.Empty, error) {
	o.settle(req.AckIds, func(k, i int) { o.acked[k][i] = true })
	return &emptypb.Empty{}, nil
}

func (o *ordered) ModifyAckDeadline(_ context.Context, req *pubsubpb.ModifyAckDeadlineRequest) (*emptypb.Empty, error) {
	if req.AckDeadlineSeconds == 0 {
		o.settle(req.AckIds, func(k, i int) {
			o.nacks++
			o.next[k] = min(o.next[k], i)
			delete(o.acked[k], i)
		})
	}
	return &emptypb.Empty{}, nil
}

func (o *ordered) settle(ids []string, f func(k, i int)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		key, number, _ := strings.Cut(id, "/")
		k, _ := strconv.Atoi(key)
		i, _ := strconv.Atoi(number)
		f(k, i)
	}
}

func (o *ordered) settled() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k := range o.keys {
		if o.next[k] < o.each || len(o.acked[k]) < o.each {
			return false
		}
	}
	return true
}

// A broker that refuses many events sees no message of a key before the one
// that was published before it, though later ones are queued and on their way
// whenever one fails. Messages may come again, with all that follow them.
func TestKeyKeepsItsOrder(t *testing.T) {
	const keys, each = 3, 400
	service := &ordered{keys: keys, each: each, next: make([]int, keys)}
	for range keys {
		service.acked = append(service.acked, map[int]bool{})
	}
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	b := newBroker(t, func(n int, _ []string) http.HandlerFunc {
		mu.Lock()
		defer mu.Unlock()
		if random.IntN(4) == 0 {
			return answer(http.StatusBadRequest) // nacked at once
		}
		return nil
	})
	s := newSource(t, pubsubtest.Serve(t, service), b.URL)
	s.batcher = batch.New(batch.Config{MaxMessages: 20, MaxBytes: 1 << 18, Linger: 10 * time.Millisecond}, name, s.post)
	stop := start(t, s)
	await(t, "unacked messages", service.settled)
	if err := stop(); err != nil {
		t.Error(err)
	}
	first := map[string]int{} // by key, what must not be exceeded
	events := b.events()
	for _, e := range events {
		key, _ := e.Extensions()[mesh.ExtPartitionKey].(string)
		for _, payload := range payloads(t, e) {
			i, err := strconv.Atoi(payload)
			if err != nil || !strings.HasPrefix(key, "k") {
				t.Fatalf("message %q of key %q", payload, key)
			}
			if i > first[key] {
				t.Fatalf("message %d of %s was accepted before message %d", i, key, first[key])
			}
			first[key] = max(first[key], i+1)
		}
	}
	for k := range keys {
		if key := fmt.Sprint("k", k); first[key] != each {
			t.Errorf("%d of %d messages of %s were accepted", first[key], each, key)
		}
	}
	if service.nacks < 100 {
		t.Errorf("%d nacks: the test shows little", service.nacks)
	}
	if len(events) > keys*each/4 {
		t.Errorf("%d events: want messages of a key to share them", len(events))
	}
}

func TestInterruptedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k keys
		place := map[string]uint64{}
		pass := func(key, id string, want bool) {
			t.Helper()
			got := k.pass(key, id, func(p uint64) { place[id] = p })
			if got != want {
				t.Errorf("message %s of %s passes: %t, want %t", id, key, got, want)
			}
		}
		for _, id := range []string{"1", "2", "3"} {
			pass("k", id, true)
		}
		k.interrupt("k", "1", place["1"])
		k.interrupt("k", "2", place["2"])
		second := place["2"]
		pass("k", "3", false)
		pass("other", "x", true)
		pass("k", "1", true) // again
		// That 2 had failed with 1 is known only now.
		k.interrupt("k", "2", second)
		pass("k", "2", true)
		pass("k", "3", true)

		// One that fails again interrupts again.
		k.interrupt("k", "2", place["2"])
		pass("k", "3", false)

		// Another source has got 2, and then the key has come back.
		time.Sleep(gapLasts)
		synctest.Wait()
		pass("k", "9", true)
		if len(k.gaps) != 0 {
			t.Errorf("%d keys are remembered in which nothing is missing", len(k.gaps))
		}
	})
}
