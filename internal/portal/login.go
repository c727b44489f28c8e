package portal

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/users"
)

// What a session holds besides users.UserKey, all of it text.
const (
	epochKey   = "epoch"   // of the user, when the session began
	addressKey = "address" // where it began
	agentKey   = "agent"
	pendingKey = "pending" // a user who has shown a password, and no code yet
	sinceKey   = "since"
	secretKey  = "secret" // of a new device for codes
	flashKey   = "flash"  // what the next page says
)

// pendingLasts is how long a code may come after the password.
const pendingLasts = 5 * time.Minute

func (p *Portal) loginRoutes() []route {
	return []route{
		{"GET /login", anyone, ofNobody, p.loginPage},
		{"POST /login", anyone, byItself, p.login},
		{"GET /login/code", anyone, ofNobody, p.codePage},
		{"POST /login/code", anyone, byItself, p.code},
		{"POST /login/demo", anyone, byItself, p.enterDemo},
		{"POST /logout", signedIn, byItself, p.logout},
		{"GET /setup/{token}", anyone, ofOneself, p.setupPage},
		{"POST /setup/{token}", anyone, byItself, p.setup},
	}
}

// newSessions makes sessions in the database of users, with cookies that a page
// of another site cannot have sent with what it posts. A name that begins with
// __Host- is one that a browser takes from this host alone, by https.
func newSessions(store *users.Store, secure bool) *scs.SessionManager {
	kept := store.Sessions()
	m := scs.New()
	m.Store, m.Codec, m.HashTokenInStore = kept, kept, true
	m.Lifetime = users.SessionLasts
	m.Cookie.Name, m.Cookie.Secure = cookieName("telemesh", secure), secure
	m.Cookie.HttpOnly, m.Cookie.SameSite = true, http.SameSiteLaxMode
	return m
}

func cookieName(name string, secure bool) string {
	if secure {
		return "__Host-" + name
	}
	return name
}

// withSession has the session of a request in its context. Files and the probe
// have none.
func (p *Portal) withSession(next http.Handler) http.Handler {
	if p.sessions == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" || strings.HasPrefix(r.URL.Path, "/assets/") {
			next.ServeHTTP(w, r)
			return
		}
		outside := r.Context()
		if r.Method == http.MethodGet && !forPeople(r) {
			outside = users.Unseen(outside) // a script of a page that may lie open
		}
		p.sessions.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), inSession{}, outside)))
		})).ServeHTTP(w, r.WithContext(outside))
	})
}

// inSession is the key of a context that has a session. Its value is the one around
// it, which has none.
type inSession struct{}

// hasSession says whether a request came through withSession.
func hasSession(r *http.Request) bool { return r.Context().Value(inSession{}) != nil }

// still says whether who asked may go on to have what they asked for: they are logged
// in as they were, and have the same rights. Streams ask it before all that they send.
func (p *Portal) still(r *http.Request, v access.Viewer) bool {
	now, known, err := p.anew(r)
	if err != nil && r.Context().Err() == nil {
		p.log.Warn("a stream ends: who watches is not known", "error", err)
	}
	return err == nil && known && now.ID == v.ID && now.Role == v.Role && now.Scope() == v.Scope()
}

// anew tells who asks by the session as it is stored now.
func (p *Portal) anew(r *http.Request) (access.Viewer, bool, error) {
	if outside, ok := r.Context().Value(inSession{}).(context.Context); ok {
		ctx, err := p.sessions.Load(outside, p.sessions.Token(r.Context()))
		if err != nil {
			return access.Viewer{}, false, err
		}
		r = r.WithContext(context.WithValue(ctx, inSession{}, outside))
	}
	return p.viewer(r)
}

// visitor tells who asks: the user of the token, of programs, or of the session.
func (p *Portal) visitor(r *http.Request) (access.Viewer, bool, error) {
	u, err := p.user(r)
	if errors.Is(err, users.ErrNotFound) {
		return access.Viewer{}, false, nil
	}
	return u.Viewer(), err == nil, err
}

// user gives who asks, or users.ErrNotFound.
func (p *Portal) user(r *http.Request) (users.User, error) {
	if !hasSession(r) {
		return users.User{}, users.ErrNotFound
	}
	ctx := r.Context()
	if token, ok := bearer(r); ok {
		return p.users.Bearer(ctx, token)
	}
	id := p.sessions.GetString(ctx, users.UserKey)
	if id == "" {
		return users.User{}, users.ErrNotFound
	}
	u, err := p.users.Get(ctx, id)
	if err == nil && (u.Disabled || u.Demo && !p.demo || strconv.FormatInt(u.Epoch, 10) != p.sessions.GetString(ctx, epochKey)) {
		return users.User{}, users.ErrNotFound
	}
	return u, err
}

