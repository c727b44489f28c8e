package portal

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/database"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/topology/manifests"
	"github.com/telemesh/telemesh/internal/usage"
	"github.com/telemesh/telemesh/internal/users"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
	"github.com/telemesh/telemesh/triggers"
)

// Environment is the function's environment.
type Environment struct {
	connect.Config
	// DatabaseURL is the database of users: postgres://…, or sqlite:PATH.
	DatabaseURL string `envconfig:"DATABASE_URL" required:"true"`
	// URL is where people reach the portal, as https://portal.example.com. Requests
	// for another host are refused; of one of this machine all its names count, of
	// 0.0.0.0 any. With https, cookies are sent by https alone.
	URL string `envconfig:"PORTAL_URL" required:"true"`
	// Hops is how many proxies stand before the portal, each of which adds to
	// X-Forwarded-For who connected to it: the client is the last but so many. 0: that
	// header is not believed.
	Hops uint8 `envconfig:"PORTAL_PROXY_HOPS"`
	// Demo lets everybody who reaches the portal enter as a user of the demo. It does
	// not start with an address that others reach.
	Demo bool `envconfig:"PORTAL_DEMO"`
	// From one reading of the event log to the next while somebody watches; 0: as often
	// as the warehouse is read for little (internal/live).
	LiveInterval time.Duration `envconfig:"LIVE_INTERVAL"`
	// Sink is Broker iot/iot, which is asked for what an admin wants done.
	Sink string `envconfig:"K_SINK"`
	// ConsoleBytes is the most that BigQuery may bill for a statement of the console;
	// 0: no limit.
	ConsoleBytes int64 `envconfig:"CONSOLE_MAX_BYTES_BILLED" default:"100000000000"`
	// Mappings is the folder with mappings that telemetry-flatten has.
	Mappings string `envconfig:"MAPPINGS"`
}

// startTimeout bounds what the database may take, which may itself just be starting.
const startTimeout = 30 * time.Second

// Start makes the function from its environment.
func Start(ports function.Ports) (_ *function.Function, err error) {
	env, err := function.Config[Environment]()
	if err != nil {
		return nil, err
	}
	public, err := publicURL(env.URL)
	if err != nil {
		return nil, err
	}
	w, err := env.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	all, err := env.Contracts()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	db, err := database.Open(ctx, env.DatabaseURL)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	log := audit.New(db, time.Now)
	store := users.New(db, log, time.Now)
	data := access.New(w, all)
	from := env.Config.URL
	if ports.Warehouse != nil {
		from = "" // it is not the one that is named
	}
	feed := live.New(data, live.For(from, env.LiveInterval), ports.Log)
	does, err := env.acting(ports)
	if err != nil {
		return nil, err
	}
	mesh, err := manifests.Read(manifests.Folder{FS: brokers.FS}, manifests.Folder{FS: triggers.FS}, manifests.Folder{FS: config.FS},
		manifests.Folder{FS: config.Sources, Optional: true})
	if err != nil {
		return nil, err
	}
	var reads *usage.Counter
	if env.Sink != "" {
		reads = usage.New("portal", func(ctx context.Context, e event.Event) error { return function.Post(ctx, ports.Client, env.Sink, e) }, time.Now)
	}
	p, err := New(Config{
		Reads: reads, Products: all, Documents: env.Folder(), Mesh: mesh, Here: ports.Here,
		Data: data, Live: feed, Act: does, ConsoleBytes: env.ConsoleBytes, Users: store, Audit: log, Bundle: ports.Data, Log: ports.Log,
		URL: public, Hops: int(env.Hops), Demo: env.Demo,
	})
	if err != nil {
		return nil, err
	}
	// Whoever reads this log is who may make the first admin.
	if link, ok, err := store.First(ctx); err != nil {
		return nil, err
	} else if ok {
		ports.Log.Info("nobody can log in yet: this link makes the first admin, once", "link", strings.TrimSuffix(env.URL, "/")+link.Path(), "until", link.ExpiresAt)
	}
	return &function.Function{
		HTTP: p.Handler(),
		Run: func(ctx context.Context) error {
			var counting sync.WaitGroup
			counting.Go(func() {
				reads.Run(ctx, func(err error) { ports.Log.Warn("reads of output ports are not reported yet", "error", err) })
			})
			<-ctx.Done()
			feed.Close() // who watches comes again, to another process
			counting.Wait()
			return nil
		},
		Close: func(context.Context) error {
			feed.Close()
			return db.Close()
		},
	}, nil
}

// acting makes what an admin acts by.
func (env *Environment) acting(ports function.Ports) (a Acting, err error) {
	formats, err := flatten.ReadFormats(env.Mappings)
	if err != nil {
		return a, err
	}
	client := *ports.Client
	client.Timeout = 0 // where Brokers keep no events they answer when all is delivered
	a = Acting{Parser: formats.Parser, Post: func(ctx context.Context, e event.Event) error {
		if env.Sink == "" {
			return errors.New("no K_SINK: it is Broker iot/iot, which is asked for this")
		}
		return function.PostPatiently(ctx, &client, env.Sink, e)
	}}
	if ports.Here != nil {
		a.Leads = func() (deadletter.Leads, error) { return deadletter.LeadsOf(ports.Here().Mesh), nil }
		return a, nil
	}
	mesh, err := manifests.Read(manifests.Folder{FS: triggers.FS}, manifests.Folder{FS: config.Sources, Optional: true})
	leads := deadletter.LeadsOf(mesh)
	a.Leads = func() (deadletter.Leads, error) { return leads, nil }
	return a, err
}

func publicURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("PORTAL_URL %q: want http://HOST or https://HOST", s)
	}
	return u, nil
}
