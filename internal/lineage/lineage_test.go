package lineage_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/products"
)

var update = flag.Bool("update", false, "write testdata/shipped.txt")

func load(t *testing.T) []contract.Product {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The lineage of everything in products/, to be read when one of these changes.
func TestShipped(t *testing.T) {
	all := load(t)
	g, err := lineage.New(all)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, p := range all {
		var names []string
		for i := range p.Tables {
			names = append(names, p.Tables[i].FullName())
		}
		for i := range p.Views {
			names = append(names, p.Views[i].FullName())
		}
		for _, name := range names {
			n := g.Node(name)
			how := "declared"
			if n.View {
				how = "derived"
			}
			fmt.Fprintf(&b, "%s, %s\n", name, how)
			line := func(what string, of any) {
				if text := strings.Trim(fmt.Sprint(of), "[]"); text != "" {
					fmt.Fprintf(&b, "  %s: %s\n", what, text)
				}
			}
			line("from", n.Tables)
			line("events", n.Events)
			line("rows", n.Rows)
			for _, c := range n.Columns {
				if c.Same != (lineage.Column{}) {
					fmt.Fprintf(&b, "  %s = %s\n", c.Name, c.Same)
				} else {
					fmt.Fprintf(&b, "  %s ← %s\n", c.Name, strings.Trim(fmt.Sprint(c.From), "[]"))
				}
			}
		}
	}
	const file = "testdata/shipped.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), shipped(b.String(), string(want))); diff != "" {
		t.Errorf("lineage of products/ (-want +got); go test -update writes it:\n%s", diff)
	}
}

// shipped is what a text says of the schemas that are in want: products of somebody's
// own may stand beside them.
func shipped(text, want string) string {
	schemas := map[string]bool{}
	for line := range strings.Lines(want) {
		if schema, _, ok := strings.Cut(line, "."); ok && !strings.HasPrefix(line, " ") {
			schemas[schema] = true
		}
	}
	var out strings.Builder
	skip := false
	for line := range strings.Lines(text) {
		if schema, _, ok := strings.Cut(line, "."); ok && !strings.HasPrefix(line, " ") {
			skip = !schemas[schema]
		}
		if !skip {
			out.WriteString(line)
		}
	}
	return out.String()
}

// What DuckDB reads in place of a view is made of the same columns.
func TestDialectsHaveOneLineage(t *testing.T) {
	all := load(t)
	g, err := lineage.New(all)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range all {
		for _, v := range p.Views {
			if v.DuckDB == v.SQL {
				continue
			}
			n++
			answer, err := lineage.Query(v.FullName(), v.DuckDB, func(table string) ([]string, bool) {
				node := g.Node(table)
				if node == nil {
					return nil, false
				}
				var columns []string
				for _, c := range node.Columns {
					columns = append(columns, c.Name)
				}
				return columns, true
			})
			if err != nil {
				t.Errorf("%s: %v", v.FullName(), err)
				continue
			}
			for i, c := range answer.Columns {
				if diff := cmp.Diff(g.Node(v.FullName()).Columns[i], lineage.Made(c)); diff != "" {
					t.Errorf("%s (-GoogleSQL +DuckDB):\n%s", v.FullName(), diff)
				}
			}
			if diff := cmp.Diff(g.Node(v.FullName()).Rows, answer.Rows); diff != "" {
				t.Errorf("%s: rows (-GoogleSQL +DuckDB):\n%s", v.FullName(), diff)
			}
		}
	}
	if n == 0 {
		t.Error("no view is written twice")
	}
}

var tables = map[string][]string{
	"a.t": {"id", "x", "y", "tags"},
	"a.u": {"id", "x", "z"},
}

func query(sql string) (*lineage.Answer, error) {
	return lineage.Query("view.sql", sql, func(name string) ([]string, bool) {
		columns, ok := tables[name]
		return columns, ok
	})
}