// bearer gives the token that a program sends. https://www.rfc-editor.org/rfc/rfc6750
func bearer(r *http.Request) (string, bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return token, strings.EqualFold(scheme, "Bearer") && !forPeople(r)
}

// begin logs a user in: in a session with a new token, since the old one may be
// known to others.
func (p *Portal) begin(r *http.Request, u users.User) error {
	ctx := r.Context()
	if err := p.sessions.Clear(ctx); err != nil {
		return err
	}
	if err := p.sessions.RenewToken(ctx); err != nil {
		return err
	}
	p.sessions.Put(ctx, users.UserKey, u.ID)
	p.sessions.Put(ctx, epochKey, strconv.FormatInt(u.Epoch, 10))
	p.sessions.Put(ctx, addressKey, p.address(r))
	agent := strings.ToValidUTF8(r.UserAgent(), "?")
	p.sessions.Put(ctx, agentKey, strings.ReplaceAll(agent[:min(len(agent), 200)], "\x00", "?"))
	return nil
}

// flash has the next page say something.
func (p *Portal) flash(r *http.Request, text string) {
	p.sessions.Put(r.Context(), flashKey, text)
}

const deviceCookie = "telemesh-device"

// origin is where a log-in comes from.
func (p *Portal) origin(r *http.Request) users.Origin {
	o := users.Origin{Address: p.address(r)}
	if c, err := r.Cookie(cookieName(deviceCookie, p.secure)); err == nil {
		o.Device = c.Value
	}
	return o
}

// remember makes the browser known as one from which a user has logged in.
func (p *Portal) remember(w http.ResponseWriter, r *http.Request, u users.User) error {
	token, expires, err := p.users.Remember(r.Context(), u.ID)
	if err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName(deviceCookie, p.secure), Value: token, Path: "/", Expires: expires,
		Secure: p.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	return nil
}

// address is that of who asks: of the connection, or, behind proxies, the one that
// the first of them added to X-Forwarded-For. What stands before it the client may
// have written itself.
func (p *Portal) address(r *http.Request) string {
	through := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	if p.hops > 0 && p.hops <= len(through) {
		if a, ok := addressOf(strings.TrimSpace(through[len(through)-p.hops])); ok {
			return a.String()
		}
	}
	if a, ok := addressOf(r.RemoteAddr); ok {
		return a.String()
	}
	return r.RemoteAddr
}

// addressOf reads an address, which may have a port.
func addressOf(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if with, perr := netip.ParseAddrPort(s); perr == nil {
		a, err = with.Addr(), nil
	}
	return a.Unmap(), err == nil
}

