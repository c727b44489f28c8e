package analyse

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/products"
)

func catalog(t *testing.T) *Catalog {
	t.Helper()
	c, err := New("my-project")
	if err != nil {
		t.Fatal(err)
	}
	err = c.AddTable("iot", "readings", []contract.Column{
		{Name: "tenant_id", Type: contract.String}, {Name: "value", Type: contract.Float64},
		{Name: "observed_at", Type: contract.Timestamp}, {Name: "revision", Type: contract.Int64},
		{Name: "value_bool", Type: contract.Bool}, {Name: "attributes", Type: contract.JSON},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestQueryGivesColumns(t *testing.T) {
	got, err := catalog(t).Query("SELECT tenant_id, AVG(value) AS mean, COUNT(*), MAX(observed_at) AS latest FROM iot.readings GROUP BY tenant_id")
	if err != nil {
		t.Fatal(err)
	}
	want := []contract.Column{
		{Name: "tenant_id", Type: contract.String}, {Name: "mean", Type: contract.Float64},
		{Name: "$col3", Type: contract.Int64}, {Name: "latest", Type: contract.Timestamp},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
}

func TestOfKnowsTheProducts(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Of("my-project", all)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		for _, table := range p.Tables {
			if table.Schema != p.Schema {
				continue
			}
			got, err := c.Query("SELECT * FROM `my-project." + table.FullName() + "`")
			if err != nil {
				t.Fatal(err)
			}
			var want []contract.Column
			for _, column := range table.Columns {
				want = append(want, contract.Column{Name: column.Name, Type: column.Type})
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: the port's columns differ from the contract's (-contract +port):\n%s", table.FullName(), diff)
			}
		}
	}
}

// What BigQuery documents, and what other dialects have beside it.
func TestQueryKnowsTheDialect(t *testing.T) {
	for _, tt := range []struct{ sql, refused string }{
		{"SELECT * FROM `iot.readings`", ""},
		{"SELECT * FROM `iot`.readings", ""},
		{"SELECT * FROM `my-project.iot.readings`", ""},
		{"SELECT * EXCEPT (value) FROM iot.readings QUALIFY ROW_NUMBER() OVER (PARTITION BY tenant_id ORDER BY revision DESC NULLS LAST) = 1", ""},
		{"SELECT ANY_VALUE(tenant_id HAVING MAX observed_at) FROM iot.readings", ""},
		{"SELECT 1 FROM iot.readings WHERE tenant_id IS NOT DISTINCT FROM SESSION_USER()", ""},
		{"SELECT tenant_id, COUNT(*) FROM iot.readings GROUP BY ALL", ""},
		{"SELECT observed_at + INTERVAL 1 DAY, TIMESTAMP_SECONDS(900 * DIV(UNIX_SECONDS(observed_at), 900)) FROM iot.readings", ""},
		{"SELECT JSON_VALUE(attributes, '$.a') FROM iot.readings WHERE STARTS_WITH(tenant_id, CHR(97))", ""},
		{"SELECT 1 UNION DISTINCT SELECT 2", ""},
		{"SELECT 1 FROM iot.readings WHERE tenant_id = @tenant", ""},
		{"SELECT a.value FROM iot.readings AS a LEFT JOIN iot.readings AS b ON a.value > b.value AND a.tenant_id = b.tenant_id", ""},
		{"SELECT a.value FROM iot.readings AS a RIGHT JOIN iot.readings AS b USING (tenant_id)", ""},
		{"SELECT value, COUNT(*) FROM iot.readings GROUP BY value", ""},

		{"SELECT 1 UNION SELECT 2", "UNION"},
		{"SELECT value::INT64 FROM iot.readings", ":"},
		{"SELECT make_timestamp(1)", "make_timestamp"},
		{"SELECT arg_max(tenant_id, observed_at) FROM iot.readings", "arg_max"},
		{"SELECT AVG(value) FILTER (WHERE value > 1) FROM iot.readings", "FILTER"},
		{"SELECT CAST(NULL AS TIMESTAMPTZ)", "TIMESTAMPTZ"},
		{"SELECT CAST(1 AS DOUBLE)", "DOUBLE"},
		{"SELECT 1 AS at", "AT"},
		{"SELECT 1 AS rows", "ROWS"},
		{"SELECT 'it''s'", "literal"},
		{"SELECT nothing FROM iot.readings", "nothing"},
		{"SELECT 1 FROM iot.nothing", "nothing"},
		{"SELECT 1 FROM iot.readings WHERE value = 'high'", "high"},
		{"SELECT RANK() OVER (PARTITION BY value ORDER BY revision) FROM iot.readings", "FLOAT64"},
		{"SELECT tenant_id FROM iot.readings GROUP BY attributes, tenant_id", "JSON"},
		{"SELECT 1; SELECT 2", "SELECT"},
		{"SELECT a.value FROM iot.readings AS a LEFT JOIN iot.readings AS b ON TRUE", "outer join"},
		{"SELECT x FROM (SELECT a.value AS x FROM iot.readings AS a FULL JOIN iot.readings AS b ON a.value > b.value)", "outer join"},
		{"SELECT value, revision AS Value FROM iot.readings", "duplicate"},
		{"DELETE FROM iot.readings WHERE TRUE", "no query"},
	} {
		_, err := catalog(t).Query(tt.sql)
		switch {
		case tt.refused == "" && err != nil:
			t.Errorf("%s: %v", tt.sql, err)
		case tt.refused != "" && err == nil:
			t.Errorf("%s: it is taken, want an error with %q", tt.sql, tt.refused)
		case err != nil && !strings.Contains(err.Error(), tt.refused):
			t.Errorf("%s: %v, want it to name %q", tt.sql, err, tt.refused)
		}
	}
}

func TestViewIsKnownByItsColumns(t *testing.T) {
	c := catalog(t)
	if _, err := c.AddView("iot", "latest", "SELECT tenant_id, MAX(observed_at) AS observed_at FROM iot.readings GROUP BY tenant_id"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Query("SELECT observed_at FROM iot.latest"); err != nil {
		t.Error(err)
	}
	if _, err := c.Query("SELECT value FROM iot.latest"); err == nil {
		t.Error("a column that the view does not have is found")
	}
	if _, err := c.AddView("iot", "unnamed", "SELECT COUNT(*) FROM iot.readings"); err == nil {
		t.Error("a view with a column without a name is taken")
	}
}

func TestScriptReadsEachStatement(t *testing.T) {
	c := catalog(t)
	script := "BEGIN TRANSACTION;\nUPDATE iot.readings SET revision = revision + 1 WHERE tenant_id = 'a';\n" +
		"INSERT INTO iot.readings (tenant_id, revision) SELECT tenant_id, 2 FROM iot.readings;\nCOMMIT TRANSACTION;\n"
	if n, err := c.Script(script); n != 4 || err != nil {
		t.Errorf("Script = %d, %v, want 4 statements", n, err)
	}
	n, err := c.Script(strings.Replace(script, "(tenant_id, revision)", "(tenant_id, version)", 1))
	if n != 2 || err == nil || !strings.Contains(err.Error(), "statement 3") {
		t.Errorf("Script with a wrong third statement = %d, %v", n, err)
	}
}
