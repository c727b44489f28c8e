package remote_test

import (
	"context"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
	"github.com/telemesh/telemesh/internal/warehouse/warehousetest"
)

func serve(t testing.TB, token string) *httptest.Server {
	t.Helper()
	db, err := duckdb.Open(filepath.Join(t.TempDir(), "test.duckdb"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewServer(remote.Handler(db, token))
	t.Cleanup(server.Close)
	return server
}

func TestConformance(t *testing.T) {
	warehousetest.Test(t, func(t testing.TB) warehouse.Warehouse {
		server := serve(t, "secret")
		return remote.Open(server.URL+"/", server.Client(), "secret")
	})
}

func TestUnixSocket(t *testing.T) {
	db, err := duckdb.Open(filepath.Join(t.TempDir(), "test.duckdb"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: remote.Handler(db, "")}
	go server.Serve(listener)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	if got := one(t, remote.Open("http://warehouse", client, ""), "SELECT 42 AS a"); got != int64(42) {
		t.Errorf("SELECT 42 = %v", got)
	}
}

func one(t *testing.T, w warehouse.Warehouse, sql string) any {
	t.Helper()
	rows, err := w.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	for row, err := range rows.All {
		if err != nil {
			t.Fatal(err)
		}
		return row[0]
	}
	return nil
}

func TestNumbersThatJSONLacks(t *testing.T) {
	server := serve(t, "")
	w := remote.Open(server.URL, nil, "")
	if got, ok := one(t, w, "SELECT 'nan'::DOUBLE").(float64); !ok || !math.IsNaN(got) {
		t.Errorf("nan = %v", got)
	}
	if got := one(t, w, "SELECT '-inf'::DOUBLE"); got != math.Inf(-1) {
		t.Errorf("-inf = %v", got)
	}
	if got := one(t, w, "SELECT 9223372036854775807"); got != int64(math.MaxInt64) {
		t.Errorf("the greatest integer = %v", got)
	}
}

func TestToken(t *testing.T) {
	server := serve(t, "secret")
	for _, token := range []string{"", "Secret"} {
		_, err := remote.Open(server.URL, nil, token).Query(t.Context(), "SELECT 1")
		if err == nil || mesh.IsPermanent(err) || !strings.Contains(err.Error(), "token") {
			t.Errorf("token %q: Query() = %v, want a passing error that names the token", token, err)
		}
	}
}

// A warehouse that is not there yet is worth another try.
func TestUnreachable(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	w := remote.Open(server.URL, nil, "")
	if _, err := w.Query(t.Context(), "SELECT 1"); err == nil || mesh.IsPermanent(err) {
		t.Errorf("Query() = %v, want a passing error", err)
	}
	if _, err := w.Append(t.Context(), warehouse.Batch{}); err == nil || mesh.IsPermanent(err) {
		t.Errorf("Append() = %v, want a passing error", err)
	}
}

// An answer that is cut off must not look like one that is short.
func TestCutAnswer(t *testing.T) {
	for _, body := range []string{
		`{"columns":[{"Name":"a","Type":"INT64"}]}` + "\n[1]\n",
		`{"columns":[{"Name":"a","Type":"INT64"}]}` + "\n[1]\n" + `{"rows":2}` + "\n",
		`{"columns":[{"Name":"a","Type":"INT64"}]}` + "\n[1]\n[",
		`{"columns":[{"Name":"a","Type":"INT64"}]}` + "\n[1,2]\n" + `{"rows":1}` + "\n",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(body)) }))
		rows, err := remote.Open(server.URL, nil, "").Query(t.Context(), "SELECT 1")
		if err != nil {
			t.Fatal(err)
		}
		for _, err = range rows.All {
		}
		if err == nil || mesh.IsPermanent(err) {
			t.Errorf("%q: the rows end with %v, want a passing error", body, err)
		}
		server.Close()
	}
}

// The rest of a request that the store refuses is not the client's problem.
func TestRefusedRequests(t *testing.T) {
	server := serve(t, "")
	for path, body := range map[string]string{
		"/append": `{"table":"t","kinds":["STRING"],"rows":1}` + "\n[1]\n",
		"/apply":  "[",
		"/query":  "DROP TABLE t",
	} {
		response, err := http.Post(server.URL+path, "", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s, want 400", path, response.Status)
		}
	}
	// Nothing was applied: another time it may be.
	response, err := http.Post(server.URL+"/append", "", strings.NewReader(`{"table":"t","kinds":["STRING"],"rows":1}`+"\n[\"a\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		t.Errorf("append: %s, Retry-After %q, want 503 and a time", response.Status, response.Header.Get("Retry-After"))
	}
}
