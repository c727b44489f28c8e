// Package function makes a handler a Service: it decodes the configuration,
// serves HTTP, turns requests into events and events into replies, and says
// by the status what the Broker should do with the event next. What fetches
// messages itself instead of being woken is a source: it runs as long as its
// process.
//
// A function is written as a Start: it reads its Config from the environment,
// takes what it needs of the world from Ports, and returns what it serves. Its
// main calls Main with it, the local runtime calls it in its own process.
package function

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/kelseyhightower/envconfig"

	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// Handler turns an event into new ones. It may be called from several
// goroutines, and with the same event again. An error marked mesh.Permanent
// is not tried again; any other is.
type Handler func(ctx context.Context, in event.Event) ([]event.Event, error)

// Function is what a Service serves, or what a source does.
type Function struct {
	Handler Handler      // woken by events; nil: serves HTTP only
	HTTP    http.Handler // what is no event; nil: nothing else is served
	// Run is what a source does, from its start on: it fetches what wakes
	// nobody. It returns once ctx is done, after it has handed over what it took;
	// if it returns before that, the process ends. What answers, too, may have something to
	// do by itself. nil: nothing.
	Run   func(ctx context.Context) error
	Close func(context.Context) error // ends what Start began, after the last request and after Run; nil: nothing
}

// Ports is what a function may reach besides its configuration.
type Ports struct {
	Client    *http.Client        // for Services by their cluster address
	Warehouse warehouse.Warehouse // nil: the one that WAREHOUSE_URL names
	Log       *slog.Logger
	Data      fs.FS // the folder kodata of its main, as ko ships it; nil: there is none
	// Here tells of the process that runs all functions; nil: this one runs one.
	Here func() topology.Here
}

// Start makes a function.
type Start func(Ports) (*Function, error)

// Config decodes a function's configuration from the environment: the one
// place where it is read.
func Config[C any]() (C, error) {
	var c C
	if err := envconfig.Process("", &c); err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	return c, nil
}
