package bigquery

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"cloud.google.com/go/bigquery/storage/apiv1/storagepb"
	"cloud.google.com/go/bigquery/storage/managedwriter"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/descriptorpb"
)

// link is the connections to the Storage Write API, which all tables share.
//
// Of managedwriter it relies on this, as its version 1.77.0 does it:
//   - Without EnableWriteRetries a request is sent once. The result of one that
//     is answered with an error has the whole response; those that wait for
//     answers when a connection breaks fail with the error that broke it.
//   - After that the next request fails with io.EOF, and the one after it opens
//     the connection again. So it does after codes.Unavailable, Aborted, Canceled
//     and DeadlineExceeded.
//   - Any other error of opening a connection stays with it: all later requests
//     of all tables fail with it. A connection whose server does not answer
//     stays as well. Only another client helps.
//   - NewManagedStream asks for the stream, so that it fails where there is no
//     table. Its context is that of the stream and of the question.
//   - It does not bound the size of a request, and lets 1000 wait for answers.
type link struct {
	config                 Config
	patience, answerWithin time.Duration

	ctx    context.Context // of the connections
	cancel context.CancelFunc

	mu     sync.Mutex
	client *managedwriter.Client // nil: there is none
}

func newLink(ctx context.Context, c Config) *link {
	l := &link{config: c, patience: patience, answerWithin: answerWithin}
	l.ctx, l.cancel = context.WithCancel(ctx)
	return l
}

func (l *link) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.cancel()
	if l.client == nil {
		return nil
	}
	return l.client.Close()
}

func (l *link) get() (*managedwriter.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == nil {
		var err error
		if l.client, err = l.config.newWriter(l.ctx); err != nil {
			return nil, err
		}
	}
	return l.client, nil
}

// drop gives up a client, unless that was done already. What waits for its
// answers is sent again by who waits.
func (l *link) drop(client *managedwriter.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if client != nil && l.client == client {
		l.client = nil
		// It is of no use any more, whatever it says.
		client.Close()
	}
}

// stream is the default stream of one table.
type stream struct {
	link       *link
	table      string // projects/PROJECT/datasets/DATASET/tables/TABLE
	descriptor *descriptorpb.DescriptorProto

	mu     sync.Mutex
	client *managedwriter.Client // that open is of
	open   *managedwriter.ManagedStream
	cancel context.CancelFunc // of open
}

// append sends rows once, and gives the response to them if there was one.
func (s *stream) append(ctx context.Context, rows [][]byte) (*storagepb.AppendRowsResponse, error) {
	client, open, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	result, err := open.AppendRows(ctx, rows)
	if err != nil {
		if !reopens(err) {
			s.link.drop(client)
		}
		return nil, err
	}
	response, err := result.FullResponse(ctx)
	switch {
	case ctx.Err() != nil && err != nil:
		s.link.drop(client)
	case storageCode(err) == storagepb.StorageError_SCHEMA_MISMATCH_EXTRA_FIELDS:
		s.close()
	}
	return response, err
}

// reopens says whether the connection that gave the error is opened again by
// itself.
func reopens(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Aborted, codes.Canceled, codes.DeadlineExceeded:
		return true
	}
	return errors.Is(err, io.EOF)
}

// get opens the stream if it is not. A client makes its connections when it is
// used, so this is where those that are away are missed.
func (s *stream) get(ctx context.Context) (*managedwriter.Client, *managedwriter.ManagedStream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	client, err := s.link.get()
	if err != nil || s.open != nil && s.client == client {
		return s.client, s.open, err
	}
	s.end()
	// The stream lives on after ctx, which bounds its opening alone.
	life, cancel := context.WithCancel(s.link.ctx)
	stop := context.AfterFunc(ctx, cancel)
	open, err := client.NewManagedStream(life, managedwriter.WithDestinationTable(s.table),
		managedwriter.WithType(managedwriter.DefaultStream), managedwriter.WithSchemaDescriptor(s.descriptor))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, nil, err
	}
	s.client, s.open, s.cancel = client, open, cancel
	return client, open, nil
}

// close has the next request open the stream anew.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
}

func (s *stream) end() {
	if s.open != nil {
		s.open.Close() // it says io.EOF, always
		s.cancel()
		s.open = nil
	}
}
