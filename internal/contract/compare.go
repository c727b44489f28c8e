package contract

import (
	"fmt"
	"regexp"
)

var version = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})$`)

func isVersion(s string) bool { return version.MatchString(s) }

// grown says that a version may break what the old one promised: its major
// part is higher or, before 1.0.0, the next one.
func grown(old, new string) bool {
	var a, b [2]int
	fmt.Sscanf(old, "%d.%d", &a[0], &a[1])
	fmt.Sscanf(new, "%d.%d", &b[0], &b[1])
	return b[0] > a[0] || a[0] == 0 && b[0] == 0 && b[1] > a[1]
}
