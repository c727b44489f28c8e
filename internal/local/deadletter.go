package local

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
)

// DeadLetter is what could not be delivered, or not even be accepted.
type DeadLetter struct {
	ID       string
	At       time.Time
	Broker   manifest.Ref
	Trigger  manifest.Ref // that could not deliver it; zero: the ingress refused it
	Attempts int
	Cause    Cause
	Event    *event.Event // nil: it is no event
	Request  *Request     // what the ingress refused
}

// Cause says why.
type Cause struct {
	Status      int    // of HTTP, or what it would have been
	Destination string // that gave it
	Text        string
}

// Request is a request that the ingress refused.
type Request struct {
	Header    http.Header // what function.KeptHeader keeps of it
	Body      []byte
	Truncated bool // Body is its beginning
}

// ErrNotRedrivable says that a dead letter cannot be delivered again.
var ErrNotRedrivable = errors.New("cannot be redriven")

// ErrNoDeadLetter says that there is none of that id.
var ErrNoDeadLetter = errors.New("no such dead letter")

const (
	lettersStream = "deadletters"
	refusedStream = "refused"
	refusedPrefix = "r" // of the ids of refused requests

	// Who sends what is no event decides how much of it there is: the store
	// keeps the last of it.
	maxRefused      = 10_000
	maxRefusedBytes = 32 << 20
	maxRefusedBody  = 64 << 10

	// maxCause bounds the text of a cause.
	maxCause = 4096
)

// DeadLetters is the store of dead letters of a data folder.
type DeadLetters struct {
	js jetstream.JetStream
	// redrive stores a frame for one trigger alone.
	redrive func(ctx context.Context, broker, trigger manifest.Ref, frame []byte) error
	closeFn func()
}

// OpenDeadLetters opens the dead letters of a data folder while no mesh runs
// on it. What is redriven is delivered once one does.
func OpenDeadLetters(ctx context.Context, dir string, log *slog.Logger) (*DeadLetters, error) {
	s, err := openStore(dir, log)
	if err != nil {
		return nil, err
	}
	d, err := newDeadLetters(ctx, s.js)
	if err != nil {
		s.close()
		return nil, s.explain(err)
	}
	d.closeFn = s.close
	d.redrive = func(ctx context.Context, broker, trigger manifest.Ref, frame []byte) error {
		stream, consumer := streamName(broker), consumerName(trigger)
		if _, err := s.js.Consumer(ctx, stream, consumer); err != nil {
			return fmt.Errorf("%w: Trigger %s of Broker %s: %w", ErrNotRedrivable, trigger, broker, err)
		}
		_, err := s.publish.Publish(ctx, redriveSubject(stream, consumer), frame)
		return err
	}
	return d, nil
}

// Close ends what OpenDeadLetters began. The dead letters of a Mesh are closed
// with it.
func (d *DeadLetters) Close() error {
	if d.closeFn != nil {
		d.closeFn()
	}
	return nil
}

func newDeadLetters(ctx context.Context, js jetstream.JetStream) (*DeadLetters, error) {
	d := &DeadLetters{js: js}
	for _, cfg := range []jetstream.StreamConfig{
		{Name: lettersStream, Storage: jetstream.FileStorage},
		{Name: refusedStream, Storage: jetstream.FileStorage, MaxMsgs: maxRefused, MaxBytes: maxRefusedBytes, Discard: jetstream.DiscardOld},
	} {
		if _, err := js.CreateOrUpdateStream(ctx, cfg); err != nil {
			return nil, fmt.Errorf("open dead letters: %w", err)
		}
	}
	return d, nil
}

// letter is a dead letter as the store holds it: its length, itself in JSON,
// and the frame of its event.
type letter struct {
	At       time.Time
	Broker   manifest.Ref
	Trigger  manifest.Ref
	Attempts int
	Cause    Cause
	Request  *Request `json:",omitempty"`
}

func (d *DeadLetters) keep(ctx context.Context, stream string, l letter, frame []byte) error {
	if len(l.Cause.Text) > maxCause {
		l.Cause.Text = strings.ToValidUTF8(l.Cause.Text[:maxCause], "") + "…"
	}
	head, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("keep dead letter: %w", err)
	}
	b := binary.AppendUvarint(nil, uint64(len(head)))
	b = append(append(b, head...), frame...)
	if _, err := d.js.Publish(ctx, stream, b); err != nil {
		return fmt.Errorf("keep dead letter: %w", err)
	}
	return nil
}

func (d *DeadLetters) keepRefused(r *http.Request, body []byte, broker manifest.Ref, cause error) error {
	request := &Request{Header: function.KeptHeader(r.Header), Body: body}
	if len(body) > maxRefusedBody {
		request.Body, request.Truncated = body[:maxRefusedBody], true
	}
	return d.keep(r.Context(), refusedStream, letter{
		At: time.Now().UTC(), Broker: broker, Attempts: 1, Request: request,
		Cause: Cause{Status: statusOf(cause), Destination: "http://" + manifest.IngressHost + r.URL.Path, Text: cause.Error()},
	}, nil)
}

// readLetter gives a dead letter and the frame of its event. What damaged the
// one or the other is the cause, then: it can be looked at and discarded.
func readLetter(id string, b []byte) (DeadLetter, []byte) {
	out := DeadLetter{ID: id}
	var l letter
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		out.Cause.Text = "the store is damaged: no dead letter where one should be"
		return out, nil
	}
	head, frame := b[n:n+int(size)], b[n+int(size):]
	if err := json.Unmarshal(head, &l); err != nil {
		out.Cause.Text = "the store is damaged: " + err.Error()
		return out, nil
	}
	out = DeadLetter{
		ID: id, At: l.At, Broker: l.Broker, Trigger: l.Trigger, Attempts: l.Attempts, Cause: l.Cause, Request: l.Request,
	}
	if e, _, err := readFrame(frame); err == nil {
		out.Event = &e
	}
	return out, frame
}

