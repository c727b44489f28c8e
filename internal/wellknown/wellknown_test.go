package wellknown_test

import (
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/wellknown"
	"github.com/telemesh/telemesh/products"
)

func documents(t *testing.T) *wellknown.Documents {
	t.Helper()
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if list[i].Name == "iot-metadata" {
			d, err := wellknown.New(products.FS, &list[i])
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	t.Fatal("no iot-metadata")
	return nil
}

func get(serve http.HandlerFunc, header ...string) (*http.Response, string) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	serve(w, r)
	text, _ := io.ReadAll(w.Result().Body) // of a recorder
	return w.Result(), string(text)
}

// The form is chosen by Accept; it is YAML, byte for byte as in the folder, unless JSON
// is wanted more.
func TestForms(t *testing.T) {
	d := documents(t)
	want, err := fs.ReadFile(products.FS, "iot-metadata/product.odps.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for accept, json := range map[string]bool{
		"": false, "*/*": false, "application/json": true, "application/yaml": false, "application/yaml, application/json": false,
		"application/json;q=0.9, application/yaml;q=0.8": true, "application/json;q=0.5, */*": false, "application/yaml;q=0, */*": true,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": false, "application/*": false, "application/json, text/plain, */*": false,
		"application/json, text/plain": true, "nonsense": false,
	} {
		resp, text := get(d.Descriptor, "Accept", accept)
		kind := "application/yaml"
		if json {
			kind = "application/json"
		}
		if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != kind || resp.Header.Get("Vary") != "Accept" {
			t.Errorf("Accept %q: %d %s, Vary %q, want %s", accept, resp.StatusCode, got, resp.Header.Get("Vary"), kind)
		}
		if !json && text != string(want) {
			t.Errorf("Accept %q: %d bytes, want those of the file", accept, len(text))
		}
	}
}

func TestDocuments(t *testing.T) {
	d := documents(t)
	resp, text := get(d.Descriptor, "Accept", "application/json")
	var descriptor struct {
		Kind, Name string
	}
	if err := json.Unmarshal([]byte(text), &descriptor); err != nil || descriptor.Kind != "DataProduct" || descriptor.Name != "iot-metadata" {
		t.Errorf("descriptor: %+v, %v", descriptor, err)
	}
	if links := strings.Join(resp.Header.Values("Link"), "\n"); !strings.Contains(links, `<data-product/contracts/placements>; rel="describedby"`) {
		t.Errorf("links: %s", links)
	}
	_, text = get(func(w http.ResponseWriter, r *http.Request) {
		if !d.Contract(w, r, "placements") {
			t.Error("no contract of placements")
		}
	})
	if !strings.Contains(text, "id: iot-metadata.placements\n") {
		t.Errorf("contract: %.80s", text)
	}
	if d.Contract(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), "nothing") {
		t.Error("a contract of nothing")
	}
	// Who has it is told so; the two forms are two things to have.
	tag := resp.Header.Get("ETag")
	if again, text := get(d.Descriptor, "Accept", "application/json", "If-None-Match", tag); again.StatusCode != http.StatusNotModified || text != "" || again.Header.Get("ETag") != tag {
		t.Errorf("asked again: %d, %q", again.StatusCode, text)
	}
	if other, _ := get(d.Descriptor, "If-None-Match", tag); other.StatusCode != http.StatusOK || other.Header.Get("ETag") == tag {
		t.Errorf("the other form: %d, ETag %s", other.StatusCode, other.Header.Get("ETag"))
	}
}
