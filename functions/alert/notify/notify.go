// Package notify tells people of rooms whose level is bad: by webhooks and e-mail.
//
// It takes events of type dev.telemesh.co2.classified.v1, or of another one that ends in
// .classified.v1 and has a key, each of which says that a key, a room of a tenant, has got
// another level, and makes none. Routes say who is told, and from which severity on:
//
//   - from below a route's severity to it or above opens an alert: one message;
//   - a higher level than any that the open alert had is one more message;
//   - a lower one that is not below the route's severity is none;
//   - below it the alert is cleared: one message to whom the opening was told.
//
// All of this is by event time. What is not later than the last change of the room that
// was seen changes nothing, so that events may come late, twice and in any order: where
// the end of an alert overtakes its beginning, nobody is told. An opening that is older than
// ALERT_WITHIN when it comes is recorded, not told: it is of history that is read again.
// In a route's quiet hours messages are held back; of an alert that is cleared before they
// end nobody is told, and of several levels the last one is.
//
// What is to be told is kept in SQL in one transaction with what it follows from, and then
// sent: an event that comes twice, to two processes at once, or after a kill, is told once.
// What nobody can have is exactly that over a network: where a receiver took a message and its
// answer was lost, or the process was killed before it wrote down that it was sent, the same message
// is sent again, with the same webhook-id or Message-ID, by which a receiver knows it.
//
// A message that could not be sent is a passing error of its event, which the Broker
// delivers again; the tick of a PingSource sends what is left, and what quiet hours held
// back. One that its receiver refuses for good, or nobody took for a day, is a permanent error, which names
// it: a dead letter. When that is brought again, the message is tried again.
package notify

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/telemesh/telemesh/internal/database"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// Config is the function's environment.
type Config struct {
	Routes   string `envconfig:"ALERT_ROUTES"` // YAML (ReadRoutes); empty: nobody is told, and nothing else is needed
	Database string `envconfig:"DATABASE_URL"` // postgres://…, or sqlite:PATH
	Portal   string `envconfig:"PORTAL_URL"`   // where people reach the portal; empty: messages have no link
	SMTP     string `envconfig:"SMTP_URL"`     // smtp://USER:PASSWORD@HOST:587 or smtps://USER:PASSWORD@HOST:465 (newMailer)
	From     string `envconfig:"MAIL_FROM"`    // of e-mails
	// Private lets webhooks be on http, on this machine and in private networks. They
	// could reach what nobody else can: the cluster's own Services.
	Private bool          `envconfig:"ALERT_ALLOW_PRIVATE"`
	Within  time.Duration `envconfig:"ALERT_WITHIN" default:"1h"`   // how old an opening may be when it comes, to be told
	Timeout time.Duration `envconfig:"ALERT_TIMEOUT" default:"15s"` // of one message
}

//go:embed migrations/*.sql
var migrations embed.FS

var tables = database.Tables{Of: "alerts", Steps: migrations, Done: "alert_migrations"}

// startTimeout bounds what the database may take, which may itself just be starting.
const startTimeout = 30 * time.Second

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	if cfg.Routes == "" {
		return &function.Function{Handler: func(context.Context, event.Event) ([]event.Event, error) { return nil, nil }}, nil
	}
	n, err := New(cfg, ports.Log, time.Now)
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: n.Handle, Close: func(context.Context) error { return n.db.Close() }}, nil
}

// Notifier tells people of alerts.
type Notifier struct {
	cfg    Config
	routes Routes
	db     *database.DB
	mail   *mailer // nil: no route has e-mail
	hooks  *hooks
	log    *slog.Logger
	now    func() time.Time
}

// New makes a Notifier, whose clock now is.
func New(cfg Config, log *slog.Logger, now func() time.Time) (*Notifier, error) {
	if cfg.Timeout <= 0 || cfg.Within <= 0 {
		return nil, fmt.Errorf("ALERT_TIMEOUT is %s and ALERT_WITHIN %s: both have to be longer than nothing", cfg.Timeout, cfg.Within)
	}
	n := &Notifier{cfg: cfg, hooks: newHooks(cfg), log: log, now: now}
	var err error
	if n.routes, err = ReadRoutes(cfg.Routes, cfg.Private); err != nil {
		return nil, err
	}
	for _, r := range n.routes {
		if r.Email != nil && n.mail == nil {
			if n.mail, err = newMailer(cfg); err != nil {
				return nil, err
			}
		}
	}
	if cfg.Portal != "" {
		if err := checkPortal(cfg.Portal); err != nil {
			return nil, err
		}
	}
	if cfg.Database == "" {
		return nil, errors.New("no DATABASE_URL: alerts are kept where it says, postgres://USER:PASSWORD@HOST/NAME or sqlite:PATH")
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if n.db, err = database.OpenTables(ctx, cfg.Database, tables); err != nil {
		return nil, err
	}
	return n, nil
}

// tick is the type of a PingSource's events.
const tick = "dev.knative.sources.ping"

// Handle takes an event.
func (n *Notifier) Handle(ctx context.Context, in event.Event) ([]event.Event, error) {
	if in.Type() == tick {
		return nil, n.tick(ctx)
	}
	c, err := mesh.Decode[mesh.Classification](in.Data())
	if err != nil {
		return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
	}
	tenant, _ := types.Format(in.Extensions()[mesh.ExtTenant]) // absent: of no tenant
	for i := range c.Classified {
		change, err := newChange(c.Rule, tenant, &c.Classified[i])
		if err != nil {
			return nil, mesh.Permanentf("%s %s: classified %d: %w", in.Type(), in.ID(), i, err)
		}
		change.event = mesh.Hash(in.Source(), in.ID())
		if err := n.record(ctx, change); err != nil {
			return nil, fmt.Errorf("record the alerts of %s %s: %w", in.Type(), in.ID(), err)
		}
	}
	return nil, n.tell(ctx, mesh.Hash(in.Source(), in.ID()))
}
