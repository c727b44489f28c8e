package device

import (
	"errors"
	"fmt"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Error is why a message is rejected.
type Error struct {
	Reader   string // the format it was read as; empty: none was chosen
	Position int    // the byte of the payload where the cause is; -1: the payload as a whole
	Err      error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Reject makes the rejection of a message that a Parser could not read for err.
func Reject(m mesh.Message, err error) mesh.Rejection {
	r := mesh.Rejection{Message: m, Cause: err.Error()}
	if e, ok := errors.AsType[*Error](err); ok {
		r.Reader, r.Position = e.Reader, mesh.PositionAt(e.Position)
	}
	return r
}

// fault says where in the payload an error is.
func fault(position int, format string, args ...any) error {
	return &Error{Position: position, Err: fmt.Errorf(format, args...)}
}
