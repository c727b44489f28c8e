package feed

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/telemesh/telemesh/internal/jsonsplit"
)

// json passes on the values of the file, each without line breaks between its
// tokens.
func (f *Feed) json(r *bufio.Reader, yield func(Message) bool) error {
	values := jsonsplit.New(r, maxMessage)
	var compact bytes.Buffer
	for {
		line, body, err := values.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("%s: line %d: the file ends within the array: is it whole?", f.name, line)
		case err != nil:
			return fmt.Errorf("%s: line %d: %w", f.name, line, err)
		}
		compact.Reset()
		if json.Compact(&compact, body) == nil {
			body = compact.Bytes()
		}
		if !yield(Message{line, oneLine(body)}) {
			return errLeft
		}
	}
}
