package warehouse

import (
	"math"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Cell is the value of one column of one row. The zero Cell is NULL.
//
// It is a struct and not an any, since a row has 17 to 26 of them and boxing
// a value allocates.
type Cell struct {
	kind Kind
	bits uint64
	str  string
}

// Kind is the type of a Cell.
type Kind uint8

// The kinds of cells. JSON is a StringKind.
const (
	NullKind Kind = iota
	BoolKind
	IntKind
	FloatKind
	InstantKind
	StringKind
)

func (k Kind) String() string {
	return [...]string{"NULL", "BOOL", "INT64", "FLOAT64", "TIMESTAMP", "STRING"}[k]
}

// Null is NULL.
var Null Cell

// String is a STRING, or JSON.
func String(s string) Cell { return Cell{kind: StringKind, str: s} }

// Optional is NULL if s is empty, else a STRING or JSON.
func Optional(s string) Cell {
	if s == "" {
		return Null
	}
	return String(s)
}

// Float is a FLOAT64, which must be finite. 0 and -0 are one value, as they are
// to SQL.
func Float(f float64) Cell {
	if f == 0 {
		f = 0
	}
	return Cell{kind: FloatKind, bits: math.Float64bits(f)}
}

// Int is an INT64.
func Int(i int64) Cell { return Cell{kind: IntKind, bits: uint64(i)} }

// Bool is a BOOL.
func Bool(b bool) Cell {
	c := Cell{kind: BoolKind}
	if b {
		c.bits = 1
	}
	return c
}

// Instant is a TIMESTAMP.
func Instant(at mesh.Instant) Cell { return Cell{kind: InstantKind, bits: uint64(at)} }

// Kind says which of the following methods gives the value; the others give
// nonsense.
func (c *Cell) Kind() Kind { return c.kind }

// Text is the value of a StringKind.
func (c *Cell) Text() string { return c.str }

// Float is the value of a FloatKind.
func (c *Cell) Float() float64 { return math.Float64frombits(c.bits) }

// Int is the value of an IntKind.
func (c *Cell) Int() int64 { return int64(c.bits) }

// Bool is the value of a BoolKind.
func (c *Cell) Bool() bool { return c.bits != 0 }

// Instant is the value of an InstantKind.
func (c *Cell) Instant() mesh.Instant { return mesh.Instant(c.bits) }

// Bits is the value of any kind but StringKind, as its 64 bits.
func (c *Cell) Bits() uint64 { return c.bits }