// here refuses requests for another host: a page of elsewhere, whose name was made
// to lead to this machine, has no answer to read (DNS rebinding).
func (p *Portal) here(next http.Handler) http.Handler {
	if p.demo {
		next = onlyFromHere(next)
	}
	public, err := netip.ParseAddr(p.host)
	if p.host == "" || err == nil && public.IsUnspecified() {
		return next // it has no name of its own
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := (&url.URL{Host: r.Host}).Hostname()
		if r.URL.Path != "/healthz" && !strings.EqualFold(name, p.host) && !(loopback(p.host) && loopback(name)) {
			http.Error(w, "This portal is at "+p.host+", and not here.", http.StatusMisdirectedRequest)
			return
		}
		if p.secure {
			w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// onlyFromHere refuses who is on another machine, by whatever name they ask and
// however the process listens: in a demo nobody needs a password.
func onlyFromHere(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := addressOf(r.RemoteAddr)
		if r.URL.Path != "/healthz" && (!ok || !a.IsLoopback() || r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != "") {
			http.Error(w, "This is a demo, for the machine that it runs on alone.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopback says whether a host name is one of this machine alone.
func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.IsLoopback()
}

// ownPath is where to go after logging in: a page of the portal, and never one of
// elsewhere that a link to the log-in names.
func ownPath(next string) string {
	u, err := url.Parse(next)
	switch {
	case err != nil, u.Scheme != "", u.Host != "", u.User != nil, u.Opaque != "",
		!strings.HasPrefix(next, "/"), strings.HasPrefix(next, "//"), strings.HasPrefix(u.Path, "//"),
		strings.ContainsAny(next, "\\\t\r\n"), strings.Contains(u.Path, "\\"),
		u.Path == "/login", u.Path == "/logout", strings.HasPrefix(u.Path, "/login/"):
		return "/"
	}
	return u.RequestURI()
}

// loginForm is the page of the first step.
type loginForm struct {
	Name, Next, Error string
	Demo              []users.User // who may enter by a click
	None              bool         // nobody is set up yet
}

func (p *Portal) loginPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	next := ownPath(r.URL.Query().Get("next"))
	if v.Role != "" {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return nil
	}
	return p.showLogin(w, r, http.StatusOK, loginForm{Next: next})
}

func (p *Portal) showLogin(w http.ResponseWriter, r *http.Request, status int, form loginForm) (err error) {
	if form.None, err = p.users.None(r.Context()); err != nil {
		return err
	}
	if p.demo {
		all, err := p.users.List(r.Context())
		if err != nil {
			return err
		}
		for _, u := range all {
			if u.Demo && !u.Disabled {
				form.Demo = append(form.Demo, u)
			}
		}
	}
	return p.page(w, r, access.Viewer{}, status, "login", "Log in", form)
}

func (p *Portal) login(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	if err := form(w, r); err != nil {
		return err
	}
	ctx, next := r.Context(), ownPath(r.PostFormValue("next"))
	u, err := p.users.Password(ctx, p.origin(r), r.PostFormValue("name"), r.PostFormValue("password"))
	if status, text, ok := said(w, err); ok {
		return p.showLogin(w, r, status, loginForm{Name: r.PostFormValue("name"), Next: next, Error: text})
	}
	if err != nil {
		return err
	}
	if err := p.sessions.Clear(ctx); err != nil {
		return err
	}
	if err := p.sessions.RenewToken(ctx); err != nil {
		return err
	}
	p.sessions.Put(ctx, pendingKey, u.ID)
	p.sessions.Put(ctx, epochKey, strconv.FormatInt(u.Epoch, 10))
	p.sessions.Put(ctx, sinceKey, p.now().UTC().Format(time.RFC3339))
	http.Redirect(w, r, "/login/code?"+url.Values{"next": {next}}.Encode(), http.StatusSeeOther)
	return nil
}

// pending gives who has shown the password of late, as they were then.
func (p *Portal) pending(r *http.Request) (users.User, bool, error) {
	ctx := r.Context()
	id := p.sessions.GetString(ctx, pendingKey)
	since, err := time.Parse(time.RFC3339, p.sessions.GetString(ctx, sinceKey))
	if id == "" || err != nil || p.now().Sub(since) > pendingLasts {
		return users.User{}, false, nil
	}
	u, err := p.users.Get(ctx, id)
	if errors.Is(err, users.ErrNotFound) {
		return u, false, nil
	}
	if err != nil {
		return u, false, err
	}
	u.Epoch, err = strconv.ParseInt(p.sessions.GetString(ctx, epochKey), 10, 64)
	return u, err == nil, err
}

// codeForm is the page of the second step.
type codeForm struct{ Next, Error string }

func (p *Portal) codePage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	next := ownPath(r.URL.Query().Get("next"))
	_, ok, err := p.pending(r)
	if err != nil {
		return err
	}
	if !ok {
		http.Redirect(w, r, "/login?"+url.Values{"next": {next}}.Encode(), http.StatusSeeOther)
		return nil
	}
	return p.page(w, r, access.Viewer{}, http.StatusOK, "code", "Code", codeForm{Next: next})
}

func (p *Portal) code(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	if err := form(w, r); err != nil {
		return err
	}
	next := ownPath(r.PostFormValue("next"))
	u, ok, err := p.pending(r)
	if err != nil {
		return err
	}
	if !ok {
		return p.showLogin(w, r, http.StatusUnauthorized, loginForm{Next: next, Error: "That took too long: begin again."})
	}
	u, err = p.users.Code(r.Context(), p.origin(r), u, r.PostFormValue("code"))
	if status, text, ok := said(w, err); ok {
		if errors.Is(err, users.ErrWrong) {
			text = "This code is wrong, or was used already. Take the next one."
		}
		return p.page(w, r, access.Viewer{}, status, "code", "Code", codeForm{next, text})
	}
	if err != nil {
		return err
	}
	if err := p.begin(r, u); err != nil {
		return err
	}
	if err := p.remember(w, r, u); err != nil {
		return err
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
	return nil
}

// enterDemo is there only while the portal is for trying out.
func (p *Portal) enterDemo(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	if !p.demo {
		return errNotFound
	}
	if err := form(w, r); err != nil {
		return err
	}
	u, err := p.users.Enter(r.Context(), p.origin(r), r.PostFormValue("user"))
	if err != nil {
		return err
	}
	if err := p.begin(r, u); err != nil {
		return err
	}
	http.Redirect(w, r, ownPath(r.PostFormValue("next")), http.StatusSeeOther)
	return nil
}

func (p *Portal) logout(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	if err := p.sessions.Destroy(r.Context()); err != nil {
		return err
	}
	if err := p.users.LoggedOut(r.Context(), p.by(r, v)); err != nil {
		return err
	}
	http.Redirect(w, r, "/login", http.StatusSeeOther)
	return nil
}

// by is who asks, for the audit log.
func (p *Portal) by(r *http.Request, v access.Viewer) users.By {
	return users.By{Who: v.Name, From: p.address(r)}
}

// record puts into the audit log what somebody did: which rows they took away, or
// what they changed.
func (p *Portal) record(r *http.Request, v access.Viewer, action audit.Action, object, detail string) error {
	if p.audit == nil {
		return nil
	}
	return p.audit.Append(r.Context(), audit.Entry{Who: v.Name, From: p.address(r), Action: action, Object: object, Detail: detail})
}

// setupForm is the page behind a link.
type setupForm struct {
	Named  string // the user's name, if they have one
	Name   string // that a first admin chose
	Secret string
	QR     template.URL
	Error  string
}

// picture is a secret as an image in the page itself.
func (p *Portal) picture(secret, name string) (template.URL, error) {
	image, err := users.Picture(secret, name, p.host)
	if err != nil {
		return "", err
	}
	return dataURL("image/png", image), nil
}

func (p *Portal) setupPage(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	return p.showSetup(w, r, http.StatusOK, "", "")
}

func (p *Portal) showSetup(w http.ResponseWriter, r *http.Request, status int, name, text string) error {
	w.Header().Set("Referrer-Policy", "no-referrer") // the path is the secret
	pending, err := p.users.Pending(r.Context(), r.PathValue("token"))
	if err != nil {
		return err
	}
	f := setupForm{Named: pending.Name, Name: name, Secret: grouped(pending.Secret), Error: text}
	if f.QR, err = p.picture(pending.Secret, pending.Name); err != nil {
		return err
	}
	return p.page(w, r, access.Viewer{}, status, "setup", "Set up your log-in", f)
}

// grouped is a secret as people copy it by hand.
func grouped(secret string) string {
	var b strings.Builder
	for i, r := range secret {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}

func (p *Portal) setup(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	if err := form(w, r); err != nil {
		return err
	}
	name := r.PostFormValue("name")
	password, err := twice(r)
	if err != nil {
		return p.showSetup(w, r, http.StatusBadRequest, name, err.Error())
	}
	u, recovery, err := p.users.SetUp(r.Context(), p.address(r), r.PathValue("token"), name, password, r.PostFormValue("code"))
	if errors.Is(err, users.ErrLink) {
		return err
	}
	if status, text, ok := said(w, err); ok {
		return p.showSetup(w, r, status, name, text)
	}
	if err != nil {
		return err
	}
	if err := p.begin(r, u); err != nil {
		return err
	}
	if err := p.remember(w, r, u); err != nil {
		return err
	}
	return p.page(w, r, u.Viewer(), http.StatusOK, "recovery", "Recovery codes", recovery)
}

// twice gives the new password of a form, which is in it a second time.
func twice(r *http.Request) (string, error) {
	password := r.PostFormValue("new")
	if password != r.PostFormValue("again") {
		return "", badRequest("The two passwords differ.")
	}
	return password, nil
}

// largest is how much a form or a program may send to the pages of users, in bytes.
const largest = 64 << 10

func form(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, largest)
	if err := r.ParseForm(); err != nil {
		return badRequest("The form could not be read.")
	}
	return nil
}

// saying is the status by which the errors of package users are answered; their
// texts are for who asked.
var saying = []struct {
	err    error
	status int
}{
	{users.ErrNotFound, http.StatusNotFound},
	{users.ErrWrong, http.StatusUnauthorized},
	{users.ErrBusy, http.StatusServiceUnavailable},
	{users.ErrTaken, http.StatusConflict},
	{users.ErrLastAdmin, http.StatusConflict},
	{users.ErrLink, http.StatusGone},
	{users.ErrName, http.StatusBadRequest},
	{users.ErrRole, http.StatusBadRequest},
	{users.ErrTenants, http.StatusBadRequest},
	{users.ErrPassword, http.StatusBadRequest},
	{users.ErrCode, http.StatusBadRequest},
	{users.ErrDemo, http.StatusBadRequest},
}

// said gives status and text of an error that is for who asked, and tells a
// program when to try again.
func said(w http.ResponseWriter, err error) (status int, text string, ok bool) {
	var limited *users.Limited
	if errors.As(err, &limited) {
		w.Header().Set("Retry-After", strconv.Itoa(int(limited.Wait/time.Second)+1))
		return http.StatusTooManyRequests, sentence(limited.Error()), true
	}
	for _, each := range saying {
		if errors.Is(err, each.err) {
			if each.status == http.StatusServiceUnavailable {
				w.Header().Set("Retry-After", "5")
			}
			return each.status, sentence(each.err.Error()), true
		}
	}
	return 0, "", false
}

// sentence makes the text of an error one for people.
func sentence(s string) string { return fmt.Sprintf("%s%s.", strings.ToUpper(s[:1]), s[1:]) }