func TestQuery(t *testing.T) {
	for _, test := range []struct{ sql, want string }{
		{"SELECT x FROM a.t", "x=a.t.x"},
		{"SELECT t.x, t.x + y AS s FROM a.t", "x=a.t.x s:a.t.x,a.t.y"},
		{"SELECT X AS q FROM a.t AS T WHERE t.ID > 1", "q=a.t.x |a.t.id"},
		{"SELECT * FROM a.t", "id=a.t.id x=a.t.x y=a.t.y tags=a.t.tags"},
		{"SELECT * EXCEPT (x, tags) REPLACE (y + id AS y) FROM a.t", "id=a.t.id y:a.t.id,a.t.y"},
		{"SELECT u.*, t.y FROM a.t AS t, a.u AS u", "id=a.u.id x=a.u.x z=a.u.z y=a.t.y"},
		// What decides the rows is no part of the values.
		{"SELECT t.y FROM a.t AS t JOIN a.u AS u ON t.id = u.id WHERE u.z > 0", "y=a.t.y |a.t.id,a.u.id,a.u.z"},
		{"SELECT id, y, z FROM a.t LEFT JOIN a.u USING (id)", "id:a.t.id,a.u.id y=a.t.y z=a.u.z |a.t.id,a.u.id"},
		{"SELECT * FROM a.t AS t FULL JOIN a.u USING (id, x)", "id:a.t.id,a.u.id x:a.t.x,a.u.x y=a.t.y tags=a.t.tags z=a.u.z |a.t.id,a.t.x,a.u.id,a.u.x"},
		// The columns of WITH, and one that hides a table of the same name.
		{"WITH v AS (SELECT id AS k, MAX(x) AS m FROM a.t GROUP BY k) SELECT k, m + 1 AS n FROM v WHERE m > 2", "k=a.t.id n:a.t.x |a.t.id,a.t.x"},
		{"WITH v AS (SELECT x FROM a.t), w AS (WITH v AS (SELECT z AS x FROM a.u) SELECT x FROM v) SELECT v.x AS a, w.x AS b FROM v, w", "a=a.t.x b=a.u.z"},
		{"WITH v AS (SELECT x FROM a.t) SELECT 1 AS one FROM a.u", "one:"},
		{"SELECT o.x FROM (SELECT i.y AS x FROM (SELECT y, id FROM a.t WHERE x = 1) AS i) AS o", "x=a.t.y |a.t.x"},
		// By position, under the names of the first.
		{"SELECT x AS v FROM a.t UNION ALL SELECT z FROM a.u", "v:a.t.x,a.u.z"},
		{"SELECT x FROM a.t UNION ALL SELECT x FROM a.t WHERE y = 1", "x=a.t.x |a.t.y"},
		{"SELECT x FROM a.t UNION DISTINCT SELECT z FROM a.u", "x:a.t.x,a.u.z |a.t.x,a.u.z"},
		{"SELECT x FROM a.t EXCEPT DISTINCT SELECT z FROM a.u", "x:a.t.x,a.u.z |a.t.x,a.u.z"},
		{"(SELECT x FROM a.t) INTERSECT DISTINCT (SELECT z FROM a.u)", "x:a.t.x,a.u.z |a.t.x,a.u.z"},
		{"SELECT DISTINCT x FROM a.t", "x=a.t.x |a.t.x"},
		// Aggregates with all that they say.
		{"SELECT id, COUNT(*) AS n, COUNT(DISTINCT x) AS d FROM a.t GROUP BY 1 HAVING n > 1", "id=a.t.id n: d:a.t.x |a.t.id"},
		{"SELECT ARRAY_AGG(x IGNORE NULLS ORDER BY y DESC LIMIT 1)[SAFE_OFFSET(0)] AS last FROM a.t", "last:a.t.x,a.t.y"},
		{"SELECT ANY_VALUE(x HAVING MAX y) AS best FROM a.t", "best:a.t.x,a.t.y"},
		{"SELECT id FROM a.t GROUP BY id HAVING SUM(x) > 1", "id=a.t.id |a.t.id,a.t.x"},
		{"SELECT x FROM a.t ORDER BY y", "x=a.t.x"}, // an order is no choice of rows
		{"SELECT x AS v FROM a.t ORDER BY v + y LIMIT 3", "v=a.t.x |a.t.x,a.t.y"},
		// Expressions.
		{"SELECT IF(x > 0, y, NULL) AS v FROM a.t", "v:a.t.x,a.t.y"},
		{"SELECT CASE id WHEN 1 THEN x ELSE y END AS v FROM a.t", "v:a.t.id,a.t.x,a.t.y"},
		{"SELECT CAST(x AS STRING) AS v, COALESCE(x, y) AS w, -y AS n, (x) AS same FROM a.t", "v:a.t.x w:a.t.x,a.t.y n:a.t.y same=a.t.x"},
		{"SELECT x IN (1, y) AS a, x BETWEEN y AND id AS b, x IS NULL AS c FROM a.t", "a:a.t.x,a.t.y b:a.t.id,a.t.x,a.t.y c:a.t.x"},
		{"SELECT TIMESTAMP_TRUNC(x, DAY) AS d, EXTRACT(HOUR FROM y) AS h, x - INTERVAL 30 MINUTE AS m FROM a.t", "d:a.t.x h:a.t.y m:a.t.x"},
		{"SELECT STRUCT(x AS p, y).p AS s, [x, id] AS l, JSON_VALUE(tags, '$.a') AS j FROM a.t", "s:a.t.x,a.t.y l:a.t.id,a.t.x j:a.t.tags"},
		{"SELECT t.tags.a.b AS v, tags.c AS w FROM a.t", "v:a.t.tags w:a.t.tags"},
		{"SELECT t FROM a.t AS t", "t:a.t.id,a.t.tags,a.t.x,a.t.y"},
		{"SELECT tag, o FROM a.t, UNNEST(tags) AS tag WITH OFFSET AS o", "tag:a.t.tags o: |a.t.tags"},
		// The comparison that the parser does not know, and text that looks like it.
		{"SELECT x IS NOT DISTINCT FROM y AS same, x IS DISTINCT\nFROM y AS other, 'IS DISTINCT FROM' AS text FROM a.t", "same:a.t.x,a.t.y other:a.t.x,a.t.y text:"},
		{"SELECT t.x FROM a.t AS t JOIN a.u AS u ON t.id IS NOT DISTINCT FROM u.id AND t.y = u.z", "x=a.t.x |a.t.id,a.t.y,a.u.id,a.u.z"},
		// Queries in expressions, which see the query around them.
		{"SELECT x FROM a.t AS t WHERE NOT EXISTS (SELECT 1 FROM a.u AS u WHERE u.id = t.id)", "x=a.t.x |a.t.id,a.u.id"},
		{"SELECT (SELECT MAX(z) FROM a.u WHERE a.u.id = t.id) AS m FROM a.t AS t", "error view.sql:1:38: a.u.id: there is no such column here"},
		{"SELECT (SELECT MAX(z) FROM a.u WHERE u.id = t.id) AS m FROM a.t AS t", "m:a.t.id,a.u.id,a.u.z"},
		{"SELECT x FROM a.t WHERE id IN (SELECT id FROM a.u WHERE z = 1)", "x=a.t.x |a.t.id,a.u.id,a.u.z"},
		{"SELECT ARRAY(SELECT AS STRUCT z, x FROM a.u) AS l FROM a.t", "l:a.u.x,a.u.z"},
		// What is not understood is told, with its place.
		{"SELECT q FROM a.t", "error view.sql:1:8: q: there is no such column here"},
		{"SELECT t.q FROM a.t", "error view.sql:1:8: t has no column q"},
		{"SELECT x\nFROM a.t, a.u", "error view.sql:1:8: x is a column of several tables here"},
		{"SELECT x\nFROM a.v", "error view.sql:2:6: there is no table a.v"},
		{"SELECT x FROM v", "error view.sql:1:15: there is no table v"},
		{"SELECT v.* FROM a.t", "error view.sql:1:8: there is no table v here"},
		{"SELECT * EXCEPT (q) FROM a.t", "error view.sql:1:18: there is no column q"},
		{"SELECT 1 AS a FROM a.t AS t, a.u AS t", "error view.sql:1:30: t names two tables"},
		{"SELECT x FROM a.t UNION ALL SELECT x, z FROM a.u", "error view.sql:1:29: 2 columns, and 1 before"},
		{"SELECT x FROM a.t GROUP BY 2", "error view.sql:1:28: there is no column 2"},
		{"SELECT @p AS p FROM a.t", "error view.sql:1:8: @p: lineage does not follow a *ast.Param"},
		{"SELECT ARRAY_TRANSFORM(tags, e -> e + 1) AS l FROM a.t", "error view.sql:1:30: e -> e + 1: lineage does not follow a *ast.LambdaArg"},
		{"SELECT x FROM f(1)", "error view.sql:1:15: f(1): lineage does not follow a *ast.TVFCallExpr"},
		{"FROM a.t |> WHERE x > 1", "error view.sql:1:10: |> WHERE x > 1: lineage does not follow a *ast.PipeWhere"},
		{"SELECT x, ROW_NUMBER() OVER (ORDER BY x) AS n FROM a.t", `error read query: syntax error: view.sql:1:24`},
		{"SELECT x FROM a.t QUALIFY TRUE", `error read query: syntax error: view.sql:1:27`},
		{"SELECT 'x", `error read query: syntax error: view.sql:1:8`},
	} {
		answer, err := query(test.sql)
		if err != nil {
			if want, ok := strings.CutPrefix(test.want, "error "); !ok || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s\ngives the error %v\nwant %s", test.sql, err, test.want)
			}
			continue
		}
		if got := write(answer); got != test.want {
			t.Errorf("%s\ngives %s\nwant  %s", test.sql, got, test.want)
		}
	}
}