// Count says how many dead letters there are.
func (d *DeadLetters) Count(ctx context.Context) (int, error) {
	count := 0
	for _, name := range []string{lettersStream, refusedStream} {
		stream, err := d.js.Stream(ctx, name)
		if err != nil {
			return 0, fmt.Errorf("count dead letters: %w", err)
		}
		count += int(stream.CachedInfo().State.Msgs)
	}
	return count, nil
}

// List yields the dead letters, oldest first: those of triggers, then the
// requests that the ingress refused.
func (d *DeadLetters) List(ctx context.Context) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		for _, name := range []string{lettersStream, refusedStream} {
			stream, err := d.js.Stream(ctx, name)
			if err != nil {
				yield(DeadLetter{}, fmt.Errorf("list dead letters: %w", err))
				return
			}
			for next := uint64(1); ; {
				// With a subject, this is the first message from next on.
				msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(name))
				if errors.Is(err, jetstream.ErrMsgNotFound) {
					break
				}
				if err != nil {
					yield(DeadLetter{}, fmt.Errorf("list dead letters: %w", err))
					return
				}
				next = msg.Sequence + 1
				l, _ := readLetter(letterID(name, msg.Sequence), msg.Data)
				if !yield(l, nil) {
					return
				}
			}
		}
	}
}

// Latest gives up to n dead letters, newest first: those of triggers, then the
// requests that the ingress refused, of which junk may bring any number. It
// reads no others.
func (d *DeadLetters) Latest(ctx context.Context, n int) ([]DeadLetter, error) {
	var latest []DeadLetter
	for _, name := range []string{lettersStream, refusedStream} {
		stream, err := d.js.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("list the latest dead letters: %w", err)
		}
		info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
		if err != nil {
			return nil, fmt.Errorf("list the latest dead letters: %w", err)
		}
		gone := make(map[uint64]bool, len(info.State.Deleted))
		for _, seq := range info.State.Deleted {
			gone[seq] = true
		}
		for seq := info.State.LastSeq; seq > 0 && seq >= info.State.FirstSeq && len(latest) < n; seq-- {
			if gone[seq] {
				continue
			}
			msg, err := stream.GetMsg(ctx, seq)
			if errors.Is(err, jetstream.ErrMsgNotFound) { // redriven or discarded since
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list the latest dead letters: %w", err)
			}
			l, _ := readLetter(letterID(name, seq), msg.Data)
			latest = append(latest, l)
		}
	}
	return latest, nil
}

func letterID(stream string, seq uint64) string {
	id := strconv.FormatUint(seq, 10)
	if stream == refusedStream {
		return refusedPrefix + id
	}
	return id
}

// Get gives one dead letter, or ErrNoDeadLetter.
func (d *DeadLetters) Get(ctx context.Context, id string) (DeadLetter, error) {
	l, _, err := d.get(ctx, id)
	return l, err
}

func (d *DeadLetters) get(ctx context.Context, id string) (DeadLetter, []byte, error) {
	_, msg, err := d.find(ctx, id)
	if err != nil {
		return DeadLetter{}, nil, err
	}
	l, frame := readLetter(id, msg.Data)
	return l, frame, nil
}

// find gives a dead letter as it is stored, and the stream that it is in.
func (d *DeadLetters) find(ctx context.Context, id string) (jetstream.Stream, *jetstream.RawStreamMsg, error) {
	name, number := lettersStream, id
	if digits, ok := strings.CutPrefix(id, refusedPrefix); ok {
		name, number = refusedStream, digits
	}
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil || seq == 0 {
		return nil, nil, fmt.Errorf("%w: %q", ErrNoDeadLetter, id)
	}
	stream, err := d.js.Stream(ctx, name)
	if err != nil {
		return nil, nil, fmt.Errorf("get dead letter %s: %w", id, err)
	}
	msg, err := stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil, fmt.Errorf("%w: %q", ErrNoDeadLetter, id)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("get dead letter %s: %w", id, err)
	}
	return stream, msg, nil
}

// Discard deletes a dead letter, whatever it is, or gives ErrNoDeadLetter. It
// is for what can never be redriven: the event is then gone for good.
func (d *DeadLetters) Discard(ctx context.Context, id string) error {
	stream, msg, err := d.find(ctx, id)
	if err != nil {
		return err
	}
	if err := stream.DeleteMsg(ctx, msg.Sequence); err != nil {
		return fmt.Errorf("discard dead letter %s: %w", id, err)
	}
	return nil
}

// Redrive gives the event of a dead letter to the trigger that could not
// deliver it, and to no other. The dead letter is gone once the event is
// accepted; if the process ends in between, there are both.
func (d *DeadLetters) Redrive(ctx context.Context, id string) error {
	l, frame, err := d.get(ctx, id)
	if err != nil {
		return err
	}
	if l.Request != nil {
		return fmt.Errorf("dead letter %s %w: the ingress refused it (%s): correct the sender and send it again", id, ErrNotRedrivable, l.Cause.Text)
	}
	if l.Event == nil {
		return fmt.Errorf("dead letter %s %w: its event cannot be read (%s)", id, ErrNotRedrivable, l.Cause.Text)
	}
	if err := d.redrive(ctx, l.Broker, l.Trigger, frame); err != nil {
		return fmt.Errorf("redrive dead letter %s: %w", id, err)
	}
	if err := d.Discard(ctx, id); err != nil {
		return fmt.Errorf("redrive dead letter %s: it is accepted, and still there: %w", id, err)
	}
	return nil
}
