package main

import (
	"context"
	"fmt"
	"os"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// moody is a function for scripts. It refuses events for good while the file REFUSES
// is there, writes what it takes into the file TAKEN, and replies an event of type
// REPLIES.
func moody(function.Ports) (*function.Function, error) {
	config, err := function.Config[struct{ Refuses, Taken, Replies string }]()
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: func(_ context.Context, in event.Event) ([]event.Event, error) {
		if _, err := os.Stat(config.Refuses); err == nil {
			return nil, mesh.Permanentf("in no mood for %s", in.Type())
		}
		file, err := os.OpenFile(config.Taken, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		if _, err := fmt.Fprintln(file, in.Type()); err != nil {
			return nil, err
		}
		if err := file.Close(); err != nil || config.Replies == "" {
			return nil, err
		}
		return []event.Event{mesh.Derive(in, "moody", config.Replies, "", []byte(`{}`))}, nil
	}}, nil
}
