package portal

import (
	"net/http"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/products"
)

// The documents of products are for whom the catalog is for, and programs are told so
// as programs are.
func TestDocumentsOfProducts(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	s := onSQLite(t, Config{Products: all, Documents: products.FS})
	const descriptor = "/products/iot-metadata/.well-known/data-product"
	ask := func(path string) (int, string, string) {
		t.Helper()
		resp, err := http.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var text strings.Builder
		if err := resp.Write(&text); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Content-Type"), text.String()
	}
	if status, kind, text := ask(descriptor); status != http.StatusUnauthorized || kind != "application/problem+json" {
		t.Errorf("nobody: %d %s\n%s", status, kind, text)
	}
	s.portal.viewer = func(*http.Request) (access.Viewer, bool, error) {
		return access.Viewer{ID: "1", Name: "alpha", Role: access.Tenant, Tenants: []string{own}}, true, nil
	}
	for path, want := range map[string]string{descriptor: "id: iot-metadata\n", descriptor + "/contracts/placements": "id: iot-metadata.placements\n"} {
		if status, kind, text := ask(path); status != http.StatusOK || kind != "application/yaml" || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s\n%s", path, status, kind, text)
		}
	}
	for _, path := range []string{descriptor + "/contracts/readings", "/products/nothing/.well-known/data-product"} {
		if status, kind, text := ask(path); status != http.StatusNotFound || kind != "application/problem+json" {
			t.Errorf("%s: %d %s\n%s", path, status, kind, text)
		}
	}
}
