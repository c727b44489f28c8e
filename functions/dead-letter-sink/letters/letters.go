// Package letters stores what Triggers could not deliver, and delivers it again
// when it is asked to.
//
//	any event to /NAMESPACE/TRIGGER or /NAMESPACE → event_log_internal.dead_letters
//	redrive.requested to /                        → the subscribers that failed,
//	                                                event_log_internal.dead_letter_outcomes
//
// A dead letter is stored whatever it is, and the same one once. Only then is it
// answered. What the warehouse refuses for good is a permanent error, and
// stands whole in the log: Knative drops what a dead letter sink refuses.
//
// A letter that is asked for is delivered as its Trigger would have: to the
// address that failed and to no other, without what the Broker has added, and
// the reply goes to the Broker of the Trigger's namespace. What came of it is
// recorded. A letter that is not open any more is left alone, and one that a
// request has led to an outcome for is not delivered again for it, so that a
// request may come twice; a subscriber may get an event twice, as ever, when the
// function dies between the delivery and its record.
//
// Addresses outside the cluster are refused. So are letters whose Broker did not
// say who failed, and those whose subscriber took the event while the Broker did
// not take its reply: no address of the letter is that of the subscriber then.
package letters

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
)

// Config of the function.
type Config struct {
	connect.Config
	Ingress string `envconfig:"K_SINK" required:"true"` // of the Brokers: replies go to /NAMESPACE/NAMESPACE there
}

// Start makes the function.
func Start(ports function.Ports) (*function.Function, error) {
	config, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	w, err := config.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	handler, err := New(w, ports.Client, config.Ingress, ports.Log)
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: handler}, nil
}

// New makes the handler. ingress is the address of the Brokers' ingress.
func New(w warehouse.Warehouse, client *http.Client, ingress string, log *slog.Logger) (function.Handler, error) {
	r, err := newRedriver(w, client, ingress)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		path := function.Path(ctx)
		// A request that could not be delivered is a dead letter as any other.
		if in.Type() == mesh.RedriveRequested && strings.Trim(path, "/") == "" {
			return nil, r.redrive(ctx, in)
		}
		l := deadletter.New(in, path, time.Now())
		err := deadletter.Put(ctx, w, &l)
		if mesh.IsPermanent(err) {
			log.Error("dead letter not stored: this is all that is left of it", "letter", l.ID, "path", path, "error", err, "event", whole(in))
		}
		return nil, err
	}, nil
}

// whole is an event as text.
func whole(e event.Event) string {
	e.DataBase64 = true // so that it is none that JSON lacks
	text, err := json.Marshal(e)
	if err != nil {
		return e.String()
	}
	return string(text)
}
