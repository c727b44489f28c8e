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

// IsNotFound says whether err comes of a response that was 404.
func IsNotFound(err error) bool {
	var a *answer
	return errors.As(err, &a) && a.code == http.StatusNotFound
}
