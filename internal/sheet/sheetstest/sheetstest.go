// Package sheetstest is what the sources of metadata stand between, for tests:
// the part of the Google Sheets API, v4, that reads spreadsheets, over HTTP with
// the token endpoint of a service account, so that Google's own client asks it;
// and the output ports.
//
// Server answers as the API does where a reader could be wrong about it: cells and
// rows that are empty at the end are left out, a range that ends behind the
// sheet is cut and one that begins there refused, values are texts unless asked
// for otherwise, and what fields does not name is not there.
// https://developers.google.com/workspace/sheets/api/reference/rest
package sheetstest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Email is the service account's.
const Email = "sheet-source@project.iam.gserviceaccount.com"

const readonly = "https://www.googleapis.com/auth/spreadsheets.readonly"

// Spreadsheet is a document.
type Spreadsheet struct {
	Locale   string // en_US
	TimeZone string // Europe/Amsterdam
	Sheets   []Sheet
	Private  bool // not shared with the service account
}

// Sheet is one of a spreadsheet.
type Sheet struct {
	Title         string
	Rows, Columns int     // of the grid; 0: 1000 and 26, as a new sheet has
	Values        [][]any // string, float64, bool, nil
	Chart         bool    // it has no grid
}

// Failure is an answer in place of the right one.
type Failure struct {
	Status     int // 429, 403 (the same of older interfaces) or 503
	RetryAfter int // seconds; 0: not said
}

// Server is the API.
type Server struct {
	URL string
	// Credentials is the file of the service account, for
	// GOOGLE_APPLICATION_CREDENTIALS.
	Credentials string

	key *rsa.PrivateKey

	mu           sync.Mutex
	spreadsheets map[string]Spreadsheet
	failures     []Failure
	requests     []string
	before       func(request string)
	tokens       int  // given out
	revoked      bool // the account's key
}

// accountKey is the service account's: to make one takes longer than most tests.
var accountKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// New starts a server, which ends with the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	return NewAt(tb, "127.0.0.1", "127.0.0.1")
}

// NewAt starts a server that others than this machine reach at a host. It listens
// on an address of this machine, on all if that is empty.
func NewAt(tb testing.TB, listen, host string) *Server {
	tb.Helper()
	key, err := accountKey()
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{key: key, spreadsheets: map[string]Spreadsheet{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("GET /v4/spreadsheets/{id}", s.authorized(s.get))
	mux.HandleFunc("GET /v4/spreadsheets/{id}/values/{range}", s.authorized(s.values))
	listener, err := net.Listen("tcp", net.JoinHostPort(listen, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: mux}}
	server.Start()
	tb.Cleanup(server.Close)
	s.URL = "http://" + net.JoinHostPort(host, strconv.Itoa(listener.Addr().(*net.TCPAddr).Port))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	file, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "project", "client_email": Email, "private_key_id": "1", "token_uri": s.URL + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		tb.Fatal(err)
	}
	s.Credentials = filepath.Join(tb.TempDir(), "service-account.json")
	if err := os.WriteFile(s.Credentials, file, 0o600); err != nil {
		tb.Fatal(err)
	}
	return s
}

// Put sets what the spreadsheet id is.
func (s *Server) Put(id string, what Spreadsheet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spreadsheets[id] = what
}

// Fail gives these answers to the next requests.
func (s *Server) Fail(failures ...Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, failures...)
}

// RevokeKey makes the service account's key worth nothing, and its tokens.
func (s *Server) RevokeKey() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked = true
}

