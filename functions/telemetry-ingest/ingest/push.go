package ingest

import (
	"errors"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/pubsub"
)

// fromPush makes a message of a push. Where the headers do not tell its form,
// what is no wrapped push is an unwrapped one.
func (in *request) fromPush() ([]mesh.Message, []refusal, error) {
	var pushed pubsub.Message
	err := pubsub.ErrNotWrapped
	if !pubsub.IsUnwrapped(in.header) {
		pushed, err = pubsub.ParsePush(in.body)
	}
	if errors.Is(err, pubsub.ErrNotWrapped) {
		pushed, err = pubsub.ParseUnwrapped(in.header, in.body)
	}
	if err != nil {
		return nil, []refusal{in.refuse(in.body, 0, err)}, nil
	}
	m, err := pushed.Received(in.now)
	in.describe(&m)
	if err != nil {
		return nil, []refusal{{mesh.Rejection{Message: m, Cause: brief(err)}, 0}}, nil
	}
	return []mesh.Message{m}, nil, nil
}
