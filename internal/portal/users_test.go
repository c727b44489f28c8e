package portal

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/pquerna/otp/totp"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/database"
	"github.com/telemesh/telemesh/internal/database/databasetest"
	"github.com/telemesh/telemesh/internal/users"
)

func TestMain(m *testing.M) { databasetest.Main(m) }

const password = "correct horse battery"

// site is a portal with users of its own, served.
type site struct {
	t      *testing.T
	portal *Portal
	store  *users.Store
	audit  *audit.Log
	url    string
	at     atomic.Int64 // microseconds
}

func onBoth(t *testing.T, test func(t *testing.T, s *site)) {
	t.Helper()
	databasetest.Each(t, func(t *testing.T, address string) { test(t, newSite(t, address, Config{})) })
}

func onSQLite(t *testing.T, cfg Config) *site {
	t.Helper()
	return newSite(t, "sqlite:"+t.TempDir()+"/portal.db", cfg)
}

func newSite(t *testing.T, address string, cfg Config) *site {
	t.Helper()
	db, err := database.Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := &site{t: t}
	s.at.Store(time.Now().UnixMicro())
	cfg.Now = func() time.Time { return time.UnixMicro(s.at.Load()) }
	s.audit = audit.New(db, cfg.Now)
	s.store = users.New(db, s.audit, cfg.Now)
	cfg.Users, cfg.Audit, cfg.Log = s.store, s.audit, slog.New(slog.NewTextHandler(t.Output(), nil))
	if s.portal, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.portal.Handler())
	if cfg.URL != nil && cfg.URL.Scheme == "https" {
		server.Close()
		server = httptest.NewTLSServer(s.portal.Handler())
	}
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// pass lets time go on: codes are of another step then.
func (s *site) pass(d time.Duration) { s.at.Add(d.Microseconds()) }

// person is a user with the device that makes their codes.
type person struct {
	users.User
	secret   string
	recovery []string
}

func (s *site) code(secret string) string {
	s.t.Helper()
	code, err := totp.GenerateCode(secret, time.UnixMicro(s.at.Load()))
	if err != nil {
		s.t.Fatal(err)
	}
	return code
}

// person makes a user who can log in.
func (s *site) person(name string, role access.Role, tenants ...string) person {
	s.t.Helper()
	ctx := s.t.Context()
	_, link, err := s.store.Add(ctx, users.By{Who: "test"}, name, role, tenants)
	if err != nil {
		s.t.Fatal(err)
	}
	pending, err := s.store.Pending(ctx, link.Token)
	if err != nil {
		s.t.Fatal(err)
	}
	u, recovery, err := s.store.SetUp(ctx, "192.0.2.1", link.Token, "", password, s.code(pending.Secret))
	if err != nil {
		s.t.Fatal(err)
	}
	s.pass(time.Minute)
	return person{u, pending.Secret, recovery}
}

// browser keeps cookies, and goes nowhere by itself.
type browser struct {
	*site
	client *http.Client
}

func (s *site) browser() *browser {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	client := *http.DefaultClient
	if strings.HasPrefix(s.url, "https:") {
		client.Transport = insecure
	}
	client.Jar = jar
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{s, &client}
}

// page is an answer with its body.
type page struct {
	*http.Response
	body string
}

func (b *browser) do(method, path string, form url.Values, header ...string) page {
	b.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return page{resp, string(text)}
}

func (b *browser) get(path string) page { b.t.Helper(); return b.do(http.MethodGet, path, nil) }

// post sends fields: name, value, …
func (b *browser) post(path string, fields ...string) page {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return b.do(http.MethodPost, path, form)
}

// want sees that an answer has a status, and, of a redirection, where it goes.
func (p page) want(t *testing.T, status int, to string) page {
	t.Helper()
	if p.StatusCode != status || p.Header.Get("Location") != to {
		t.Errorf("%s %s: %s to %q, want %d to %q\n%s", p.Request.Method, p.Request.URL.Path, p.Status, p.Header.Get("Location"), status, to, p.body)
	}
	return p
}

// session is the cookie by which a browser is known.
func (b *browser) session() string {
	b.t.Helper()
	u, err := url.Parse(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name == cookieName("telemesh", b.portal.secure) {
			return c.Value
		}
	}
	return ""
}

// logIn takes both steps, as the user of a browser.
func (s *site) logIn(who person) *browser {
	s.t.Helper()
	b := s.browser()
	b.post("/login", "name", who.Name, "password", password, "next", "/account").want(s.t, http.StatusSeeOther, "/login/code?next=%2Faccount")
	b.post("/login/code", "code", s.code(who.secret), "next", "/account").want(s.t, http.StatusSeeOther, "/account")
	s.pass(time.Minute)
	return b
}

var secretShown = regexp.MustCompile(`type the secret: <code>([A-Z2-7 ]+)</code>`)

func shownSecret(t *testing.T, p page) string {
	t.Helper()
	m := secretShown.FindStringSubmatch(p.body)
	if m == nil || !strings.Contains(p.body, `src="data:image/png;base64,`) {
		t.Fatalf("no secret on the page:\n%s", p.body)
	}
	return strings.ReplaceAll(m[1], " ", "")
}

var recoveryShown = regexp.MustCompile(`<li><code>([a-z2-7-]{19})</code></li>`)

