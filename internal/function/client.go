package function

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

// StatusError is the error a response with a failing status stands for, with
// the beginning of what it says. It reads from the body.
func StatusError(resp *http.Response) error {
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	if text := strings.TrimSpace(string(said)); text != "" {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return fmt.Errorf("%s", resp.Status)
}
