package emulator

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"

	"cloud.google.com/go/bigquery/storage/apiv1/storagepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// writes answers as the Storage Write API of BigQuery does where the emulator
// does not:
//   - a connection has rows of several tables. The emulator reads all of them by
//     the schema that came first, so each table has a connection of its own there;
//   - a table that gained a column has it at once. The emulator keeps a table as
//     it was when the stream was opened, so streams are opened anew;
//   - a row of a column that the table has not, and a table that is not there,
//     are told by the codes of the API.
type writes struct {
	storagepb.UnimplementedBigQueryWriteServer
	emulator storagepb.BigQueryWriteClient
	streams  *atomic.Int64
	turns    *turns
	faults   *Faults // nil: none
}

// maxMessage is what the API takes; grpc takes 4 MiB if not told otherwise, so
// does the emulator.
const maxMessage = 10_000_000

// serveWrites serves the Storage Write API before the one at address until the
// emulator is closed, and gives its address on this machine.
func (e *Emulator) serveWrites(host, address string, faults *Faults) (string, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	e.atClose(conn.Close)
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	order := e.turns
	if faults != nil { // the one behind keeps the order
		order = new(turns)
	}
	storagepb.RegisterBigQueryWriteServer(server, &writes{
		emulator: storagepb.NewBigQueryWriteClient(conn), streams: new(atomic.Int64), turns: order, faults: faults})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(faults.listen(listener)) }()
	e.atClose(func() error {
		server.Stop()
		return <-ended
	})
	return here(listener), nil
}

// open opens a default stream of the emulator that nobody has used.
func (w *writes) open(ctx context.Context, name string) (*storagepb.WriteStream, error) {
	w.turns.Lock()
	defer w.turns.Unlock()
	// Who asks may be gone, the emulator goes on.
	ctx = context.WithoutCancel(ctx)
	table, _, _ := strings.Cut(name, "/streams/")
	// The emulator takes any name that ends so for a default stream.
	stream, err := w.emulator.GetWriteStream(ctx, &storagepb.GetWriteStreamRequest{
		Name: fmt.Sprintf("%s/streams/%d_default", table, w.streams.Add(1))})
	if err == nil {
		return stream, nil
	}
	return nil, storageError(codes.NotFound, storagepb.StorageError_TABLE_NOT_FOUND, table, "Requested entity was not found. Entity: "+table).Err()
}

func storageError(code codes.Code, storage storagepb.StorageError_StorageErrorCode, entity, text string) *status.Status {
	s, err := status.New(code, text).WithDetails(&storagepb.StorageError{Code: storage, Entity: entity, ErrorMessage: text})
	if err != nil {
		panic(err) // the code is an error
	}
	return s
}

func (w *writes) GetWriteStream(ctx context.Context, in *storagepb.GetWriteStreamRequest) (*storagepb.WriteStream, error) {
	stream, err := w.open(ctx, in.GetName())
	if err != nil {
		return nil, err
	}
	stream.Name = in.GetName()
	return stream, nil
}

// table is a table that a connection writes to.
type table struct {
	schema *descriptorpb.DescriptorProto
	stream string                                   // the emulator's
	rows   storagepb.BigQueryWrite_AppendRowsClient // nil: not open
	cancel context.CancelFunc
}

func (t *table) close() {
	if t.rows != nil {
		t.rows.CloseSend()
		t.cancel()
		t.rows = nil
	}
}

func (w *writes) AppendRows(client storagepb.BigQueryWrite_AppendRowsServer) error {
	tables := map[string]*table{}
	defer func() {
		for _, t := range tables {
			t.close()
		}
	}()
	name := ""
	for {
		in, err := client.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if in.GetWriteStream() != "" {
			name = in.GetWriteStream()
		}
		t := tables[name]
		if schema := in.GetProtoRows().GetWriterSchema().GetProtoDescriptor(); schema != nil && (t == nil || !proto.Equal(schema, t.schema)) {
			if t != nil {
				t.close()
			}
			t = &table{schema: schema}
			tables[name] = t
		}
		if t == nil {
			return status.Errorf(codes.InvalidArgument, "Invalid stream name %q or no schema", name)
		}
		out, err := w.faults.around(client.Context(), t.schema, in, func() (*storagepb.AppendRowsResponse, error) {
			return w.append(client.Context(), name, t, in)
		})
		if err != nil {
			return err
		}
		out.WriteStream = name
		if err := client.Send(out); err != nil {
			return err
		}
	}
}

// append has the emulator store rows. An error ends the connection.
func (w *writes) append(ctx context.Context, name string, t *table, in *storagepb.AppendRowsRequest) (*storagepb.AppendRowsResponse, error) {
	if t.rows == nil {
		stream, err := w.open(ctx, name)
		if err != nil {
			return failed(status.Convert(err)), nil
		}
		has := map[string]bool{}
		for _, field := range stream.GetTableSchema().GetFields() {
			has[field.GetName()] = true
		}
		for _, field := range t.schema.GetField() {
			if !has[field.GetName()] {
				return failed(storageError(codes.InvalidArgument, storagepb.StorageError_SCHEMA_MISMATCH_EXTRA_FIELDS, name,
					"Input schema has more fields than BigQuery schema, extra fields: '"+field.GetName()+"'")), nil
			}
		}
		life, cancel := context.WithCancel(context.WithoutCancel(ctx))
		if t.rows, err = w.emulator.AppendRows(life); err != nil {
			cancel()
			return nil, err
		}
		t.stream, t.cancel = stream.GetName(), cancel
	}
	w.turns.Lock()
	defer w.turns.Unlock()
	// The emulator asks for the schema with the first request alone.
	err := t.rows.Send(&storagepb.AppendRowsRequest{WriteStream: t.stream, Rows: &storagepb.AppendRowsRequest_ProtoRows{
		ProtoRows: &storagepb.AppendRowsRequest_ProtoData{
			WriterSchema: &storagepb.ProtoSchema{ProtoDescriptor: t.schema},
			Rows:         in.GetProtoRows().GetRows(),
		}}})
	var out *storagepb.AppendRowsResponse
	if err == nil {
		out, err = t.rows.Recv()
	}
	if err != nil || out.GetError() != nil {
		t.close() // so does the emulator
	}
	if err != nil && err != io.EOF {
		return failed(status.New(codes.Internal, err.Error())), nil
	}
	return out, err
}

func failed(s *status.Status) *storagepb.AppendRowsResponse {
	return &storagepb.AppendRowsResponse{Response: &storagepb.AppendRowsResponse_Error{Error: proto.CloneOf(s.Proto())}}
}