func TestFirstAdminSetsUpAndLogsIn(t *testing.T) {
	onBoth(t, func(t *testing.T, s *site) {
		if p := s.browser().get("/login"); !strings.Contains(p.body, "Nobody can log in yet") {
			t.Errorf("the log-in of a portal without users says nothing of it:\n%s", p.body)
		}
		link, _, err := s.store.First(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b := s.browser()
		p := b.get(link.Path()).want(t, http.StatusOK, "")
		if got := p.Header.Get("Referrer-Policy"); got != "no-referrer" {
			t.Errorf("Referrer-Policy %q of a page whose path is secret", got)
		}
		secret := shownSecret(t, p)
		b.post(link.Path(), "name", "Ann", "new", password, "again", password+"x", "code", s.code(secret)).want(t, http.StatusBadRequest, "")
		b.post(link.Path(), "name", "Ann", "new", "short", "again", "short", "code", s.code(secret)).want(t, http.StatusBadRequest, "")
		p = b.post(link.Path(), "name", "Ann Smith", "new", password, "again", password, "code", s.code(secret)).want(t, http.StatusBadRequest, "")
		if again := shownSecret(t, p); again != secret {
			t.Error("after a mistake the secret is another one: the device has the wrong one")
		}
		p = b.post(link.Path(), "name", "Ann", "new", password, "again", password, "code", s.code(secret)).want(t, http.StatusOK, "")
		if codes := recoveryShown.FindAllString(p.body, -1); len(codes) != 10 {
			t.Errorf("%d recovery codes are shown, want 10", len(codes))
		}
		b.get("/account").want(t, http.StatusOK, "")
		b.get("/users").want(t, http.StatusOK, "")
		s.browser().get(link.Path()).want(t, http.StatusGone, "")
		s.browser().post(link.Path(), "name", "eve", "new", password, "again", password, "code", s.code(secret)).want(t, http.StatusGone, "")

		b.post("/logout").want(t, http.StatusSeeOther, "/login")
		b.get("/account").want(t, http.StatusSeeOther, "/login?next=%2Faccount")

		s.pass(time.Minute)
		b.post("/login", "name", "ann", "password", password, "next", "/users?x=1").want(t, http.StatusSeeOther, "/login/code?next=%2Fusers%3Fx%3D1")
		b.get("/account").want(t, http.StatusSeeOther, "/login?next=%2Faccount") // a password alone opens nothing
		b.get("/login/code?next=%2Fusers").want(t, http.StatusOK, "")
		b.post("/login/code", "code", "not a code", "next", "/users?x=1").want(t, http.StatusUnauthorized, "")
		code := s.code(secret)
		b.post("/login/code", "code", code, "next", "/users?x=1").want(t, http.StatusSeeOther, "/users?x=1")
		b.get("/users").want(t, http.StatusOK, "")
		b.get("/login?next=%2Faccount").want(t, http.StatusSeeOther, "/account")

		// The code again, in another browser.
		other := s.browser()
		other.post("/login", "name", "ann", "password", password).want(t, http.StatusSeeOther, "/login/code?next=%2F")
		other.post("/login/code", "code", code).want(t, http.StatusUnauthorized, "")
		// Too late after the password.
		s.pass(pendingLasts + time.Second)
		other.post("/login/code", "code", s.code(secret)).want(t, http.StatusUnauthorized, "")
		other.get("/login/code").want(t, http.StatusSeeOther, "/login?next=%2F")
	})
}

// Many come with one code at the same time, over many connections: one is let in.
func TestOneCodeLogsInOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s *site) {
		ann := s.person("ann", access.Analyst)
		var browsers []*browser
		for range 4 {
			b := s.browser()
			b.post("/login", "name", "ann", "password", password).want(t, http.StatusSeeOther, "/login/code?next=%2F")
			browsers = append(browsers, b)
		}
		code := s.code(ann.secret)
		var in atomic.Int64
		var all sync.WaitGroup
		for _, b := range browsers {
			all.Go(func() {
				if p := b.post("/login/code", "code", code); p.StatusCode == http.StatusSeeOther {
					in.Add(1)
				}
			})
		}
		all.Wait()
		if in.Load() != 1 {
			t.Errorf("one code let %d in", in.Load())
		}
	})
}

// What the browser had before, or was given by somebody else, is no session of the
// user after any step.
func TestSessionFixation(t *testing.T) {
	onBoth(t, func(t *testing.T, s *site) {
		ann, mallory := s.person("ann", access.Analyst), s.person("mallory", access.Analyst)
		evil := s.logIn(mallory)
		planted := evil.session()

		b := s.browser()
		u, err := url.Parse(s.url)
		if err != nil {
			t.Fatal(err)
		}
		b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "telemesh", Value: planted}})
		seen := map[string]bool{planted: true}
		b.post("/login", "name", "ann", "password", password)
		if seen[b.session()] {
			t.Error("the password leaves the session what it was")
		}
		seen[b.session()] = true
		b.post("/login/code", "code", s.code(ann.secret), "next", "/account").want(t, http.StatusSeeOther, "/account")
		if seen[b.session()] {
			t.Error("the code leaves the session what it was")
		}
		for token := range seen {
			other := s.browser()
			other.client.Jar.SetCookies(u, []*http.Cookie{{Name: "telemesh", Value: token}})
			if p := other.get("/account"); p.StatusCode == http.StatusOK {
				t.Errorf("an earlier session is one of %v", strings.Contains(p.body, "ann"))
			}
		}
		// A token that the server never made is not taken over.
		b = s.browser()
		b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "telemesh", Value: "chosen"}})
		b.post("/login", "name", "ann", "password", password)
		if b.session() == "chosen" {
			t.Error("a token that somebody chose is a session")
		}
		// A changed password is another session, too.
		s.pass(time.Minute)
		b = s.logIn(ann)
		before := b.session()
		b.post("/account/password", "old", password, "new", "another long password", "again", "another long password").want(t, http.StatusSeeOther, "/account")
		if b.session() == before {
			t.Error("a new password leaves the session what it was")
		}
		if p := b.get("/account").want(t, http.StatusOK, ""); !strings.Contains(p.body, "Your password is changed") {
			t.Error("the page does not say what came of it")
		}
		if p := b.get("/account"); strings.Contains(p.body, "Your password is changed") {
			t.Error("the page says so again")
		}
	})
}

