package repair

import (
	"fmt"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// No statement is longer than a warehouse takes, whatever has happened in many
// rooms.
func TestConditionsAreShort(t *testing.T) {
	var f finder
	for i := range 2000 {
		f.alternatives = append(f.alternatives, alternative{"room", literal.Text(fmt.Sprint(i)), strings.Repeat("r.last_action_at IS NULL OR ", 700) + "FALSE"})
	}
	all := f.conditions()
	rooms := 0
	for _, where := range all {
		if len(where) > 2*maxText {
			t.Errorf("a condition has %d bytes", len(where))
		}
		rooms += strings.Count(where, "(r.room = ")
	}
	if rooms != 2000 {
		t.Errorf("the conditions look into %d rooms, want 2000", rooms)
	}
}
