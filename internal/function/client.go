package function

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
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

// IsRefused says whether err comes of a Broker that does not let the sender post.
func IsRefused(err error) bool {
	status := Status(err)
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// patience is how long PostPatiently tries a Broker that has no room.
const patience = time.Minute

// PostPatiently is Post, again while the mesh has no room. A Broker that is not there,
// or does not let this sender post, is not waited for.
func PostPatiently(ctx context.Context, client *http.Client, url string, e event.Event) error {
	for began := time.Now(); ; {
		err := Post(ctx, client, url, e)
		if err == nil || mesh.IsPermanent(err) || IsNotFound(err) || IsRefused(err) || time.Since(began) > patience {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
