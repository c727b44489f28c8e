package portal

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/users"
)

func (p *Portal) apiRoutes() []route {
	return []route{
		{"GET /api/openapi.json", anyone, ofNobody, p.openAPI},
		{"POST /api/token", anyone, byItself, p.makeToken},
		{"DELETE /api/token", signedIn, byItself, p.revokeToken},
		{"GET /api/users", admins, queried, p.listUsers},
		{"POST /api/users", admins, byItself, p.createUser},
		{"GET /api/users/me", signedIn, ofOneself, p.readMe},
		{"PUT /api/users/me", signedIn, byItself, p.updateMe},
		{"GET /api/users/{id}", admins, queried, p.readUser},
		{"PUT /api/users/{id}", admins, byItself, p.updateUser},
		{"POST /api/users/{id}/reset", admins, byItself, p.resetAnew},
	}
}

var userAPI = api{
	"GET /api/openapi.json": {Summary: "This description", Answer: map[string]any{}},
	"POST /api/token": {Summary: "Get a token, which works for an hour", Body: credentials{}, Status: http.StatusCreated, Answer: tokenAnswer{},
		Errors: []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusServiceUnavailable}},
	"DELETE /api/token":   {Summary: "End the token that is sent", Status: http.StatusNoContent, Errors: []int{http.StatusBadRequest}},
	"GET /api/users":      {Summary: "List the users", Answer: []userAnswer{}},
	"POST /api/users":     {Summary: "Add a user, who sets up password and codes by the link in the answer", Body: newUser{}, Status: http.StatusCreated, Answer: invited{}, Errors: []int{http.StatusBadRequest, http.StatusConflict}},
	"GET /api/users/me":   {Summary: "The user who asks", Answer: userAnswer{}},
	"PUT /api/users/me":   {Summary: "Change one's password, which ends all of one's sessions and tokens", Body: passwords{}, Answer: userAnswer{}, Errors: []int{http.StatusBadRequest, http.StatusTooManyRequests, http.StatusServiceUnavailable}},
	"GET /api/users/{id}": {Summary: "A user", Answer: userAnswer{}, Errors: []int{http.StatusNotFound}},
	"PUT /api/users/{id}": {Summary: "Change what a user may do, which ends the user's sessions and tokens", Body: rights{}, Answer: userAnswer{},
		Errors: []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict}},
	"POST /api/users/{id}/reset": {Summary: "Take away what a user logs in with, and get a link by which the user sets up a new password and codes", Answer: invited{},
		Errors: []int{http.StatusBadRequest, http.StatusNotFound}},
}

type credentials struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	Code     string `json:"code" description:"a one-time code, or a recovery code"`
}

type tokenAnswer struct {
	Token     string     `json:"token" description:"to be sent as Authorization: Bearer TOKEN"`
	ExpiresAt time.Time  `json:"expires_at"`
	User      userAnswer `json:"user"`
}

type userAnswer struct {
	ID        string      `json:"id"`
	Name      string      `json:"name"`
	Role      access.Role `json:"role"`
	Tenants   []string    `json:"tenants" description:"of the role tenant: those whose data the user sees"`
	Disabled  bool        `json:"disabled"`
	SetUp     bool        `json:"set_up" description:"has a password and makes codes"`
	CreatedAt time.Time   `json:"created_at"`
	ChangedAt time.Time   `json:"changed_at"`
}

type newUser struct {
	Name    string      `json:"name"`
	Role    access.Role `json:"role"`
	Tenants []string    `json:"tenants,omitempty"`
}

type rights struct {
	Role     access.Role `json:"role"`
	Tenants  []string    `json:"tenants,omitempty"`
	Disabled *bool       `json:"disabled"`
}

type passwords struct {
	Password    string `json:"password" description:"the one that the user has"`
	NewPassword string `json:"new_password" description:"12 characters or more"`
}

type invited struct {
	User      userAnswer `json:"user"`
	Link      string     `json:"link" description:"for the user; it works once"`
	ExpiresAt time.Time  `json:"expires_at" description:"when the link ends"`
}

func answered(u users.User) userAnswer {
	return userAnswer{u.ID, u.Name, u.Role, u.Tenants, u.Disabled, u.SetUp, u.CreatedAt, u.ChangedAt}
}

// body reads what a program sends. A field that is not known is an error: it would
// be one that the program means something by.
func body(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, largest))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return badRequest("The body is not the JSON object that /api/openapi.json describes: " + err.Error())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest("Something follows the JSON object.")
	}
	return nil
}

func (p *Portal) makeToken(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	var in credentials
	if err := body(w, r, &in); err != nil {
		return err
	}
	token, u, err := p.users.NewToken(r.Context(), p.origin(r), in.Name, in.Password, in.Code)
	if err != nil {
		return err
	}
	return answer(w, http.StatusCreated, tokenAnswer{token.Text, token.ExpiresAt, answered(u)})
}

func (p *Portal) revokeToken(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	token, ok := bearer(r)
	if !ok {
		return badRequest("This ends the token that is sent as Authorization: Bearer TOKEN, and none was sent.")
	}
	if err := p.users.Revoke(r.Context(), p.by(r, v), token); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (p *Portal) listUsers(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	all, err := p.users.List(r.Context())
	if err != nil {
		return err
	}
	out := []userAnswer{}
	for _, u := range all {
		out = append(out, answered(u))
	}
	return answer(w, http.StatusOK, out)
}

func (p *Portal) createUser(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	var in newUser
	if err := body(w, r, &in); err != nil {
		return err
	}
	u, link, err := p.users.Add(r.Context(), p.by(r, v), in.Name, in.Role, in.Tenants)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/users/"+u.ID)
	return answer(w, http.StatusCreated, invited{answered(u), p.addressOf(r, link.Path()), link.ExpiresAt})
}

func (p *Portal) readMe(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	u, err := p.user(r)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, answered(u))
}

func (p *Portal) updateMe(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	var in passwords
	if err := body(w, r, &in); err != nil {
		return err
	}
	u, err := p.user(r)
	if err != nil {
		return err
	}
	if u, err = p.users.SetPassword(r.Context(), p.origin(r), u, in.Password, in.NewPassword); err != nil {
		if errors.Is(err, users.ErrWrong) {
			return badRequest("This is not the password that you have.")
		}
		return err
	}
	if _, token := bearer(r); !token {
		if err := p.begin(r, u); err != nil {
			return err
		}
	}
	return answer(w, http.StatusOK, answered(u))
}

func (p *Portal) readUser(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	u, err := p.users.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, answered(u))
}

func (p *Portal) updateUser(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	var in rights
	if err := body(w, r, &in); err != nil {
		return err
	}
	if in.Disabled == nil {
		return badRequest("Say whether the user is disabled: true or false.")
	}
	u, err := p.users.Change(r.Context(), p.by(r, v), r.PathValue("id"), in.Role, in.Tenants, *in.Disabled)
	if err != nil {
		return err
	}
	if _, token := bearer(r); u.ID == v.ID && !token {
		if err := p.begin(r, u); err != nil {
			return err
		}
	}
	return answer(w, http.StatusOK, answered(u))
}

func (p *Portal) resetAnew(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	u, link, err := p.users.Reset(r.Context(), p.by(r, v), r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, invited{answered(u), p.addressOf(r, link.Path()), link.ExpiresAt})
}
