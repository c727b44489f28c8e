package port_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The document is valid by the schema of the OpenAPI Initiative
// (https://spec.openapis.org/oas/3.1/schema/2022-10-07, Apache 2.0), what it
// says is what is served, and everything it says is seen.
func TestOpenAPI(t *testing.T) {
	w := open(t)
	h := start(t, w)
	store(t, w, moved("d")...)
	response := get(h, http.MethodGet, "/openapi.json")
	text := body(t, response)
	parse := func(text string) any {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return v
	}
	schemaText, err := os.ReadFile("testdata/openapi-3.1-schema-2022-10-07.json")
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	for url, doc := range map[string]any{"openapi-schema.json": parse(string(schemaText)), "openapi.json": parse(text)} {
		if err := compiler.AddResource(url, doc); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile("openapi-schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(parse(text)); err != nil {
		t.Fatalf("the document is not OpenAPI 3.1: %v", err)
	}

	type answer struct {
		Ref     string `json:"$ref"`
		Headers map[string]struct {
			Ref string `json:"$ref"`
		} `json:"headers"`
		Content map[string]any `json:"content"`
	}
	var document struct {
		Paths map[string]map[string]struct {
			Responses map[string]answer `json:"responses"`
		} `json:"paths"`
		Components struct {
			Responses map[string]answer         `json:"responses"`
			Headers   map[string]map[string]any `json:"headers"`
		} `json:"components"`
	}
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	documented, seen := map[string]bool{}, map[string]bool{}
	for path, methods := range document.Paths {
		for status := range methods["get"].Responses {
			documented[path+" "+status] = true
		}
	}
	check := func(path string, r *http.Response) {
		t.Helper()
		status := fmt.Sprint(r.StatusCode)
		at := fmt.Sprintf("/paths/%s/get/responses/%s", strings.NewReplacer("~", "~0", "/", "~1").Replace(path), status)
		a, ok := document.Paths[path]["get"].Responses[status]
		if !ok {
			t.Fatalf("%s answers %s, which is not documented", path, status)
		}
		if a.Ref != "" {
			at = strings.TrimPrefix(a.Ref, "#")
			a = document.Components.Responses[at[strings.LastIndexByte(at, '/')+1:]]
		}
		seen[path+" "+status] = true
		for header, ref := range a.Headers {
			if _, ok := document.Components.Headers[strings.TrimPrefix(ref.Ref, "#/components/headers/")]; !ok || r.Header.Get(header) == "" {
				t.Errorf("%s answers %s without header %s, or it is not described", path, status, header)
			}
		}
		content := body(t, r)
		if len(a.Content) == 0 {
			if content != "" {
				t.Errorf("%s answers %s with a body", path, status)
			}
			return
		}
		kind := r.Header.Get("Content-Type")
		if _, ok := a.Content[kind]; !ok {
			t.Fatalf("%s answers %s with %s, want one of %v", path, status, kind, slices.Collect(maps.Keys(a.Content)))
		}
		schema, err := compiler.Compile("openapi.json#" + at + "/content/" + strings.ReplaceAll(kind, "/", "~1") + "/schema")
		if err != nil {
			t.Fatal(err)
		}
		bodies := []string{content}
		if strings.Contains(kind, "ndjson") {
			bodies = strings.Split(strings.TrimSuffix(content, "\n"), "\n")
		}
		for _, b := range bodies {
			if err := schema.Validate(parse(b)); err != nil {
				t.Errorf("%s answers %s with %s: %v", path, status, b, err)
			}
		}
	}
	const all, one, own = "/assignments", "/assignments/{device}", "/openapi.json"
	check(own, get(h, http.MethodGet, own))
	check(own, get(h, http.MethodPost, own))
	check(all, get(h, http.MethodGet, "/assignments"))
	check(all, get(h, http.MethodGet, "/assignments?since=1"))
	check(all, get(h, http.MethodGet, "/assignments", "If-None-Match", "*"))
	check(all, get(h, http.MethodGet, "/assignments?since=x"))
	check(all, get(h, http.MethodPut, "/assignments"))
	check(one, get(h, http.MethodGet, "/assignments/d"))
	check(one, get(h, http.MethodGet, "/assignments/d?at=1970-01-01T00:00:15Z"))
	check(one, get(h, http.MethodGet, "/assignments/d?at=1970-01-01T00:00:25Z"))
	check(one, get(h, http.MethodGet, "/assignments/d", "If-None-Match", "*"))
	check(one, get(h, http.MethodGet, "/assignments/d?at=x"))
	check(one, get(h, http.MethodGet, "/assignments/e"))
	check(one, get(h, http.MethodDelete, "/assignments/d"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	check(all, get(h, http.MethodGet, "/assignments"))
	check(one, get(h, http.MethodGet, "/assignments/d"))
	if diff := cmp.Diff(documented, seen); diff != "" {
		t.Errorf("answers (-documented +seen):\n%s", diff)
	}
}
