package function

import (
	"errors"
	"io"
	"net/http"
	"strings"
)

// StatusError is the error a response with a failing status stands for, with
// the beginning of what it says. It reads from the body.
func StatusError(resp *http.Response) error {
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	return &answer{resp.StatusCode, resp.Status, strings.TrimSpace(string(said))}
}

// answer is a response with a failing status.
type answer struct {
	code         int
	status, said string
}

func (a *answer) Error() string {
	if a.said == "" {
		return a.status
	}
	return a.status + ": " + a.said
}

// Status gives the status of the response that err comes of; 0: of none.
func Status(err error) int {
	if a := (*answer)(nil); errors.As(err, &a) {
		return a.code
	}
	return 0
}

// IsNotFound says whether err comes of a response that was 404.
func IsNotFound(err error) bool { return Status(err) == http.StatusNotFound }
