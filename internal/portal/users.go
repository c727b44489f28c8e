package portal

import (
	"net/http"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/users"
)

func (p *Portal) userRoutes() []route {
	return []route{
		{"GET /users", admins, queried, p.usersPage},
		{"POST /users", admins, queried, p.addUser},
		{"GET /users/{id}", admins, queried, p.userPage},
		{"POST /users/{id}", admins, queried, p.changeUser},
		{"POST /users/{id}/reset", admins, queried, p.resetUser},
	}
}

// userForm is a user as the forms have them.
type userForm struct {
	Name     string
	Role     access.Role
	Tenants  string // separated by commas
	Disabled bool
}

// known are the roles, for a choice.
var roles = []access.Role{access.Tenant, access.Analyst, access.Admin}

func userOf(r *http.Request) userForm {
	return userForm{r.PostFormValue("name"), access.Role(r.PostFormValue("role")), r.PostFormValue("tenants"), r.PostFormValue("disabled") != ""}
}

// tenants are those of the form, each once.
func (f userForm) tenants() []string {
	var all []string
	seen := map[string]bool{}
	for _, t := range strings.FieldsFunc(f.Tenants, func(r rune) bool { return r == ',' || r == '\n' }) {
		if t = strings.TrimSpace(t); t != "" && !seen[t] {
			seen[t] = true
			all = append(all, t)
		}
	}
	return all
}

// usersView is the page of all users.
type usersView struct {
	Users []users.User
	Form  userForm
	Roles []access.Role
	Error string
	Link  *handed
}

// handed is a link to be handed over to a user. It is shown once.
type handed struct {
	Name, Address string
	ExpiresAt     time.Time
}

func (p *Portal) handed(r *http.Request, u users.User, l users.Link) *handed {
	return &handed{u.Name, p.addressOf(r, l.Path()), l.ExpiresAt}
}

// addressOf is the address of a page as others reach it.
func (p *Portal) addressOf(r *http.Request, path string) string {
	scheme := "http"
	if p.secure {
		scheme = "https"
	}
	host := r.Host // which is checked
	return scheme + "://" + host + path
}

func (p *Portal) usersPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	return p.showUsers(w, r, v, http.StatusOK, usersView{Form: userForm{Role: access.Tenant}})
}

func (p *Portal) showUsers(w http.ResponseWriter, r *http.Request, v access.Viewer, status int, view usersView) (err error) {
	view.Roles = roles
	if view.Users, err = p.users.List(r.Context()); err != nil {
		return err
	}
	return p.page(w, r, v, status, "users", "Users", view)
}

func (p *Portal) addUser(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	if err := form(w, r); err != nil {
		return err
	}
	f := userOf(r)
	u, link, err := p.users.Add(r.Context(), p.by(r, v), f.Name, f.Role, f.tenants())
	if status, text, ok := said(w, err); ok {
		return p.showUsers(w, r, v, status, usersView{Form: f, Error: text})
	}
	if err != nil {
		return err
	}
	return p.showUsers(w, r, v, http.StatusCreated, usersView{Form: userForm{Role: access.Tenant}, Link: p.handed(r, u, link)})
}

// userView is the page of one user.
type userView struct {
	User     users.User
	Form     userForm
	Roles    []access.Role
	Sessions []users.Session
	Error    string
	Link     *handed
}

func (p *Portal) userPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	return p.showUser(w, r, v, http.StatusOK, userView{})
}

func (p *Portal) showUser(w http.ResponseWriter, r *http.Request, v access.Viewer, status int, view userView) (err error) {
	view.Roles = roles
	if view.User, err = p.users.Get(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	if view.Sessions, err = p.users.SessionsOf(r.Context(), view.User.ID); err != nil {
		return err
	}
	if view.Error == "" {
		view.Form = userForm{view.User.Name, view.User.Role, strings.Join(view.User.Tenants, ", "), view.User.Disabled}
	}
	return p.page(w, r, v, status, "user", view.User.Name, view)
}

func (p *Portal) changeUser(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	if err := form(w, r); err != nil {
		return err
	}
	f := userOf(r)
	u, err := p.users.Change(r.Context(), p.by(r, v), r.PathValue("id"), f.Role, f.tenants(), f.Disabled)
	if status, text, ok := said(w, err); ok && status != http.StatusNotFound {
		return p.showUser(w, r, v, status, userView{Form: f, Error: text})
	}
	if err != nil {
		return err
	}
	if u.ID == v.ID { // whose session has ended with the others
		if err := p.begin(r, u); err != nil {
			return err
		}
	}
	p.flash(r, u.Name+" is changed. Where they were logged in, they are not any more.")
	http.Redirect(w, r, "/users", http.StatusSeeOther)
	return nil
}

func (p *Portal) resetUser(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	u, link, err := p.users.Reset(r.Context(), p.by(r, v), r.PathValue("id"))
	if status, text, ok := said(w, err); ok && status != http.StatusNotFound {
		return p.showUser(w, r, v, status, userView{Error: text})
	}
	if err != nil {
		return err
	}
	return p.showUser(w, r, v, http.StatusOK, userView{Link: p.handed(r, u, link)})
}
