// Package portal shows the air, the mesh and its data as web pages: to tenants
// their rooms, to the teams the data products, what flows between them and what
// could not be delivered.
//
// The pages are rendered on the server and work without a script, but for the
// charts, whose bundle is made of web/ and comes with the function's data. Who
// may ask for what stands in the table of routes, and nowhere else; what they
// see of it is for package access to say.
package portal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/usage"
	"github.com/telemesh/telemesh/internal/users"
)

// Portal serves the pages.
type Portal struct {
	data         *access.Data
	counted      *access.Data // the same, for what people read
	users        *users.Store
	sessions     *scs.SessionManager // nil without users
	audit        *audit.Log
	feed         *live.Feed
	act          Acting
	assets       *assets
	log          *slog.Logger
	now          func() time.Time
	host         string // name of the host of the public address
	secure       bool   // that address is one of https
	hops         int    // proxies before it
	demo         bool
	inventory    inventory
	consoleFree  chan struct{} // full while a statement of the console runs
	consoleBytes int64
	streams      *bound
	exports      *bound
	// readings: the mesh has them. One without shows no air, and no trouble with devices
	// and sheets.
	readings bool
	// viewer tells who asks, by the session or the token of a request; false:
	// nobody who is logged in.
	viewer func(*http.Request) (access.Viewer, bool, error)
}

// Config is what a Portal is made of.
type Config struct {
	Data *access.Data
	// Reads counts who reads which output port; nil: nobody does.
	Reads *usage.Counter
	// Products and Mesh are what the catalog and the mesh show. Here, if it is not
	// nil, tells of the mesh in place of Mesh, as it runs in this process.
	Products []contract.Product
	Mesh     topology.Mesh
	// Documents is the folder of the products; nil: their documents are not served.
	Documents fs.FS
	Here      func() topology.Here

	Users *users.Store // nil: there are no pages of users, and Viewer says who comes
	Audit *audit.Log   // nil: nothing is recorded
	Live  *live.Feed
	Act   Acting
	// ConsoleBytes is the most that a statement of the console may be billed for where
	// the warehouse bills by bytes; 0: no limit.
	ConsoleBytes int64
	Bundle       fs.FS // assets/*.js of web/; nil, or without them: pages have no charts
	Log          *slog.Logger
	// URL is the public address, whose host name requests have to have; nil: any,
	// without https.
	URL *url.URL
	// Hops is how many proxies stand before the portal, each of which adds to
	// X-Forwarded-For who connected to it; 0: that header is not believed.
	Hops int
	// Demo lets everybody on this machine enter as a user of the demo.
	Demo   bool
	Now    func() time.Time // nil: time.Now
	Viewer func(*http.Request) (access.Viewer, bool, error)
}

// New makes a portal.
func New(cfg Config) (*Portal, error) {
	a, err := newAssets(cfg.Bundle)
	if err != nil {
		return nil, err
	}
	p := &Portal{data: cfg.Data, users: cfg.Users, audit: cfg.Audit, feed: cfg.Live, act: cfg.Act, assets: a, log: cfg.Log, viewer: cfg.Viewer,
		now: cfg.Now, hops: cfg.Hops, demo: cfg.Demo, consoleFree: make(chan struct{}, 1), consoleBytes: cfg.ConsoleBytes,
		streams: streamBound(), exports: exportBound()}
	if p.now == nil {
		p.now = time.Now
	}
	p.readings = p.data == nil || p.data.Has("iot_analytics.readings")
	p.counted = p.data
	if cfg.Reads != nil && p.data != nil {
		p.counted = p.data.CountedBy(func(v access.Viewer, ports []string) { cfg.Reads.Count(usage.Portal, v.Consumer(), ports...) })
	}
	p.inventory = newInventory(&cfg, p.now)
	if cfg.URL != nil {
		p.host, p.secure = cfg.URL.Hostname(), cfg.URL.Scheme == "https"
	}
	if p.demo && !loopback(p.host) {
		return nil, fmt.Errorf("a demo lets everybody in: its address has to be of this machine alone, and is not %q", p.host)
	}
	if p.users != nil {
		p.sessions = newSessions(p.users, p.secure)
		p.sessions.ErrorFunc = func(w http.ResponseWriter, r *http.Request, err error) { p.fail(w, r, access.Viewer{}, err) }
		p.viewer = p.visitor
	}
	return p, nil
}

// who is the least that a route asks of who comes.
type who int

const (
	anyone   who = iota // also who is not logged in
	signedIn            // every user
	team                // who sees the data of all tenants
	admins
)

func (w who) lets(v access.Viewer) bool {
	switch w {
	case anyone:
		return true
	case signedIn:
		return v.Role != ""
	case team:
		return v.Team()
	}
	return v.Role == access.Admin
}

// route is a page or an answer for programs.
type route struct {
	pattern string // of http.ServeMux
	who     who
	records recording
	serve   func(w http.ResponseWriter, r *http.Request, v access.Viewer) error
}

// recording is what of a request goes into the audit log, before it is served and by
// its address; or why nothing does.
type recording struct {
	as  audit.Action
	not string
}

