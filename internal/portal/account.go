package portal

import (
	"encoding/base64"
	"html/template"
	"net/http"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/users"
)

func (p *Portal) accountRoutes() []route {
	return []route{
		{"GET /account", signedIn, ofOneself, p.accountPage},
		{"POST /account/password", signedIn, byItself, p.setPassword},
		{"GET /account/codes", signedIn, ofOneself, p.codesPage},
		{"POST /account/codes", signedIn, byItself, p.setCodes},
		{"POST /account/recovery", signedIn, byItself, p.newRecovery},
		{"POST /account/logout", signedIn, byItself, p.logoutEverywhere},
	}
}

// account is the page of one's own user.
type account struct {
	User     users.User
	Sessions []users.Session
	Recovery int    // codes that are left
	Of       string // the form that Error is about
	Error    string
}

func (p *Portal) accountPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	return p.showAccount(w, r, v, http.StatusOK, "", "")
}

func (p *Portal) showAccount(w http.ResponseWriter, r *http.Request, v access.Viewer, status int, of, text string) (err error) {
	a := account{Of: of, Error: text}
	if a.User, err = p.users.Get(r.Context(), v.ID); err != nil {
		return err
	}
	if a.Sessions, err = p.users.SessionsOf(r.Context(), v.ID); err != nil {
		return err
	}
	if a.Recovery, err = p.users.RecoveryLeft(r.Context(), v.ID); err != nil {
		return err
	}
	return p.page(w, r, v, status, "account", "Your account", a)
}

func (p *Portal) setPassword(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	if err := form(w, r); err != nil {
		return err
	}
	fresh, err := twice(r)
	if err != nil {
		return p.showAccount(w, r, v, http.StatusBadRequest, "password", err.Error())
	}
	u, err := p.user(r)
	if err != nil {
		return err
	}
	u, err = p.users.SetPassword(r.Context(), p.origin(r), u, r.PostFormValue("old"), fresh)
	return p.changed(w, r, v, u, err, "password", "Your password is changed. Wherever else you were logged in, you are not any more.")
}

// changed answers a change of what a user logs in with. Their sessions have ended:
// this one goes on as a new one.
func (p *Portal) changed(w http.ResponseWriter, r *http.Request, v access.Viewer, u users.User, err error, of, text string) error {
	if status, text, ok := said(w, err); ok {
		return p.showAccount(w, r, v, status, of, text)
	}
	if err != nil {
		return err
	}
	if err := p.begin(r, u); err != nil {
		return err
	}
	p.flash(r, text)
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}

// newDevice is the page on which another device for codes is set up.
type newDevice struct {
	Secret string
	QR     template.URL
	Error  string
}

func (p *Portal) codesPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	p.sessions.Put(r.Context(), secretKey, users.NewSecret())
	return p.showCodes(w, r, v, http.StatusOK, "")
}

func (p *Portal) showCodes(w http.ResponseWriter, r *http.Request, v access.Viewer, status int, text string) (err error) {
	secret := p.sessions.GetString(r.Context(), secretKey)
	d := newDevice{Secret: grouped(secret), Error: text}
	if d.QR, err = p.picture(secret, v.Name); err != nil {
		return err
	}
	return p.page(w, r, v, status, "codes", "Another device for codes", d)
}

func (p *Portal) setCodes(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	if err := form(w, r); err != nil {
		return err
	}
	secret := p.sessions.GetString(r.Context(), secretKey)
	if secret == "" {
		http.Redirect(w, r, "/account/codes", http.StatusSeeOther)
		return nil
	}
	u, err := p.user(r)
	if err != nil {
		return err
	}
	u, err = p.users.SetCodes(r.Context(), p.origin(r), u, r.PostFormValue("old"), secret, r.PostFormValue("code"))
	if status, text, ok := said(w, err); ok {
		return p.showCodes(w, r, v, status, text)
	}
	return p.changed(w, r, v, u, err, "codes", "From now on your codes come from the new device.")
}

func (p *Portal) newRecovery(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	if err := form(w, r); err != nil {
		return err
	}
	u, err := p.user(r)
	if err != nil {
		return err
	}
	recovery, err := p.users.NewRecovery(r.Context(), p.origin(r), u, r.PostFormValue("old"))
	if status, text, ok := said(w, err); ok {
		return p.showAccount(w, r, v, status, "recovery", text)
	}
	if err != nil {
		return err
	}
	return p.page(w, r, v, http.StatusOK, "recovery", "Recovery codes", recovery)
}

func (p *Portal) logoutEverywhere(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	if _, err := p.users.LogOut(r.Context(), p.by(r, v), v.ID); err != nil {
		return err
	}
	if err := p.sessions.Destroy(r.Context()); err != nil {
		return err
	}
	http.Redirect(w, r, "/login", http.StatusSeeOther)
	return nil
}

// dataURL is a file in the page itself.
func dataURL(media string, file []byte) template.URL {
	return template.URL("data:" + media + ";base64," + base64.StdEncoding.EncodeToString(file))
}
