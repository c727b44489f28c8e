package device

import "fmt"

// Error is why a message is rejected.
type Error struct {
	Reader   string // the format it was read as; empty: none was chosen
	Position int    // the byte of the payload where the cause is; -1: the payload as a whole
	Err      error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// fault says where in the payload an error is.
func fault(position int, format string, args ...any) error {
	return &Error{Position: position, Err: fmt.Errorf(format, args...)}
}
