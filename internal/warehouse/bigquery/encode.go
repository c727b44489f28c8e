package bigquery

import (
	"fmt"

	"cloud.google.com/go/bigquery/storage/managedwriter/adapt"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// encoder writes rows as the protobuf messages that the Storage Write API
// takes: a column is a field, a TIMESTAMP an int64 in µs, JSON a string, and NULL
// a field that is not there. It writes the bytes itself, since a message made by
// reflection costs as much as all else that is done to a row.
//
// https://cloud.google.com/bigquery/docs/supported-data-types
type encoder struct {
	descriptor *descriptorpb.DescriptorProto
	tags       []uint64 // of the columns: number and type of the field
}

func newEncoder(columns []contract.Column) (*encoder, error) {
	stored, err := adapt.BQSchemaToStorageTableSchema(schema.Fields(columns))
	if err != nil {
		return nil, err
	}
	d, err := adapt.StorageSchemaToProto2Descriptor(stored, "row")
	if err != nil {
		return nil, err
	}
	message, ok := d.(protoreflect.MessageDescriptor)
	if !ok {
		return nil, fmt.Errorf("%T is no message", d)
	}
	e := &encoder{}
	if e.descriptor, err = adapt.NormalizeDescriptor(message); err != nil {
		return nil, err
	}
	for _, c := range columns {
		field := message.Fields().ByName(protoreflect.Name(c.Name))
		if field == nil {
			return nil, fmt.Errorf("column %s has no field", c.Name)
		}
		wire, ok := map[protoreflect.Kind]protowire.Type{
			protoreflect.StringKind: protowire.BytesType,
			protoreflect.DoubleKind: protowire.Fixed64Type,
			protoreflect.Int64Kind:  protowire.VarintType,
			protoreflect.BoolKind:   protowire.VarintType,
		}[field.Kind()]
		if !ok {
			return nil, fmt.Errorf("column %s: a field of type %v", c.Name, field.Kind())
		}
		e.tags = append(e.tags, protowire.EncodeTag(field.Number(), wire))
	}
	return e, nil
}

// append appends a row, whose cells are of the columns' types.
func (e *encoder) append(b []byte, row []warehouse.Cell) []byte {
	for i, tag := range e.tags {
		cell := &row[i]
		switch cell.Kind() {
		case warehouse.NullKind:
		case warehouse.StringKind:
			b = protowire.AppendVarint(b, tag)
			b = protowire.AppendString(b, cell.Text())
		case warehouse.FloatKind:
			b = protowire.AppendVarint(b, tag)
			b = protowire.AppendFixed64(b, cell.Bits())
		default:
			b = protowire.AppendVarint(b, tag)
			b = protowire.AppendVarint(b, cell.Bits())
		}
	}
	return b
}

// arena holds rows one behind the other, in pieces that are never moved.
type arena []byte

const arenaSize = 64 << 10

// add copies a row.
func (a *arena) add(row []byte) []byte {
	if len(row) > cap(*a)-len(*a) {
		*a = make([]byte, 0, max(arenaSize, len(row)))
	}
	from := len(*a)
	*a = append(*a, row...)
	return (*a)[from:len(*a):len(*a)]
}
