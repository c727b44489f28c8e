package standard_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/telemesh/telemesh/internal/contract/standard"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/products"
)

func schemas(t *testing.T) standard.Schemas {
	t.Helper()
	s, err := standard.Read(dataset.Path(t, "contracts"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every document of the products is as its standard wants it.
func TestProducts(t *testing.T) {
	want := 0
	for _, pattern := range []string{"*/*.odps.yaml", "*/*.odcs.yaml"} {
		names, err := fs.Glob(products.FS, pattern)
		if err != nil {
			t.Fatal(err)
		}
		want += len(names)
	}
	findings, documents, err := schemas(t).Check(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Error(f)
	}
	if documents != want || want < 16 {
		t.Errorf("%d documents were checked, want %d, and at least 16", documents, want)
	}
}

// A finding says where and what.
func TestCheck(t *testing.T) {
	const (
		table      = "customers/customers.odcs.yaml"
		descriptor = "customers/product.odps.yaml"
	)
	s := schemas(t)
	for _, test := range []struct {
		file, old, new, want string
	}{
		{table, "id: customers.customers\n", "", ": missing property 'id'"},
		{table, "status: active", "status: active\nstate: active", ": additional properties 'state' not allowed"},
		{table, "logicalType: integer", "logicalType: int", ": /schema/0/properties/4/logicalType: value must be one of"},
		{table, "        mustBe: 0\n", "", ": /schema/0/quality/0: 'oneOf' failed, none matched (missing property 'mustBe'; or missing property 'mustNotBe';"},
		{table, "metric: duplicateValues", "metric: duplicateValues\n        engine: soda", ": /schema/0/quality/0/engine: not allowed here"},
		{table, "value: 60", "value: [60]", ": /slaProperties/0/value: 'anyOf' failed"},
		{table, "  - role: tenant\n    access: read\n", "  - access: read\n", ": /roles/0: missing property 'role'"},
		{table, "status: active", "status: active\nstatus: active", `key "status" already set in map`},
		{descriptor, "  - name: customers.customers\n    type: table\n", "  - type: table\n", ": /outputPorts/0: missing property 'name'"},
		{descriptor, "apiVersion: v1.0.0", "apiVersion: v1", ": /apiVersion: value must be one of 'v0.9.0', 'v1.0.0'"},
		{descriptor, "name: crm-team", "name: [crm-team]", ": /team/name: got array, want string"},
	} {
		text, err := fs.ReadFile(products.FS, test.file)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), test.old, test.new, 1)
		if changed == string(text) {
			t.Fatalf("%s does not contain %q", test.file, test.old)
		}
		findings, _, err := s.Check(fstest.MapFS{test.file: {Data: []byte(changed)}})
		if err != nil {
			t.Fatal(err)
		}
		if len(findings) != 1 || !strings.HasPrefix(findings[0].String(), test.file+": ") || !strings.Contains(findings[0].String(), test.want) {
			t.Errorf("%q for %q: %v, want one that names the file and contains %q", test.new, test.old, findings, test.want)
		}
	}
}

// Both schemas have to be there, and to be schemas.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("odcs-json-schema-v3.1.0.json", "{}")
	for _, bad := range []string{"", "{", `{"type": 1}`} {
		if bad != "" {
			put("odps-json-schema-v1.0.0.json", bad)
		}
		if _, err := standard.Read(dir); err == nil || !strings.Contains(err.Error(), "odps-json-schema-v1.0.0.json in "+dir) {
			t.Errorf("Read() with %q = %v, want an error that names the schema and the folder", bad, err)
		}
	}
	put("odps-json-schema-v1.0.0.json", "{}")
	if s, err := standard.Read(dir); err != nil || len(s) != 2 {
		t.Errorf("Read() = %v, %v, want two schemas", s, err)
	}
	if _, err := standard.Read(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("Read() of no folder gives no error")
	}
}