func TestCookies(t *testing.T) {
	for _, test := range []struct {
		url, name string
		secure    bool
	}{{"http://127.0.0.1", "telemesh", false}, {"https://127.0.0.1", "__Host-telemesh", true}} {
		public, err := url.Parse(test.url)
		if err != nil {
			t.Fatal(err)
		}
		s := onSQLite(t, Config{URL: public})
		ann := s.person("ann", access.Analyst)
		b := s.browser()
		b.post("/login", "name", "ann", "password", password)
		p := b.post("/login/code", "code", s.code(ann.secret)).want(t, http.StatusSeeOther, "/")
		names := map[string]bool{}
		for _, c := range p.Cookies() {
			names[c.Name] = true
			if c.Secure != test.secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
				t.Errorf("%s: cookie %s", test.url, c.Raw)
			}
		}
		if !names[test.name] || !names[test.name+"-device"] || len(names) != 2 {
			t.Errorf("%s: cookies %v", test.url, names)
		}
		if p := b.get("/account").want(t, http.StatusOK, ""); (p.Header.Get("Strict-Transport-Security") != "") != test.secure {
			t.Errorf("%s: Strict-Transport-Security %q", test.url, p.Header.Get("Strict-Transport-Security"))
		}
		for path := range map[string]bool{"/assets/portal.css": true, "/healthz": true} {
			if p := b.get(path); p.StatusCode != http.StatusOK || len(p.Cookies()) != 0 {
				t.Errorf("%s: %s with cookies %v", path, p.Status, p.Cookies())
			}
		}
		if p := s.browser().get("/login"); len(p.Cookies()) != 0 {
			t.Errorf("who only looks has a session: %v", p.Cookies())
		}
	}
}

func TestBruteForce(t *testing.T) {
	onBoth(t, func(t *testing.T, s *site) {
		ann, bob := s.person("ann", access.Analyst), s.person("bob", access.Analyst)
		known := s.logIn(ann)
		b := s.browser()
		var last page
		for range 7 {
			last = b.post("/login", "name", "ann", "password", "wrong")
		}
		if last.want(t, http.StatusTooManyRequests, ""); last.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		b.post("/login", "name", "ann", "password", password).want(t, http.StatusTooManyRequests, "")
		// By a token it is the same account.
		p := b.do(http.MethodPost, "/api/token", nil, "Content-Type", "application/json")
		p.want(t, http.StatusBadRequest, "")
		p = b.json(http.MethodPost, "/api/token", "", credentials{"ann", password, s.code(ann.secret)})
		if p.want(t, http.StatusTooManyRequests, ""); p.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		s.logIn(bob)
		// The browser that ann has logged in from is not a stranger's.
		known.post("/logout")
		known.post("/login", "name", "ann", "password", password, "next", "/").want(t, http.StatusSeeOther, "/login/code?next=%2F")
	})
}

// json sends what a program does, and sees that the answer is as described.
func (b *browser) json(method, path, token string, in any) page {
	b.t.Helper()
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			b.t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	b.validate(r, resp, text)
	return page{resp, string(text)}
}

// described is the document that the portal gives.
func (s *site) described() *openapi3.T {
	s.t.Helper()
	p := s.browser().get("/api/openapi.json").want(s.t, http.StatusOK, "")
	doc, err := openapi3.NewLoader().LoadFromData([]byte(p.body))
	if err != nil {
		s.t.Fatal(err)
	}
	return doc
}

// validate sees that an answer is one that the description has.
func (s *site) validate(r *http.Request, resp *http.Response, body []byte) {
	s.t.Helper()
	router, err := legacy.NewRouter(s.described())
	if err != nil {
		s.t.Fatal(err)
	}
	plain := r.Clone(context.Background())
	plain.URL = &url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	var to *routers.Route
	var parameters map[string]string
	if to, parameters, err = router.FindRoute(plain); err != nil {
		s.t.Fatalf("%s %s: %v", r.Method, r.URL.Path, err)
	}
	err = openapi3filter.ValidateResponse(s.t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: plain, PathParams: parameters, Route: to,
			Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}},
		Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		s.t.Errorf("%s %s: the answer is not as described: %v\n%s", r.Method, r.URL.Path, err, body)
	}
}

func TestOpenAPI(t *testing.T) {
	s := onSQLite(t, Config{})
	doc := s.described()
	if err := doc.Validate(t.Context()); err != nil {
		t.Errorf("the description is none: %v", err)
	}
	routes := map[string]bool{}
	for _, each := range s.portal.routes() {
		method, path, _ := strings.Cut(each.pattern, " ")
		if !strings.HasPrefix(path, "/api/") {
			continue
		}
		routes[each.pattern] = true
		item := doc.Paths.Value(pathParameter.ReplaceAllString(path, "{$1}"))
		if item == nil || item.GetOperation(method) == nil || item.GetOperation(method).Summary == "" {
			t.Errorf("%s is not described: add it to the api beside its route", each.pattern)
		}
	}
	for _, part := range apis {
		for pattern := range part {
			if !routes[pattern] {
				t.Errorf("%s is described, and no route", pattern)
			}
		}
	}
	if len(routes) < 10 {
		t.Errorf("%d routes for programs", len(routes))
	}
}

func decode[T any](t *testing.T, p page) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(p.body), &v); err != nil {
		t.Fatalf("%s: %v\n%s", p.Request.URL.Path, err, p.body)
	}
	return v
}

