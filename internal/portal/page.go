package portal

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/telemesh/telemesh/internal/access"
)

//go:embed templates/*.html
var templates embed.FS

// pages are the templates by name, each with the layout around it.
var pages = func() map[string]*template.Template {
	files, err := templates.ReadDir("templates")
	if err != nil {
		panic(err)
	}
	layout := template.Must(template.New("layout.html").Funcs(functions).ParseFS(templates, "templates/layout.html"))
	all := map[string]*template.Template{}
	for _, f := range files {
		if name := strings.TrimSuffix(f.Name(), ".html"); name != "layout" {
			all[name] = template.Must(template.Must(layout.Clone()).ParseFS(templates, path.Join("templates", f.Name())))
		}
	}
	return all
}()

// shown is what the layout shows, with the page in it.
type shown struct {
	Title  string
	Home   string        // where the name of the portal leads; empty: to its first page
	Viewer access.Viewer // Role empty: nobody is logged in
	Area   string        // of the navigation: the first segment of the path
	Areas  []area
	Style  string              // address of the style sheet
	Script func(string) string // address of a script of the bundle; empty: it is not built
	Page   any                 // of the page's template
	Flash  string              // what came of the page before
	Demo   bool                // everybody on this machine may enter
}

// area is an entry of the navigation.
type area struct {
	Path, Name string
	who        who
}

var areas = []area{
	{"air", "Air", signedIn},
	{"catalog", "Catalog", signedIn},
	{"mesh", "Mesh", team},
	{"live", "Live", team},
	{"operations", "Operations", team},
	{"users", "Users", admins},
}

// page answers with a page: templates/NAME.html, which defines "page".
func (p *Portal) page(w http.ResponseWriter, r *http.Request, v access.Viewer, status int, name, title string, data any) error {
	s := shown{Title: title, Viewer: v, Style: p.assets.address("portal.css"), Script: p.assets.address, Page: data, Demo: p.demo}
	if hasSession(r) {
		s.Flash = p.sessions.PopString(r.Context(), flashKey)
	}
	s.Area, _, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	for _, a := range areas {
		if a.who.lets(v) && (p.readings || a.Path != "air") {
			s.Areas = append(s.Areas, a)
		}
	}
	var b bytes.Buffer
	if err := pages[name].Execute(&b, s); err != nil {
		return fmt.Errorf("render %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b.Bytes()) // a client that is gone needs no answer
	return nil
}

// answer writes what a program asked for.
func answer(w http.ResponseWriter, status int, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(text, '\n')) // a client that is gone needs no answer
	return nil
}

// problem says what was wrong to a program. https://www.rfc-editor.org/rfc/rfc9457
func problem(w http.ResponseWriter, status int, detail string) {
	text, err := json.Marshal(map[string]any{"title": http.StatusText(status), "status": status, "detail": detail})
	if err != nil {
		http.Error(w, detail, status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	w.Write(append(text, '\n')) // a client that is gone needs no answer
}

// forPeople says whether a page is asked for, and not what is for programs.
func forPeople(r *http.Request) bool {
	return !strings.HasPrefix(r.URL.Path, "/api/") && !strings.HasPrefix(r.URL.Path, documentsPath)
}

// next is where to go after logging in, as a query.
func next(r *http.Request) string {
	return url.Values{"next": {r.URL.RequestURI()}}.Encode()
}

// policy allows what the portal itself serves, and nothing inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Cache-Control", "no-store") // pages show what not everybody may see
		next.ServeHTTP(w, r)
	})
}
