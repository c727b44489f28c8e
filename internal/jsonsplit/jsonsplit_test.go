package jsonsplit_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/jsonsplit"
)

// split gives the values of text, the last of them how it ended.
func split(text string, most int) []string {
	var all []string
	s := jsonsplit.New(bufio.NewReader(iotest.OneByteReader(strings.NewReader(text))), most)
	for {
		line, value, err := s.Next()
		if err != nil {
			return append(all, fmt.Sprintf("%d %v", line, err))
		}
		all = append(all, fmt.Sprintf("%d %s", line, value))
	}
}

func TestNext(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", []string{"1 EOF"}},
		{"[]\n", []string{"2 EOF"}},
		{`{"a":"}\"]"}{"b":[1,{}]}`, []string{`1 {"a":"}\"]"}`, `1 {"b":[1,{}]}`, "1 EOF"}},
		{"[1 ,\n\"a,b\", [2,3],\n{}]", []string{"1 1", `2 "a,b"`, "2 [2,3]", "3 {}", "3 EOF"}},
		{"[{\"a\":oops},{}]\n[2]3", []string{`1 {"a":oops}`, "1 {}", "2 2", "2 3", "2 EOF"}},
		{"[1,{\"a\":\n", []string{"1 1", `1 {"a":`, "2 unexpected EOF"}},
		{"[,,", []string{"1 unexpected EOF"}},
		{"1\noops", []string{"1 1", "2 oops", "2 EOF"}},
		{"[1,\n\"3456789012345678901\"]", []string{"1 1", "2 a message from line 2 on is longer than 0 KiB"}},
	} {
		if diff := cmp.Diff(c.want, split(c.text, 20)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.text, diff)
		}
	}
}

func TestNextPassesErrorsOn(t *testing.T) {
	away := errors.New("away")
	s := jsonsplit.New(bufio.NewReader(io.MultiReader(strings.NewReader("[1,\n{"), iotest.ErrReader(away))), 100)
	if line, value, err := s.Next(); line != 1 || string(value) != "1" || err != nil {
		t.Errorf("Next() = %d %s %v, want 1 1", line, value, err)
	}
	if line, _, err := s.Next(); line != 2 || !errors.Is(err, away) {
		t.Errorf("Next() = %d %v, want 2 %v", line, err, away)
	}
}