func TestAPI(t *testing.T) {
	onBoth(t, func(t *testing.T, s *site) {
		boss, ann := s.person("boss", access.Admin), s.person("ann", access.Tenant, "school")
		b := s.browser()
		token := func(who person) string {
			t.Helper()
			p := b.json(http.MethodPost, "/api/token", "", credentials{who.Name, password, s.code(who.secret)}).want(t, http.StatusCreated, "")
			s.pass(time.Minute)
			return decode[tokenAnswer](t, p).Token
		}
		b.json(http.MethodPost, "/api/token", "", credentials{"boss", password, "000000"}).want(t, http.StatusUnauthorized, "")
		b.json(http.MethodPost, "/api/token", "", map[string]string{"user": "boss"}).want(t, http.StatusBadRequest, "")
		b.json(http.MethodGet, "/api/users/me", "", nil).want(t, http.StatusUnauthorized, "")
		b.json(http.MethodGet, "/api/users/me", "tm_guess", nil).want(t, http.StatusUnauthorized, "")

		admin, tenant := token(boss), token(ann)
		me := decode[userAnswer](t, b.json(http.MethodGet, "/api/users/me", tenant, nil).want(t, http.StatusOK, ""))
		if me.Name != "ann" || me.Role != access.Tenant || len(me.Tenants) != 1 || me.Tenants[0] != "school" || !me.SetUp {
			t.Errorf("me = %+v", me)
		}
		for method, path := range map[string]string{http.MethodGet: "/api/users/" + boss.ID, http.MethodPut: "/api/users/" + ann.ID, http.MethodPost: "/api/users"} {
			b.json(method, path, tenant, rights{Role: access.Admin}).want(t, http.StatusForbidden, "")
		}
		b.json(http.MethodPost, "/api/users", admin, newUser{"bob", access.Tenant, nil}).want(t, http.StatusBadRequest, "")
		b.json(http.MethodPost, "/api/users", admin, newUser{"ann", access.Analyst, nil}).want(t, http.StatusConflict, "")
		p := b.json(http.MethodPost, "/api/users", admin, newUser{"bob", access.Tenant, []string{"office"}})
		bob := decode[invited](t, p)
		p.want(t, http.StatusCreated, "/api/users/"+bob.User.ID)
		if got := s.browser().get(strings.TrimPrefix(bob.Link, s.url)).want(t, http.StatusOK, ""); !strings.Contains(got.body, "bob") || !strings.HasPrefix(bob.Link, s.url) {
			t.Errorf("the link %s is not of bob", bob.Link)
		}
		p = b.json(http.MethodPut, "/api/users/"+bob.User.ID, admin, rights{access.Analyst, nil, new(true)}).want(t, http.StatusOK, "")
		if got := decode[userAnswer](t, p); got.Role != access.Analyst || !got.Disabled || len(got.Tenants) != 0 {
			t.Errorf("changed to %+v", got)
		}
		p = b.json(http.MethodGet, "/api/users/"+bob.User.ID, admin, nil).want(t, http.StatusOK, "")
		if got := decode[userAnswer](t, p); !got.Disabled {
			t.Errorf("read as %+v", got)
		}
		if all := decode[[]userAnswer](t, b.json(http.MethodGet, "/api/users", admin, nil).want(t, http.StatusOK, "")); len(all) != 3 {
			t.Errorf("users %+v", all)
		}
		b.json(http.MethodGet, "/api/users/nobody", admin, nil).want(t, http.StatusNotFound, "")
		b.json(http.MethodPut, "/api/users/nobody", admin, rights{Role: access.Analyst, Disabled: new(false)}).want(t, http.StatusNotFound, "")
		b.json(http.MethodPut, "/api/users/"+boss.ID, admin, rights{Role: access.Analyst, Disabled: new(false)}).want(t, http.StatusConflict, "")
		b.json(http.MethodPost, "/api/users/"+bob.User.ID+"/reset", admin, nil).want(t, http.StatusOK, "")

		b.json(http.MethodPut, "/api/users/me", tenant, passwords{"wrong", "another long password"}).want(t, http.StatusBadRequest, "")
		b.json(http.MethodPut, "/api/users/me", tenant, passwords{password, "short"}).want(t, http.StatusBadRequest, "")
		b.json(http.MethodPut, "/api/users/me", tenant, passwords{password, "another long password"}).want(t, http.StatusOK, "")
		b.json(http.MethodGet, "/api/users/me", tenant, nil).want(t, http.StatusUnauthorized, "")

		b.json(http.MethodDelete, "/api/token", admin, nil).want(t, http.StatusNoContent, "")
		b.json(http.MethodGet, "/api/users", admin, nil).want(t, http.StatusUnauthorized, "")
		// By its session a page may ask the same; a token is for programs alone.
		session := s.logIn(boss)
		session.json(http.MethodGet, "/api/users", "", nil).want(t, http.StatusOK, "")
		session.json(http.MethodDelete, "/api/token", "", nil).want(t, http.StatusBadRequest, "")
		b.do(http.MethodGet, "/users", nil, "Authorization", "Bearer "+token(boss)).want(t, http.StatusSeeOther, "/login?next=%2Fusers")
	})
}