// Before calls do before each request to the API is answered.
func (s *Server) Before(do func(request string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = do
}

// Requests gives the requests to the API so far: "get ID" and "values ID RANGE".
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// token is the JWT bearer grant.
// https://developers.google.com/identity/protocols/oauth2/service-account#httprest
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	deny := func(why string) {
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": why})
	}
	if r.PostFormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		reply(w, http.StatusBadRequest, map[string]string{"error": "unsupported_grant_type"})
		return
	}
	signed, err := jwt.ParseSigned(r.PostFormValue("assertion"), []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		deny(err.Error())
		return
	}
	var claims struct {
		jwt.Claims
		Scope string `json:"scope"`
	}
	err = signed.Claims(&s.key.PublicKey, &claims)
	if err == nil {
		err = claims.Validate(jwt.Expected{Issuer: Email, AnyAudience: jwt.Audience{s.URL + "/token"}, Time: time.Now()})
	}
	switch {
	case err != nil:
		deny("Invalid JWT Signature: " + err.Error())
	case s.revoked:
		deny("Invalid JWT Signature.")
	case claims.Scope != readonly:
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_scope", "error_description": claims.Scope})
	default:
		s.tokens++
		reply(w, http.StatusOK, map[string]any{"access_token": fmt.Sprintf("token-%d", s.tokens), "token_type": "Bearer", "expires_in": 3599})
	}
}

