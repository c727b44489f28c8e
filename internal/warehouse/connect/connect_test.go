package connect_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

func TestOpenSaysWhatMayStandThere(t *testing.T) {
	for _, url := range []string{"", "warehouse", "warehouse:80", "ftp://warehouse", "http:///warehouse", "telemesh-data", "://", "bigquery://", "bigquery://p?region=EU"} {
		w, err := connect.Config{URL: url}.Open(nil, nil)
		if err == nil {
			t.Errorf("Open(%q) = %T, want an error", url, w)
			continue
		}
		if !strings.Contains(err.Error(), "bigquery://PROJECT?location=") && !strings.Contains(err.Error(), "location") {
			t.Errorf("Open(%q) = %v, want an error that says what may stand there", url, err)
		}
	}
}

// What the local runtime hands to a function counts, whatever the environment
// says.
func TestOpenTakesTheOneItWasHanded(t *testing.T) {
	handed := duckdbtest.Open(t)
	if w, err := (connect.Config{URL: "http://elsewhere"}).Open(handed, nil); err != nil || w != warehouse.Warehouse(handed) {
		t.Errorf("Open() = %v, %v, want the one it was handed", w, err)
	}
}

func TestOpenRemote(t *testing.T) {
	db := duckdbtest.Open(t)
	served := httptest.NewServer(remote.Handler(db, "secret"))
	defer served.Close()
	t.Setenv("WAREHOUSE_URL", served.URL)
	t.Setenv("WAREHOUSE_TOKEN", "secret")
	config, err := function.Config[connect.Config]()
	if err != nil {
		t.Fatal(err)
	}
	w, err := config.Open(nil, served.Client())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Query(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("Query() = %v", err)
	}
}

// A Service whose namespace has no ConfigMap finds the warehouse that every
// function of the cluster finds.
func TestDefault(t *testing.T) {
	var asked string
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		asked = r.URL.String()
		return nil, http.ErrHandlerTimeout
	})}
	config, err := function.Config[connect.Config]()
	if err != nil {
		t.Fatal(err)
	}
	w, err := config.Open(nil, client)
	if err != nil {
		t.Fatal(err)
	}
	if w.Query(t.Context(), "SELECT 1"); asked != "http://warehouse.platform.svc.cluster.local/query?columns=only" {
		t.Errorf("asked %q", asked)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