// Who has been disabled is out, in the middle of what they do.
func TestDisabledIsOut(t *testing.T) {
	onBoth(t, func(t *testing.T, s *site) {
		boss, ann := s.person("boss", access.Admin), s.person("ann", access.Analyst)
		admin, b := s.logIn(boss), s.logIn(ann)
		token := decode[tokenAnswer](t, b.json(http.MethodPost, "/api/token", "", credentials{"ann", password, s.code(ann.secret)})).Token
		b.json(http.MethodGet, "/api/users/me", token, nil).want(t, http.StatusOK, "")
		half := s.browser()
		half.post("/login", "name", "ann", "password", password)
		admin.post("/users/"+ann.ID, "role", "analyst", "disabled", "on").want(t, http.StatusSeeOther, "/users")
		b.get("/account").want(t, http.StatusSeeOther, "/login?next=%2Faccount")
		b.json(http.MethodGet, "/api/users/me", token, nil).want(t, http.StatusUnauthorized, "")
		s.pass(time.Minute)
		half.post("/login/code", "code", s.code(ann.secret)).want(t, http.StatusUnauthorized, "")
		s.browser().post("/login", "name", "ann", "password", password).want(t, http.StatusUnauthorized, "")
		admin.get("/users").want(t, http.StatusOK, "")
	})
}

// Who changes a role does not by that let somebody in again.
func TestDisabledHasToBeSaid(t *testing.T) {
	s := onSQLite(t, Config{})
	boss, ann := s.person("boss", access.Admin), s.person("ann", access.Analyst)
	b := s.logIn(boss)
	if _, err := s.store.Change(t.Context(), users.By{Who: "test"}, ann.ID, access.Analyst, nil, true); err != nil {
		t.Fatal(err)
	}
	b.json(http.MethodPut, "/api/users/"+ann.ID, "", map[string]any{"role": "analyst"}).want(t, http.StatusBadRequest, "")
	if u, err := s.store.Get(t.Context(), ann.ID); err != nil || !u.Disabled {
		t.Errorf("%+v, %v; want that ann is disabled still", u, err)
	}
}

// What no name can be is that of nobody, on each database.
func TestImpossibleNames(t *testing.T) {
	onBoth(t, func(t *testing.T, s *site) {
		b := s.logIn(s.person("boss", access.Admin))
		for _, name := range []string{"a\x00b", "\xff\xfe"} {
			s.browser().post("/login", "name", name, "password", password).want(t, http.StatusUnauthorized, "")
			s.browser().json(http.MethodPost, "/api/token", "", credentials{name, password, "123456"}).want(t, http.StatusUnauthorized, "")
			if p := b.get("/api/users/" + url.PathEscape(name)); p.StatusCode != http.StatusNotFound {
				t.Errorf("the user of ID %q: %s", name, p.Status)
			}
		}
		for _, path := range []string{"/api/users/", "/users/"} { // longer than the audit log keeps
			b.get(path+strings.Repeat("x", 600)).want(t, http.StatusNotFound, "")
		}
	})
}

func TestUsersPages(t *testing.T) {
	onBoth(t, func(t *testing.T, s *site) {
		boss := s.person("boss", access.Admin)
		b := s.logIn(boss)
		p := b.post("/users", "name", "ann", "role", "tenant", "tenants", " school ,office, school").want(t, http.StatusCreated, "")
		m := regexp.MustCompile(`<code>(http://[^<]+/setup/[^<]+)</code>`).FindStringSubmatch(p.body)
		if m == nil {
			t.Fatalf("no link:\n%s", p.body)
		}
		if strings.Contains(b.get("/users").body, m[1]) {
			t.Error("the link is shown again")
		}
		ann, err := s.store.Named(t.Context(), "ann")
		if err != nil || len(ann.Tenants) != 2 {
			t.Fatalf("ann = %+v, %v", ann, err)
		}
		invited := s.browser()
		path := strings.TrimPrefix(m[1], s.url)
		secret := shownSecret(t, invited.get(path).want(t, http.StatusOK, ""))
		invited.post(path, "name", "boss", "new", password, "again", password, "code", s.code(secret)).want(t, http.StatusOK, "")
		if p := invited.get("/account").want(t, http.StatusOK, ""); !strings.Contains(p.body, "school, office") {
			t.Errorf("the account of ann:\n%s", p.body)
		}
		b.post("/users", "name", "ann", "role", "analyst").want(t, http.StatusConflict, "")
		b.post("/users", "name", "bob", "role", "tenant").want(t, http.StatusBadRequest, "")
		b.get("/users/"+ann.ID).want(t, http.StatusOK, "")
		b.get("/users/nobody").want(t, http.StatusNotFound, "")
		b.post("/users/"+ann.ID, "role", "root").want(t, http.StatusBadRequest, "")
		b.post("/users/"+boss.ID, "role", "analyst").want(t, http.StatusConflict, "")
		b.post("/users/nobody", "role", "analyst").want(t, http.StatusNotFound, "")
		b.post("/users/"+ann.ID, "role", "analyst").want(t, http.StatusSeeOther, "/users")
		invited.get("/account").want(t, http.StatusSeeOther, "/login?next=%2Faccount")
		if p := b.post("/users/"+ann.ID+"/reset").want(t, http.StatusOK, ""); !strings.Contains(p.body, "/setup/") {
			t.Errorf("no link after a reset:\n%s", p.body)
		}
		b.post("/users/nobody/reset").want(t, http.StatusNotFound, "")
		s.browser().post("/login", "name", "ann", "password", password).want(t, http.StatusUnauthorized, "")
		// An admin who is still one after a change of their own goes on.
		s.person("other", access.Admin)
		b.post("/users/"+boss.ID, "role", "admin").want(t, http.StatusSeeOther, "/users")
		b.get("/users").want(t, http.StatusOK, "")
	})
}

