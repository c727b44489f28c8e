package lineage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cloudspannerecosystem/memefish"
	"github.com/cloudspannerecosystem/memefish/ast"

	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Tables gives the tables that a query in GoogleSQL names, as SCHEMA.TABLE and in
// lower case, each once and ordered. A name of one part, as one of WITH, is none;
// of a name with a project the last two parts count.
func Tables(sql string) ([]string, error) {
	sql, err := readable("query", sql)
	if err != nil {
		return nil, err
	}
	statement, err := memefish.ParseQuery("query", sql)
	if err != nil {
		return nil, fmt.Errorf("read query: %w", err)
	}
	var tables []string
	add := func(idents ...*ast.Ident) {
		var parts []string
		for _, ident := range idents {
			parts = append(parts, strings.Split(strings.ToLower(ident.Name), ".")...)
		}
		if len(parts) >= 2 {
			tables = append(tables, strings.Join(parts[len(parts)-2:], "."))
		}
	}
	ast.Inspect(statement, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.TableName:
			add(n.Table)
		case *ast.PathTableExpr:
			add(n.Path.Idents...)
		}
		return true
	})
	slices.Sort(tables)
	return slices.Compact(tables), nil
}

// Named gives the Tables of a statement that a warehouse ran; of one that is not
// GoogleSQL as it is read here, those that DuckDB's own parser finds. nil: neither
// knows.
func Named(ctx context.Context, query func(context.Context, string) (*warehouse.Rows, error), sql string) []string {
	if tables, err := Tables(sql); err == nil {
		return tables
	}
	// https://duckdb.org/docs/stable/data/json/sql_to_and_from_json
	rows, err := query(ctx, "SELECT CAST(json_serialize_sql("+literal.Text(sql)+") AS VARCHAR)")
	if err != nil {
		return nil
	}
	var tables []string
	for row, err := range rows.All {
		if err != nil {
			return nil
		}
		text, _ := row[0].(string)
		var tree any
		if json.Unmarshal([]byte(text), &tree) == nil {
			tables = named(tree, tables)
		}
	}
	slices.Sort(tables)
	return slices.Compact(tables)
}

// named adds the tables of a tree that DuckDB made of a statement.
func named(tree any, tables []string) []string {
	switch node := tree.(type) {
	case map[string]any:
		schema, _ := node["schema_name"].(string)
		name, _ := node["table_name"].(string)
		if node["type"] == "BASE_TABLE" && schema != "" {
			tables = append(tables, strings.ToLower(schema+"."+name))
		}
		for _, child := range node {
			tables = named(child, tables)
		}
	case []any:
		for _, child := range node {
			tables = named(child, tables)
		}
	}
	return tables
}
