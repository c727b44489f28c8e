package ingest

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Bodies made to be slow take no more time than others of their size: at any
// power above linear this test would not end. They are split, or refused whole
// for what they would be split into.
func TestHostileBodies(t *testing.T) {
	const size = 1 << 20
	for _, unit := range []string{"[", "{", "[\n", "{\n", "[]\n{\n", "]", "\"", "\"\n", ",", "[,", "{}x\n", "\\"} {
		body := strings.Repeat(unit, size/len(unit))
		in := &request{header: http.Header{}, body: []byte(body), now: 1}
		messages, refused, err := in.split()
		if err != nil {
			continue
		}
		if len(messages) == 0 || len(refused) > 0 {
			t.Errorf("%q over and over: %d messages, %d refused, want all of it in messages", unit, len(messages), len(refused))
		}
		again, _, err := in.split()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(mesh.EncodeMessages(messages), mesh.EncodeMessages(again)) {
			t.Errorf("%q over and over: split otherwise the second time", unit)
		}
	}
}