func TestAccount(t *testing.T) {
	onBoth(t, func(t *testing.T, s *site) {
		ann := s.person("ann", access.Analyst)
		b, other := s.logIn(ann), s.logIn(ann)
		b.do(http.MethodGet, "/account", nil, "User-Agent", "<script>alert(1)</script>")
		b.post("/account/password", "old", "wrong", "new", "another long password", "again", "another long password").want(t, http.StatusUnauthorized, "")
		b.post("/account/password", "old", password, "new", "short", "again", "short").want(t, http.StatusBadRequest, "")
		b.post("/account/password", "old", password, "new", "another long password", "again", "other").want(t, http.StatusBadRequest, "")
		other.get("/account").want(t, http.StatusOK, "")
		p := b.post("/account/recovery", "old", password).want(t, http.StatusOK, "")
		if codes := recoveryShown.FindAllString(p.body, -1); len(codes) != 10 {
			t.Errorf("%d recovery codes are shown, want 10", len(codes))
		}
		b.post("/account/recovery", "old", "wrong").want(t, http.StatusUnauthorized, "")

		secret := shownSecret(t, b.get("/account/codes").want(t, http.StatusOK, ""))
		b.post("/account/codes", "old", password, "code", s.code(ann.secret)).want(t, http.StatusBadRequest, "")
		b.post("/account/codes", "old", "wrong", "code", s.code(secret)).want(t, http.StatusUnauthorized, "")
		b.post("/account/codes", "old", password, "code", s.code(secret)).want(t, http.StatusSeeOther, "/account")
		b.get("/account").want(t, http.StatusOK, "")
		other.get("/account").want(t, http.StatusSeeOther, "/login?next=%2Faccount")
		s.pass(time.Minute)
		old := s.browser()
		old.post("/login", "name", "ann", "password", password)
		old.post("/login/code", "code", s.code(ann.secret)).want(t, http.StatusUnauthorized, "")
		ann.secret = secret
		again := s.logIn(ann)
		again.post("/account/logout").want(t, http.StatusSeeOther, "/login")
		for _, each := range []*browser{b, again} {
			each.get("/account").want(t, http.StatusSeeOther, "/login?next=%2Faccount")
		}
		if head, err := s.audit.Verify(t.Context()); err != nil || head.Seq == 0 {
			t.Errorf("Verify = %v, %v", head, err)
		}
	})
}

// Whatever changes something is refused when a page of another site sends it.
func TestCrossSiteRequestsAreRefused(t *testing.T) {
	s := onSQLite(t, Config{})
	boss := s.person("boss", access.Admin)
	b := s.logIn(boss)
	before, err := s.audit.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, each := range s.portal.routes() {
		method, path, _ := strings.Cut(each.pattern, " ")
		if method == http.MethodGet {
			continue
		}
		tried++
		path = pathParameter.ReplaceAllString(path, boss.ID)
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "", "Origin", "https://evil.example"}} {
			if p := b.do(method, path, url.Values{"name": {"eve"}, "role": {"admin"}}, header...); p.StatusCode != http.StatusForbidden {
				t.Errorf("%s %s with %q: %s", method, path, header, p.Status)
			}
		}
	}
	if after, err := s.audit.Verify(t.Context()); err != nil || after != before || tried < 10 {
		t.Errorf("after %d refused requests the audit log has grown to %v from %v, %v", tried, after, before, err)
	}
	b.get("/account").want(t, http.StatusOK, "")
}

func TestOwnPath(t *testing.T) {
	for next, want := range map[string]string{
		"/": "/", "/air?room=1&x=%2F": "/air?room=1&x=%2F", "/users": "/users", "/air/a%2Fb": "/air/a%2Fb",
		"": "/", "air": "/", "//evil.example": "/", "///evil.example": "/", "/\\evil.example": "/", "\\\\evil.example": "/", "/%5Cevil.example": "/",
		"https://evil.example/": "/", "http:evil.example": "/", "javascript:alert(1)": "/", "data:text/html,x": "/", "/\t/evil.example": "/", "\t//evil.example": "/",
		"/\n/evil.example": "/", "//user@evil.example": "/", "/%2F/evil.example": "/", "/login": "/", "/login/code": "/", "/logout": "/", "/x\x00": "/", "%2F%2Fevil.example": "/",
		"https:///evil.example": "/", "/login?next=/login": "/",
	} {
		if got := ownPath(next); got != want {
			t.Errorf("ownPath(%q) = %q, want %q", next, got, want)
		}
	}
	s := onSQLite(t, Config{})
	ann := s.person("ann", access.Analyst)
	b := s.browser()
	if p := b.get("/login?next=//evil.example"); strings.Contains(p.body, "evil.example") {
		t.Error("the form has an address of elsewhere")
	}
	b.post("/login", "name", "ann", "password", password, "next", "//evil.example").want(t, http.StatusSeeOther, "/login/code?next=%2F")
	b.post("/login/code", "code", s.code(ann.secret), "next", "https://evil.example").want(t, http.StatusSeeOther, "/")
	b.get("/login?next=https://evil.example").want(t, http.StatusSeeOther, "/")
}

// What is for admins is nobody else's, of pages and of programs; it is noted who
// asked.
func TestAdminsPagesAreAdmins(t *testing.T) {
	s := onSQLite(t, Config{})
	boss := s.person("boss", access.Admin)
	visitors := map[string]*browser{
		"nobody":  s.browser(),
		"tenant":  s.logIn(s.person("ann", access.Tenant, "school")),
		"analyst": s.logIn(s.person("bob", access.Analyst)),
	}
	before, err := s.store.Get(t.Context(), boss.ID)
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, each := range s.portal.routes() {
		if each.who != admins {
			continue
		}
		tried++
		method, path, _ := strings.Cut(each.pattern, " ")
		path = pathParameter.ReplaceAllString(path, boss.ID)
		for who, b := range visitors {
			want := http.StatusForbidden
			if who == "nobody" {
				want = http.StatusUnauthorized
				if method == http.MethodGet && !strings.HasPrefix(path, "/api/") {
					want = http.StatusSeeOther
				}
			}
			p := b.do(method, path, url.Values{"role": {"tenant"}, "tenants": {"school"}, "name": {"eve"}})
			if p.StatusCode != want || strings.Contains(p.body, "boss") {
				t.Errorf("%s %s as %s: %s, want %d\n%s", method, path, who, p.Status, want, p.body)
			}
		}
	}
	if tried < 8 {
		t.Errorf("%d routes for admins", tried)
	}
	if after, err := s.store.Get(t.Context(), boss.ID); err != nil || after.ChangedAt != before.ChangedAt {
		t.Errorf("what was refused has changed %+v, %v", after, err)
	}
	all, err := s.audit.List(t.Context(), 0, 1)
	if err != nil || len(all) != 1 || all[0].Action != audit.Refused || all[0].Who == "" {
		t.Errorf("the audit log ends with %+v, %v", all, err)
	}
}