var (
	queried  = recording{as: audit.Query}
	exported = recording{as: audit.Export}

	byItself  = recording{not: "the handler records what it does or hands out, in more words than its address has"}
	ofOneself = recording{not: "it shows what is of who asks, and of nobody else"}
	ofNobody  = recording{not: "there is nothing of persons in it, and no row of a tenant"}
	ofRooms   = recording{not: "readings of rooms and devices, without names: a page asks for them with each step; files of them are recorded"}
	ofEvents  = recording{not: "what events are called and whose they are, not their data, each of which is recorded"}
)

// routes is all that the portal serves. Those of an area stand with its pages.
func (p *Portal) routes() []route {
	all := slices.Concat([]route{
		{"GET /{$}", signedIn, ofNobody, p.home},
		{"GET /assets/{name}", anyone, ofNobody, p.assets.serve},
		{"GET /healthz", anyone, ofNobody, func(http.ResponseWriter, *http.Request, access.Viewer) error { return nil }},
	}, p.catalogRoutes(), p.documentRoutes(), p.meshRoutes(), p.liveRoutes(), p.operationsRoutes())
	if p.readings {
		all = append(all, p.airRoutes()...)
	}
	if p.users != nil {
		all = slices.Concat(all, p.loginRoutes(), p.accountRoutes(), p.userRoutes(), p.apiRoutes())
	}
	return all
}

func (p *Portal) home(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	first := "/catalog"
	if p.readings {
		first = "/air"
	}
	http.Redirect(w, r, first, http.StatusSeeOther)
	return nil
}

// Handler serves the portal.
func (p *Portal) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, each := range p.routes() {
		mux.HandleFunc(each.pattern, func(w http.ResponseWriter, r *http.Request) { p.enter(w, r, each) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		p.enter(w, r, route{"", anyone, ofNobody, func(http.ResponseWriter, *http.Request, access.Viewer) error { return errNotFound }})
	})
	// What another site makes a browser send is refused: it carries the session.
	return secured(p.here(p.withSession(http.NewCrossOriginProtection().Handler(mux))))
}

// enter serves a route to who may come, and says to others what they lack.
func (p *Portal) enter(w http.ResponseWriter, r *http.Request, to route) {
	v, known, err := p.viewer(r)
	switch {
	case err != nil:
	case to.who.lets(v) && (known || to.who == anyone):
		if to.records.as != "" {
			asked := r.Method + " " + r.URL.EscapedPath()
			if len(asked) > audit.MaxObject { // no id is so long
				err = errNotFound
				break
			}
			err = p.record(r, v, to.records.as, asked, r.URL.RawQuery)
		}
		if err == nil {
			err = to.serve(w, r, v)
		}
	case known:
		err = notFor(v.Role)
	case forPeople(r) && r.Method == http.MethodGet:
		http.Redirect(w, r, "/login?"+next(r), http.StatusSeeOther)
	default:
		err = errUnauthorized
	}
	if err != nil {
		p.fail(w, r, v, err)
	}
}

// The errors that a request is answered with, besides access.ErrForbidden. What
// else fails is the portal's fault, and its text is for the log.
var (
	errNotFound     = errors.New("there is no such page")
	errUnauthorized = errors.New("log in first")
)

// notFor is that a route is not for a role.
type notFor access.Role

func (r notFor) Error() string { return fmt.Sprintf("this page is not for the role %s", string(r)) }

func (notFor) Unwrap() error { return access.ErrForbidden }

// badRequest is an error whose text says what to send instead.
type badRequest string

func (e badRequest) Error() string { return string(e) }

func (p *Portal) fail(w http.ResponseWriter, r *http.Request, v access.Viewer, err error) {
	status, text := http.StatusInternalServerError, "Something went wrong here. It is in the log of the portal."
	var bad badRequest
	var over *exceeded
	switch {
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		return // nobody waits for it
	case errors.Is(err, errNotFound):
		status, text = http.StatusNotFound, sentence(err.Error())
	case errors.Is(err, errUnauthorized):
		status, text = http.StatusUnauthorized, sentence(err.Error())
	case errors.Is(err, access.ErrForbidden):
		status, text = http.StatusForbidden, sentence(err.Error())
		if err := p.record(r, v, audit.Refused, r.Method+" "+r.URL.Path, ""); err != nil {
			p.log.Error("not in the audit log", "path", r.URL.Path, "error", err)
		}
	case errors.As(err, &bad):
		status, text = http.StatusBadRequest, bad.Error()
	case errors.As(err, &over):
		w.Header().Set("Retry-After", strconv.Itoa(int(over.after/time.Second)))
		status, text = http.StatusTooManyRequests, sentence(over.Error())
	case errors.Is(err, audit.ErrNotKept):
		status, text = http.StatusBadRequest, err.Error()
	default:
		if s, said, ok := said(w, err); ok {
			status, text = s, said
			break
		}
		p.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if !forPeople(r) {
		problem(w, status, text)
		return
	}
	w.Header().Del("Content-Type")
	if err := p.page(w, r, v, status, "error", http.StatusText(status), text); err != nil {
		p.log.Error("error page not rendered", "error", err)
	}
}
