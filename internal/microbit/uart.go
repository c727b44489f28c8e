package microbit

import "bytes"

// maxText bounds a text of the UART, in bytes.
const maxText = 1024

// texts puts together what the UART sends. A text ends at '#', or at the end of a
// line as MakeCode's "bluetooth uart write line" and "write value" send it; a
// notification has up to 20 bytes of it. Blanks around a text are no part of it,
// and an empty one is none.
type texts struct {
	begun   []byte
	tooLong bool // what comes up to the next end belongs to a text that was given up
}

// add takes the bytes of a notification, and gives the texts that they end. lost
// is how many of them were longer than maxText and are left out.
func (t *texts) add(b []byte, give func(text []byte)) (lost int) {
	for {
		end := bytes.IndexAny(b, "#\n")
		part := b
		if end >= 0 {
			part = b[:end]
		}
		if len(t.begun)+len(part) > maxText {
			t.begun, t.tooLong = nil, true
		}
		if !t.tooLong {
			t.begun = append(t.begun, part...)
		}
		if end < 0 {
			return lost
		}
		if t.tooLong {
			lost++
		} else if text := bytes.TrimSpace(t.begun); len(text) > 0 {
			give(text)
		}
		t.begun, t.tooLong, b = nil, false, b[end+1:]
	}
}
