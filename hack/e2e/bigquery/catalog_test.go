package bigquery_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/access"
	catalogue "github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/portal"
	"github.com/telemesh/telemesh/internal/topology/manifests"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

// runCatalog shows the pages of the catalog and of the mesh, to who sees all and to
// a tenant, has all quality rules counted, and runs what the pages offer to copy. No
// fact may be left unknown.
func runCatalog(t *testing.T, w warehouse.Warehouse) {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	mesh, err := manifests.Read(manifests.Folder{FS: brokers.FS}, manifests.Folder{FS: triggers.FS}, manifests.Folder{FS: config.FS})
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := catalogue.New(all, mesh)
	if err != nil {
		t.Fatal(err)
	}
	for _, viewer := range []access.Viewer{{ID: "1", Name: "ada", Role: access.Admin}, {ID: "2", Name: "tom", Role: access.Tenant, Tenants: []string{"it's"}}} {
		p, err := portal.New(portal.Config{Data: access.New(w, all), Products: all, Mesh: mesh, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
			Viewer: func(*http.Request) (access.Viewer, bool, error) { return viewer, true, nil }})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(method, path string, want int) {
			t.Helper()
			out := httptest.NewRecorder()
			p.Handler().ServeHTTP(out, httptest.NewRequest(method, path, nil))
			if out.Code != want || strings.Contains(out.Body.String(), "not known: it is in the log") {
				t.Errorf("%s %s of %s = %d, want %d: %s", method, path, viewer.Name, out.Code, want, out.Body)
			}
		}
		ask(http.MethodGet, "/catalog", http.StatusOK)
		for _, product := range catalog.Products {
			for _, port := range product.Ports {
				page := "/catalog/" + product.Name + "/" + port.Name
				if viewer.Team() {
					ask(http.MethodPost, page+"/check", http.StatusSeeOther)
				}
				ask(http.MethodGet, page, http.StatusOK)
				if sql := port.SQL("it's"); sql != "" {
					rows, err := w.Query(t.Context(), sql)
					if err != nil {
						t.Fatalf("%s\n%v", sql, err)
					}
					for _, err := range rows.All {
						if err != nil {
							t.Errorf("%s\n%v", sql, err)
						}
					}
				}
			}
		}
		if viewer.Team() {
			ask(http.MethodGet, "/mesh", http.StatusOK)
			ask(http.MethodGet, "/api/mesh", http.StatusOK)
		}
	}
}

// The catalog shows the same rows of BigQuery as of DuckDB.
func TestCatalog(t *testing.T) {
	e := emulator.Start(t)
	all := applied(t, e)
	member(t, e)
	store := open(t, e, all)
	duck := duckdbtest.Open(t)
	appendEdges(t, duck)
	for _, p := range all {
		for i := range p.Tables {
			copyRows(t, duck, store, &p.Tables[i])
		}
	}
	runCatalog(t, store)
}