func write(a *lineage.Answer) string {
	var parts []string
	for _, c := range a.Columns {
		if c.Same != (lineage.Column{}) {
			parts = append(parts, c.Name+"="+c.Same.String())
		} else {
			parts = append(parts, c.Name+":"+columns(c.From))
		}
	}
	if len(a.Rows) > 0 {
		parts = append(parts, "|"+columns(a.Rows))
	}
	return strings.Join(parts, " ")
}

func columns(all []lineage.Column) string {
	var names []string
	for _, c := range all {
		names = append(names, c.String())
	}
	return strings.Join(names, ",")
}

// A column leads back to what nothing else is made of, and on to all that is
// made of it.
func TestThroughTheProducts(t *testing.T) {
	g, err := lineage.New(load(t))
	if err != nil {
		t.Fatal(err)
	}
	of := lineage.Column{Table: "iot_analytics.co2_with_actions", Name: "co2_at_action"}
	want := []lineage.Column{{Table: "iot_actions.actions", Name: "action_id"}, {Table: "iot_telemetry.readings", Name: "value"}}
	if diff := cmp.Diff(want, g.Origins(of)); diff != "" {
		t.Errorf("origins of %s (-want +got):\n%s", of, diff)
	}
	if got := g.Origins(want[1]); got != nil {
		t.Errorf("origins of %s: %v, want none", want[1], got)
	}
	uses := g.Uses(lineage.Column{Table: "iot_analytics.readings", Name: "outside_co2"})
	for _, name := range []string{"above_outside", "outside_co2"} {
		if !slices.Contains(uses, lineage.Use{Column: lineage.Column{Table: "iot_analytics.co2_evolution", Name: name}}) {
			t.Errorf("uses of outside_co2 lack %s: %v", name, uses)
		}
	}
	if uses := g.Uses(lineage.Column{Table: "iot_analytics.readings", Name: "metric"}); !slices.Contains(uses, lineage.Use{Column: lineage.Column{Table: "iot_analytics.co2_evolution"}, Rows: true}) {
		t.Errorf("uses of metric: %v", uses)
	}
	readers := g.Readers("iot_actions.actions")
	for _, name := range []string{"iot_analytics.actions_timeline", "iot_analytics.co2_with_actions", "iot_analytics.readings"} {
		if !slices.Contains(readers, name) {
			t.Errorf("readers of actions lack %s: %v", name, readers)
		}
	}
	if slices.Contains(readers, "iot_analytics.co2_evolution") {
		t.Errorf("readers of actions: %v", readers)
	}
}