// authorized lets who has a token read what is shared with the account.
func (s *Server) authorized(answer func(http.ResponseWriter, *http.Request, Spreadsheet)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		request := "get " + r.PathValue("id")
		if in := r.PathValue("range"); in != "" {
			request = "values " + r.PathValue("id") + " " + in
		}
		s.mu.Lock()
		s.requests = append(s.requests, request)
		before := s.before
		s.mu.Unlock()
		if before != nil {
			before(request)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		n, err := strconv.Atoi(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer token-"))
		if err != nil || n < 1 || n > s.tokens || s.revoked {
			refuse(w, http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.")
			return
		}
		if len(s.failures) > 0 {
			f := s.failures[0]
			s.failures = s.failures[1:]
			if f.RetryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
			}
			if f.Status == http.StatusForbidden {
				reply(w, f.Status, map[string]any{"error": map[string]any{"code": f.Status, "message": "Rate Limit Exceeded", "errors": []any{
					map[string]any{"domain": "usageLimits", "reason": "rateLimitExceeded", "message": "Rate Limit Exceeded"},
				}}})
				return
			}
			if f.Status == http.StatusTooManyRequests {
				refuse(w, f.Status, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Read requests' and limit 'Read requests per minute per user' of service 'sheets.googleapis.com' for consumer 'project_number:1'.")
				return
			}
			refuse(w, f.Status, "UNAVAILABLE", "The service is currently unavailable.")
			return
		}
		of, ok := s.spreadsheets[r.PathValue("id")]
		switch {
		case !ok:
			refuse(w, http.StatusNotFound, "NOT_FOUND", "Requested entity was not found.")
		case of.Private:
			refuse(w, http.StatusForbidden, "PERMISSION_DENIED", "The caller does not have permission")
		default:
			answer(w, r, of)
		}
	}
}

// get is spreadsheets.get.
func (s *Server) get(w http.ResponseWriter, r *http.Request, of Spreadsheet) {
	var sheets []any
	for i, one := range of.Sheets {
		properties := map[string]any{"sheetId": i, "title": one.Title, "index": i, "sheetType": "OBJECT"}
		if !one.Chart {
			rows, columns := one.size()
			properties["sheetType"] = "GRID"
			properties["gridProperties"] = map[string]any{"rowCount": rows, "columnCount": columns}
		}
		sheets = append(sheets, map[string]any{"properties": properties})
	}
	masked(w, r, map[string]any{
		"spreadsheetId": r.PathValue("id"),
		"properties":    map[string]any{"title": "A spreadsheet", "locale": of.Locale, "timeZone": of.TimeZone, "autoRecalc": "ON_CHANGE"},
		"sheets":        sheets,
	})
}

func (s *Sheet) size() (rows, columns int) {
	rows, columns = s.Rows, s.Columns
	if rows == 0 {
		rows = 1000
	}
	if columns == 0 {
		columns = 26
	}
	return rows, columns
}

var a1 = regexp.MustCompile(`^'((?:[^']|'')*)'!([A-Z]+)([0-9]+):([A-Z]+)([0-9]+)$`)

// values is spreadsheets.values.get, by ROWS, of a range with its sheet in
// quotes and both corners.
func (s *Server) values(w http.ResponseWriter, r *http.Request, of Spreadsheet) {
	in := r.PathValue("range")
	m := a1.FindStringSubmatch(in)
	at := -1
	if m != nil {
		at = slices.IndexFunc(of.Sheets, func(one Sheet) bool { return one.Title == strings.ReplaceAll(m[1], "''", "'") && !one.Chart })
	}
	if at < 0 {
		refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Unable to parse range: "+in)
		return
	}
	sheet := of.Sheets[at]
	rows, columns := sheet.size()
	left, top, right, bottom := column(m[2]), atoi(m[3]), column(m[4]), atoi(m[5])
	if top > rows || left > columns {
		refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", fmt.Sprintf("Range (%s) exceeds grid limits. Max rows: %d, max columns: %d", in, rows, columns))
		return
	}
	query := r.URL.Query()
	plain := query.Get("valueRenderOption") == "UNFORMATTED_VALUE" && query.Get("dateTimeRenderOption") == "SERIAL_NUMBER"
	right, bottom = min(right, columns), min(bottom, rows)
	var values [][]any
	for i := top; i <= bottom && i <= len(sheet.Values); i++ {
		all := sheet.Values[i-1]
		row := []any{}
		for j := left; j <= right && j <= len(all); j++ {
			switch value := all[j-1].(type) {
			case nil:
				row = append(row, "")
			case string:
				row = append(row, value)
			default:
				if !plain {
					value = fmt.Sprint(value)
				}
				row = append(row, value)
			}
		}
		for len(row) > 0 && row[len(row)-1] == "" {
			row = row[:len(row)-1]
		}
		values = append(values, row)
	}
	for len(values) > 0 && len(values[len(values)-1]) == 0 {
		values = values[:len(values)-1]
	}
	answer := map[string]any{"range": fmt.Sprintf("'%s'!%s%d:%s%d", m[1], m[2], top, m[4], bottom), "majorDimension": "ROWS"}
	if values != nil {
		answer["values"] = values
	}
	masked(w, r, answer)
}

func atoi(s string) int { n, _ := strconv.Atoi(s); return n }

func column(letters string) (n int) {
	for _, letter := range letters {
		n = n*26 + int(letter-'A') + 1
	}
	return n
}

// masked answers with what the query's fields name.
// https://developers.google.com/workspace/sheets/api/guides/field-masks
func masked(w http.ResponseWriter, r *http.Request, answer map[string]any) {
	fields := r.URL.Query().Get("fields")
	if fields == "" {
		reply(w, http.StatusOK, answer)
		return
	}
	kept, rest := mask(answer, fields)
	if rest != "" {
		refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Request contains an invalid argument: fields "+fields)
		return
	}
	reply(w, http.StatusOK, kept)
}

// mask keeps of value what the list at the beginning of fields names, as
// a,b(c,d), and gives what is behind the list.
func mask(value any, fields string) (kept any, rest string) {
	if list, ok := value.([]any); ok {
		all := []any{}
		_, rest = mask(nil, fields)
		for _, one := range list {
			one, _ = mask(one, fields)
			all = append(all, one)
		}
		return all, rest
	}
	object, _ := value.(map[string]any)
	out := map[string]any{}
	for {
		end := strings.IndexAny(fields+",", ",()")
		name := fields[:end]
		fields = fields[end:]
		inner, there := object[name]
		if strings.HasPrefix(fields, "(") {
			inner, fields = mask(inner, fields[1:])
			fields = strings.TrimPrefix(fields, ")")
		}
		if there {
			out[name] = inner
		}
		if !strings.HasPrefix(fields, ",") {
			return out, fields
		}
		fields = fields[1:]
	}
}

// refuse answers as Google's APIs do.
// https://cloud.google.com/apis/design/errors#http_mapping
func refuse(w http.ResponseWriter, code int, status, message string) {
	reply(w, code, map[string]any{"error": map[string]any{"code": code, "message": message, "status": status}})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // who does not read it to its end is the one under test
}
