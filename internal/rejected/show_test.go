package rejected

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMarked(t *testing.T) {
	for _, test := range []struct {
		name, payload string
		offset        int
		place, want   string
	}{
		{"nowhere", "{}", -1, "", "{}\n"},
		{"first", "{}", 0, "; the cause is at byte 0: line 1, column 1", "{}\n^\n"},
		{"end", "{}", 2, "; the cause is at byte 2: line 1, column 3", "{}\n  ^\n"},
		{"beyond the end", "{}", 9, "; the cause is at byte 9: line 1, column 3", "{}\n  ^\n"},
		{"second line", "{\n\t\"é\": x,\r\n}", 9, "; the cause is at byte 9: line 2, column 7", "{\n\t\"é\": x,\n\t     ^\n}\n"},
		{"the end of a line", "a\nb", 1, "; the cause is at byte 1: line 1, column 2", "a\n ^\nb\n"},
		{"after the last line", "a\n", 2, "; the cause is at byte 2: line 2, column 1", "a\n  ^\n"},
		{"nothing", "", 0, "; the cause is at byte 0: line 1, column 1", "\n^\n"},
		{"far to the right", strings.Repeat("x", 150) + "!", 150, "; the cause is at byte 150: line 1, column 151",
			strings.Repeat("x", 150) + "!\n^ column 151, after …" + strings.Repeat("x", 50) + "\n"},
		{"bytes", "\x00\x01\x02", 1, "; the cause is at byte 1", "00000000  00 01 02                                          |...|\n             ^^\n"},
		{"escapes", "\x1b[2J", 3, "; the cause is at byte 3", "00000000  1b 5b 32 4a                                       |.[2J|\n                   ^^\n"},
		{"the second line of bytes", strings.Repeat("\xff", 26), 25, "; the cause is at byte 25",
			"00000000  ff ff ff ff ff ff ff ff  ff ff ff ff ff ff ff ff  |................|\n" +
				"00000010  ff ff ff ff ff ff ff ff  ff ff                    |..........|\n                                      ^^\n"},
		{"after full lines of bytes", strings.Repeat("\xff", 16), 16, "; the cause is at byte 16",
			"00000000  ff ff ff ff ff ff ff ff  ff ff ff ff ff ff ff ff  |................|\n                                                            ^^\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Place([]byte(test.payload), test.offset); got != test.place {
				t.Errorf("Place = %q, want %q", got, test.place)
			}
			if diff := cmp.Diff(test.want, Marked([]byte(test.payload), test.offset)); diff != "" {
				t.Errorf("Marked (-want +got):\n%s", diff)
			}
		})
	}
}