func TestViewsOfViews(t *testing.T) {
	product := func(views ...contract.View) []contract.Product {
		return []contract.Product{{Schema: "a", Tables: []contract.Table{{Schema: "a", Name: "t", Columns: []contract.Column{{Name: "x"}}}}, Views: views}}
	}
	// Whatever their order is.
	g, err := lineage.New(product(
		contract.View{Schema: "a", Name: "first", SQL: "SELECT y FROM a.second"}, contract.View{Schema: "a", Name: "second", SQL: "SELECT x AS y FROM a.t"},
	))
	if err != nil {
		t.Fatal(err)
	}
	if got := g.Node("a.first").Column("y").Same; got != (lineage.Column{Table: "a.second", Name: "y"}) {
		t.Errorf("y of a.first is %v", got)
	}
	for name, test := range map[string]struct {
		views []contract.View
		want  string
	}{
		"circle":                    {[]contract.View{{Schema: "a", Name: "v", SQL: "SELECT x FROM a.w"}, {Schema: "a", Name: "w", SQL: "SELECT x FROM a.v"}}, "view a.v is made of itself"},
		"column without a name":     {[]contract.View{{Schema: "a", Name: "v", SQL: "SELECT x, x + 1 FROM a.t"}}, "view a.v: column 2 has no name"},
		"view of one that is wrong": {[]contract.View{{Schema: "a", Name: "v", SQL: "SELECT x FROM a.w"}, {Schema: "a", Name: "w", SQL: "SELECT\n z FROM a.t"}}, "a.w:2:2: z: there is no such column here"},
	} {
		if _, err := lineage.New(product(test.views...)); err == nil || err.Error() != test.want {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	bad := product()
	bad[0].Tables[0].Columns[0].Sources = []string{"nothing"}
	if _, err := lineage.New(bad); err == nil || !strings.Contains(err.Error(), `column x: "nothing"`) {
		t.Errorf("a source that is no column: %v", err)
	}
}

func TestTables(t *testing.T) {
	for sql, want := range map[string]string{
		"SELECT 1": "",
		"SELECT 'FROM a.b' FROM iot_telemetry.readings -- JOIN c.d":                                                 "iot_telemetry.readings",
		"WITH r AS (SELECT * FROM A.B) SELECT * FROM r JOIN `project.c.d` USING (x) WHERE y IN (SELECT z FROM e.f)": "a.b c.d e.f",
		"SELECT * FROM a.b UNION ALL SELECT * FROM a.b WHERE x IS NOT DISTINCT FROM y":                              "a.b",
	} {
		got, err := lineage.Tables(sql)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("Tables(%s) = %v, %v, want %s", sql, got, err, want)
		}
	}
	if _, err := lineage.Tables("FROM a.b SELECT"); err == nil {
		t.Error("what is no query has tables")
	}
}
