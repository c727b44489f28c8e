package bigquery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cloud.google.com/go/bigquery/storage/apiv1/storagepb"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

const (
	// maxRequest and maxRows are from where on a request takes no further rows.
	// The API takes 10 MB; more than this gains nothing.
	maxRequest = 3 << 20
	maxRows    = 20_000
	// maxInFlight is how many requests of a table wait for answers at once. What
	// comes meanwhile is the next request.
	maxInFlight = 4
	// maxWaiting is how many bytes of a table wait to be stored.
	maxWaiting = 32 << 20
	// rowOverhead is what the protocol adds to a row at most.
	rowOverhead = 6
)

// Append stores the rows of a batch and returns once they are durable.
func (w *Warehouse) Append(ctx context.Context, batch warehouse.Batch) (version int64, err error) {
	if err := w.use(); err != nil {
		return 0, err
	}
	defer w.users.Done()
	w.mu.RLock()
	t := w.tables[batch.Table]
	w.mu.RUnlock()
	if t == nil {
		return 0, mesh.Permanentf("append to %s: no product has this table", batch.Table)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	rejected, err := w.store(ctx, t, &batch)
	if err == nil {
		version, err = t.versions.after(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("append to %s: event %s %s: %w", batch.Table, batch.EventSource, batch.EventID, hint(err))
	}
	return version, batch.Refuse(rejected)
}

func (w *Warehouse) store(ctx context.Context, t *table, batch *warehouse.Batch) (warehouse.Rejected, error) {
	hash := batch.Hash()
	if w.ledger.has(hash) {
		return nil, nil
	}
	now := mesh.At(time.Now())
	staged := t.recorder.stage(ctx, now)
	rows, rejected, err := t.encode(batch, staged, now)
	if err != nil {
		return nil, err
	}
	if len(rejected) == 0 || !t.Ordered {
		more, err := t.sender.send(ctx, rows)
		if err != nil {
			return nil, err
		}
		rejected = append(rejected, more...)
	}
	if len(rejected) > 0 {
		slices.SortFunc(rejected, func(a, b warehouse.RejectedRow) int { return cmp.Compare(a.Row, b.Row) })
		return rejected, nil
	}
	if t.Ordered && len(rows.bytes) > 0 {
		if err := t.recorder.record(ctx, staged); err != nil {
			return nil, err
		}
	}
	w.ledger.add(hash)
	return nil, nil
}

// sender appends rows to one table. What waits while requests are under way
// goes together.
type sender struct {
	stream  *stream
	room    *semaphore.Weighted // of maxWaiting
	waiting chan *piece
	done    chan struct{}
}

// piece is rows of one batch that go in one request.
type piece struct {
	ctx context.Context // of who waits for it
	rows
	size    int
	refused warehouse.Rejected
	answer  chan error
}

func newSender(l *link, table string, e *encoder) *sender {
	s := &sender{
		stream:  &stream{link: l, table: table, descriptor: e.descriptor},
		room:    semaphore.NewWeighted(maxWaiting),
		waiting: make(chan *piece), // what waits has room, and needs no other bound
		done:    make(chan struct{}),
	}
	go s.run()
	return s
}

func (s *sender) close() {
	close(s.waiting)
	<-s.done
}

// send returns when all rows are stored but those that BigQuery rejects.
func (s *sender) send(ctx context.Context, r rows) (rejected warehouse.Rejected, err error) {
	var pieces []*piece
	for len(r.bytes) > 0 {
		p := &piece{ctx: ctx, answer: make(chan error, 1)}
		n := 0
		for n < len(r.bytes) && n < maxRows && (n == 0 || p.size+len(r.bytes[n])+rowOverhead <= maxRequest) {
			p.size += len(r.bytes[n]) + rowOverhead
			n++
		}
		p.rows = rows{r.bytes[:n:n], r.numbers[:n:n]}
		r = rows{r.bytes[n:], r.numbers[n:]}
		if err := s.room.Acquire(ctx, int64(p.size)); err != nil {
			return nil, err
		}
		select {
		case s.waiting <- p:
		case <-ctx.Done():
			s.room.Release(int64(p.size))
			return nil, ctx.Err()
		}
		pieces = append(pieces, p)
	}
	for _, p := range pieces {
		select {
		case err := <-p.answer:
			if err != nil {
				return nil, err
			}
			rejected = append(rejected, p.refused...)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return rejected, nil
}

// run is the goroutine that makes requests of what waits.
func (s *sender) run() {
	defer close(s.done)
	var requests sync.WaitGroup
	defer requests.Wait()
	slots := make(chan struct{}, maxInFlight)
	var next *piece
	for {
		if next == nil {
			var ok bool
			if next, ok = <-s.waiting; !ok {
				return
			}
		}
		slots <- struct{}{}
		group := []*piece{next}
		size, count := next.size, len(next.bytes)
		next = nil
	filling:
		for {
			select {
			case p, ok := <-s.waiting:
				if !ok {
					break filling // the next round ends
				}
				if size+p.size > maxRequest || count+len(p.bytes) > maxRows {
					next = p
					break filling
				}
				group = append(group, p)
				size, count = size+p.size, count+len(p.bytes)
			default:
				break filling
			}
		}
		requests.Go(func() {
			ctx, cancel := context.WithTimeout(s.stream.link.ctx, s.stream.link.patience)
			s.deliver(ctx, group)
			cancel()
			<-slots
		})
	}
}

// deliver stores the pieces, and answers all of them.
func (s *sender) deliver(ctx context.Context, group []*piece) {
	for failures := 0; ; {
		group = slices.DeleteFunc(group, func(p *piece) bool {
			err := p.ctx.Err()
			if err != nil {
				s.finish(p, err)
			}
			return err != nil
		})
		if len(group) == 0 {
			return
		}
		response, err := s.request(ctx, group)
		if err != nil && s.refuse(group, response.GetRowErrors()) {
			// None of the request is stored: the others go again.
			group = slices.DeleteFunc(group, func(p *piece) bool {
				if len(p.bytes) == 0 {
					s.finish(p, nil)
				}
				return len(p.bytes) == 0
			})
			continue
		}
		failures++
		switch {
		case err == nil:
		case len(group) > 1 && (status.Code(err) == codes.InvalidArgument || failures > 1 && status.Code(err) == codes.Internal):
			// One batch may spoil the request of all. Other errors are the table's.
			var each sync.WaitGroup
			for _, p := range group {
				each.Go(func() { s.deliver(ctx, []*piece{p}) })
			}
			each.Wait()
			return
		case passes(err) && pause(ctx, failures) == nil:
			continue
		}
		for _, p := range group {
			s.finish(p, err)
		}
		return
	}
}

func (s *sender) finish(p *piece, err error) {
	s.room.Release(int64(p.size))
	p.answer <- err
}

func (s *sender) request(ctx context.Context, group []*piece) (*storagepb.AppendRowsResponse, error) {
	bytes := group[0].bytes
	if len(group) > 1 {
		bytes = nil
		for _, p := range group {
			bytes = append(bytes, p.bytes...)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.stream.link.answerWithin)
	defer cancel()
	return s.stream.append(ctx, bytes)
}

// refuse takes the rows out of a request that BigQuery says are bad, and says
// whether there are any. Of a request with a bad row none is stored.
//
// https://cloud.google.com/bigquery/docs/write-api-best-practices#handle_append_errors
func (s *sender) refuse(group []*piece, bad []*storagepb.RowError) bool {
	if len(bad) == 0 {
		return false
	}
	found := false
	causes := map[int]string{} // by place in the request
	for _, e := range bad {
		causes[int(e.GetIndex())] = e.GetMessage()
	}
	at := 0
	for _, p := range group {
		kept := rows{p.bytes[:0:0], p.numbers[:0:0]}
		for i := range p.bytes {
			if cause, ok := causes[at+i]; ok {
				p.refused = append(p.refused, warehouse.RejectedRow{Row: p.numbers[i], Err: errors.New("BigQuery: " + cause)})
				continue
			}
			kept.bytes, kept.numbers = append(kept.bytes, p.bytes[i]), append(kept.numbers, p.numbers[i])
		}
		at += len(p.bytes)
		found = found || len(kept.bytes) < len(p.bytes)
		p.rows = kept
	}
	return found
}