func TestDemo(t *testing.T) {
	public := &url.URL{Scheme: "http", Host: "127.0.0.1"}
	s := onSQLite(t, Config{URL: public, Demo: true})
	ctx := t.Context()
	if err := s.store.AddDemo(ctx, users.By{Who: "test"}, "admin", access.Admin, nil); err != nil {
		t.Fatal(err)
	}
	demo, err := s.store.Named(ctx, "admin")
	if err != nil {
		t.Fatal(err)
	}
	ann := s.person("ann", access.Analyst)
	b := s.browser()
	if p := b.get("/login"); !strings.Contains(p.body, demo.ID) || strings.Contains(p.body, ann.ID) || !strings.Contains(p.body, "A demo: whoever uses this machine") {
		t.Errorf("the log-in of a demo:\n%s", p.body)
	}
	b.post("/login/demo", "user", ann.ID).want(t, http.StatusNotFound, "")
	b.post("/login/demo", "user", demo.ID, "next", "/users").want(t, http.StatusSeeOther, "/users")
	if p := b.get("/users").want(t, http.StatusOK, ""); !strings.Contains(p.body, "A demo: whoever uses this machine") {
		t.Error("a page of the demo does not say so")
	}
	// By a name that somebody made to lead here, nothing is answered.
	for _, host := range []string{"evil.example", "evil.example:8080", "127.0.0.1.evil.example", "0.0.0.0", "192.0.2.1:80"} {
		p := b.do(http.MethodPost, "/login/demo", url.Values{"user": {demo.ID}}, "Host", host)
		if p.StatusCode != http.StatusMisdirectedRequest || strings.Contains(p.body, demo.ID) {
			t.Errorf("with Host %q: %s", host, p.Status)
		}
		b.do(http.MethodGet, "/login", nil, "Host", host).want(t, http.StatusMisdirectedRequest, "")
	}
	for _, host := range []string{"localhost:1234", "[::1]:80", "127.0.0.1"} {
		b.do(http.MethodGet, "/healthz", nil, "Host", host).want(t, http.StatusOK, "")
		s.browser().do(http.MethodGet, "/login", nil, "Host", host).want(t, http.StatusOK, "")
	}
	// Nor to who is on another machine, or behind a proxy on this one.
	for _, test := range []struct {
		remote, header string
		want           int
	}{{"192.0.2.1:80", "", 403}, {"10.0.0.5:80", "", 403}, {"[fe80::1%eth0]:80", "", 403}, {"@", "", 403}, {"127.0.0.1:80", "X-Forwarded-For", 403}, {"127.0.0.1:80", "Forwarded", 403},
		{"127.0.0.1:80", "", 200}, {"127.5.5.5:80", "", 200}, {"[::1]:80", "", 200}, {"[::ffff:127.0.0.1]:80", "", 200}} {
		r := httptest.NewRequest(http.MethodGet, "http://localhost/login", nil)
		r.RemoteAddr = test.remote
		if test.header != "" {
			r.Header.Set(test.header, "127.0.0.1")
		}
		w := httptest.NewRecorder()
		s.portal.Handler().ServeHTTP(w, r)
		if w.Code != test.want || w.Code != 200 && strings.Contains(w.Body.String(), demo.ID) {
			t.Errorf("from %s with %q: %d, want %d", test.remote, test.header, w.Code, test.want)
		}
	}
	// The same session, once the portal is no demo any more.
	s.portal.demo = false
	b.get("/users").want(t, http.StatusSeeOther, "/login?next=%2Fusers")
	b.post("/login/demo", "user", demo.ID).want(t, http.StatusNotFound, "")

	for _, address := range []string{"https://portal.example.com", "http://0.0.0.0", "http://192.168.0.2:8080", ""} {
		cfg := Config{Demo: true}
		if address != "" {
			if cfg.URL, err = url.Parse(address); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := New(cfg); err == nil {
			t.Errorf("a demo at %q starts", address)
		}
	}
}

func TestAnswersAtItsOwnNameAlone(t *testing.T) {
	for address, hosts := range map[string]map[string]int{
		"http://portal.example.com":       {"portal.example.com": 200, "PORTAL.example.com:8080": 200, "localhost": 421, "evil.example": 421, "portal.example.com.evil.example": 421},
		"http://0.0.0.0":                  {"anything.example": 200},
		"http://[::]":                     {"anything.example": 200},
		"http://localhost:8080":           {"127.0.0.1": 200, "127.0.0.1:9090": 200, "evil.example": 421},
		"http://portal.example.com:8443/": {"portal.example.com": 200},
	} {
		public, err := publicURL(address)
		if err != nil {
			t.Fatal(err)
		}
		s := onSQLite(t, Config{URL: public})
		for host, want := range hosts {
			s.browser().do(http.MethodGet, "/login", nil, "Host", host).want(t, want, "")
		}
		s.browser().do(http.MethodGet, "/healthz", nil, "Host", "10.0.0.7:8012").want(t, http.StatusOK, "")
	}
	for _, address := range []string{"", "portal.example.com", "ftp://portal.example.com", "https://", "https://portal.example.com/portal", "https://x/?q=1"} {
		if _, err := publicURL(address); err == nil {
			t.Errorf("PORTAL_URL %q is taken", address)
		}
	}
}

func TestAddressOfWhoAsks(t *testing.T) {
	for _, test := range []struct {
		remote, forwarded string
		hops              int
		want              string
	}{
		{"192.0.2.1:1234", "", 0, "192.0.2.1"},
		{"10.1.2.3:1234", "203.0.113.9", 0, "10.1.2.3"}, // nobody's is believed
		{"127.0.0.1:1234", "203.0.113.9", 1, "203.0.113.9"},
		{"127.0.0.1:1234", "203.0.113.9, 10.1.2.3,10.1.2.4", 3, "203.0.113.9"},
		{"127.0.0.1:1234", "1.2.3.4, 203.0.113.9, 10.1.2.3,10.1.2.4", 3, "203.0.113.9"}, // the client wrote the first,
		{"127.0.0.1:1234", "1.2.3.4, 10.9.9.9, 10.1.2.3,10.1.2.4", 3, "10.9.9.9"},       // and is of a private network
		{"127.0.0.1:1234", "1.2.3.4,\t 203.0.113.9:4711, 10.1.2.3", 2, "203.0.113.9"},
		{"127.0.0.1:1234", "[2001:db8::1]:4711", 1, "2001:db8::1"},
		{"127.0.0.1:1234", "[2001:db8::1]", 1, "2001:db8::1"},
		{"127.0.0.1:1234", "2001:db8::1", 1, "2001:db8::1"},
		{"10.1.2.3:1234", "203.0.113.9", 3, "10.1.2.3"}, // it came by another way
		{"127.0.0.1:1234", "evil, 10.1.2.3", 2, "127.0.0.1"},
		{"127.0.0.1:1234", "", 1, "127.0.0.1"},
		{"[::1]:1234", "", 0, "::1"},
		{"[::ffff:192.0.2.1]:1234", "", 0, "192.0.2.1"},
		{"@", "", 0, "@"},
	} {
		p := &Portal{hops: test.hops}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = test.remote
		if test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		if got := p.address(r); got != test.want {
			t.Errorf("from %s by %d proxies, forwarded for %q: %s, want %s", test.remote, test.hops, test.forwarded, got, test.want)
		}
	}
}

// Whatever a client writes into X-Forwarded-For, it is limited by its own address.
func TestForwardedForEvadesNoLimit(t *testing.T) {
	for _, hops := range []int{0, 1} {
		s := onSQLite(t, Config{Hops: hops})
		b := s.browser()
		tried := func(i int) page {
			forwarded := fmt.Sprintf("203.0.113.%d", i)
			if hops > 0 {
				forwarded += ", 198.51.100.7" // that the proxy added
			}
			return b.do(http.MethodPost, "/login", url.Values{"name": {fmt.Sprint("user", i)}, "password": {"wrong"}}, "X-Forwarded-For", forwarded)
		}
		for i := range 21 {
			tried(i).want(t, http.StatusUnauthorized, "")
		}
		tried(22).want(t, http.StatusTooManyRequests, "")
	}
}

// Whatever a link to the log-in names, a browser stays here.
func FuzzOwnPath(f *testing.F) {
	for _, s := range []string{"/air?room=1", "//evil.example", "/\\evil.example", "/\t/evil.example", "https:/evil.example", "/%2F/x", "/..//evil.example", "/./\\evil.example"} {
		f.Add(s)
	}
	base := &url.URL{Scheme: "https", Host: "portal.example.com"}
	f.Fuzz(func(t *testing.T, next string) {
		got := ownPath(next)
		// Browsers take \ for /, and pass over tabs and ends of lines.
		read := strings.NewReplacer("\\", "/", "\t", "", "\n", "", "\r", "").Replace(strings.TrimSpace(got))
		u, err := base.Parse(read)
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme || !strings.HasPrefix(read, "/") || strings.HasPrefix(read, "//") {
			t.Errorf("ownPath(%q) = %q, which leads to %v, %v", next, got, u, err)
		}
	})
}

// A database that is away is an error, and not the end of the portal.
func TestDatabaseIsAway(t *testing.T) {
	db, err := database.Open(t.Context(), "sqlite:"+t.TempDir()+"/portal.db")
	if err != nil {
		t.Fatal(err)
	}
	log := audit.New(db, time.Now)
	p, err := New(Config{Users: users.New(db, log, time.Now), Audit: log, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/account": 500, "/login": 500, "/api/users/me": 500, "/healthz": 200, "/assets/portal.css": 200} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.AddCookie(&http.Cookie{Name: "telemesh", Value: "x"})
		w := httptest.NewRecorder()
		p.Handler().ServeHTTP(w, r)
		if w.Code != want || strings.Contains(w.Body.String(), "sql") {
			t.Errorf("%s: %d, want %d\n%s", path, w.Code, want, w.Body)
		}
	}
}

// What a form or a program may send is bounded.
func TestBodiesAreBounded(t *testing.T) {
	s := onSQLite(t, Config{})
	b := s.browser()
	b.post("/login", "name", strings.Repeat("x", largest+1)).want(t, http.StatusBadRequest, "")
	b.json(http.MethodPost, "/api/token", "", credentials{Name: strings.Repeat("x", largest+1)}).want(t, http.StatusBadRequest, "")
	if got := fmt.Sprint(s.browser().get("/nowhere").StatusCode); got != "404" {
		t.Errorf("/nowhere: %s", got)
	}
}

// insecure takes the certificate of a test's server.
var insecure = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
