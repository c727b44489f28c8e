// Package analyse reads SQL as BigQuery does, without BigQuery: with the parser
// and the resolver of GoogleSQL, against a catalog of tables and views. A
// statement that it takes has the syntax, names, functions and types that
// GoogleSQL asks for.
//
// It enables what BigQuery documents of GoogleSQL and what statements use here,
// and nothing else: a statement that needs more is an error until the feature is
// looked up and added to features. It runs nothing, and knows nothing of limits,
// access, partitions, nor that names of datasets and tables are case-sensitive
// in BigQuery.
package analyse

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cloud.google.com/go/bigquery"
	"github.com/goccy/go-googlesql"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// features of GoogleSQL that BigQuery documents in its reference of query
// syntax, functions, lexical structure, scripts and data manipulation.
var features = []googlesql.LanguageFeature{
	googlesql.LanguageFeatureFeatureAnalyticFunctions,
	googlesql.LanguageFeatureFeatureQualify,
	googlesql.LanguageFeatureFeatureGroupByAll,
	googlesql.LanguageFeatureFeatureHavingInAggregate, // ANY_VALUE(x HAVING MAX y)
	googlesql.LanguageFeatureFeatureOrderByInAggregate,
	googlesql.LanguageFeatureFeatureLimitInAggregate,
	googlesql.LanguageFeatureFeatureNullHandlingModifierInAggregate,
	googlesql.LanguageFeatureFeatureNullHandlingModifierInAnalytic,
	googlesql.LanguageFeatureFeatureSelectStarExceptReplace,
	googlesql.LanguageFeatureFeatureWithOnSubquery,
	googlesql.LanguageFeatureFeatureNullsFirstLastInOrderBy,
	googlesql.LanguageFeatureFeatureIsDistinct,
	googlesql.LanguageFeatureFeatureSafeFunctionCall,
	googlesql.LanguageFeatureFeatureJsonType,
	googlesql.LanguageFeatureFeatureJsonValueExtractionFunctions,
	googlesql.LanguageFeatureFeatureNumericType,
	googlesql.LanguageFeatureFeatureBignumericType,
	googlesql.LanguageFeatureFeatureCivilTime,
	googlesql.LanguageFeatureFeatureIntervalType,
	googlesql.LanguageFeatureFeatureDateArithmetics,
	googlesql.LanguageFeatureFeatureExtendedDateTimeSignatures,
	googlesql.LanguageFeatureFeatureAdditionalStringFunctions, // STARTS_WITH is older; CHR, LEFT, INSTR
	googlesql.LanguageFeatureFeatureAllowDashesInTableName,
	googlesql.LanguageFeatureFeatureDmlUpdateWithJoin, // UPDATE … FROM
}

// Catalog is what statements may name. It is for one goroutine.
type Catalog struct {
	project  string
	root     *googlesql.SimpleCatalog
	datasets map[string]*googlesql.SimpleCatalog
	options  *googlesql.AnalyzerOptions
	types    *googlesql.TypeFactory
	// keep holds what the engine points to: it frees what Go forgets.
	keep []any
}

// Of gives a catalog of what the products are in a project. The queries of their
// views are analysed on the way; an error names all that are refused.
func Of(project string, products []contract.Product) (*Catalog, error) {
	datasets, err := schema.Of(project, products)
	if err != nil {
		return nil, err
	}
	c, err := New(project)
	if err != nil {
		return nil, err
	}
	var refused []error
	for _, d := range datasets {
		for _, o := range d.Objects {
			if o.Metadata.ViewQuery != "" {
				_, err = c.AddView(o.Dataset, o.Name, o.Metadata.ViewQuery)
			} else {
				err = c.addFields(o.Dataset, o.Name, o.Metadata.Schema)
			}
			refused = append(refused, err)
		}
	}
	return c, errors.Join(refused...)
}

// New gives an empty catalog of a project.
func New(project string) (*Catalog, error) {
	if err := googlesql.Init(); err != nil {
		return nil, fmt.Errorf("start the engine of GoogleSQL: %w", err)
	}
	c := &Catalog{project: project, datasets: map[string]*googlesql.SimpleCatalog{}}
	language, err := googlesql.NewLanguageOptions()
	if err != nil {
		return nil, err
	}
	c.keep = append(c.keep, language)
	for _, feature := range features {
		if err := language.EnableLanguageFeature(feature); err != nil {
			return nil, fmt.Errorf("enable %v: %w", feature, err)
		}
	}
	if c.types, err = googlesql.NewTypeFactory(); err != nil {
		return nil, err
	}
	if c.root, err = googlesql.NewSimpleCatalog("bigquery", c.types); err != nil {
		return nil, err
	}
	if c.options, err = googlesql.NewAnalyzerOptions2(); err != nil {
		return nil, err
	}
	return c, errors.Join(
		// External: without the types that only Google's own systems have.
		language.SetProductMode(googlesql.ProductModeProductExternal),
		language.SetNameResolutionMode(googlesql.NameResolutionModeNameResolutionDefault),
		language.SetSupportsAllStatementKinds(),
		language.EnableReservableKeyword("QUALIFY", true), // it is reserved in BigQuery
		c.root.AddBuiltinFunctionsAndTypes(&googlesql.BuiltinFunctionOptions{LanguageOptions: language}),
		c.options.SetLanguage(language),
		c.options.SetAllowUndeclaredParameters(true), // @name is of the type that its place asks for
		c.options.SetErrorMessageMode(googlesql.ErrorMessageModeErrorMessageMultiLineWithCaret),
	)
}

// AddJobs makes INFORMATION_SCHEMA.JOBS of the project in a region known: of its columns
// those that statements use, as the documentation has them.
// https://cloud.google.com/bigquery/docs/information-schema-jobs
func (c *Catalog) AddJobs(region string) error {
	text, err := c.types.GetString()
	if err != nil {
		return err
	}
	record := func(names ...string) (googlesql.Googlesql_TypeNode, error) {
		var fields []*googlesql.StructField
		for _, name := range names {
			fields = append(fields, &googlesql.StructField{Name: name, Type_: text})
		}
		return c.types.MakeStructType2(fields)
	}
	failure, err := record("reason", "location", "debug_info", "message")
	if err != nil {
		return err
	}
	referenced, err := record("project_id", "dataset_id", "table_id")
	if err != nil {
		return err
	}
	if referenced, err = c.types.MakeArrayType2(referenced); err != nil {
		return err
	}
	instant, err := c.types.GetTimestamp()
	if err != nil {
		return err
	}
	flag, err := c.types.GetBool()
	if err != nil {
		return err
	}
	path := c.project + "." + region + ".INFORMATION_SCHEMA.JOBS"
	table, err := googlesql.NewSimpleTable(path, 0)
	if err != nil {
		return err
	}
	c.keep = append(c.keep, table)
	for name, of := range map[string]googlesql.Googlesql_TypeNode{"creation_time": instant, "end_time": instant, "job_id": text, "job_type": text, "statement_type": text,
		"state": text, "user_email": text, "cache_hit": flag, "error_result": failure, "referenced_tables": referenced} {
		column, err := googlesql.NewSimpleColumn(path, name, of, false, true)
		if err != nil {
			return err
		}
		c.keep = append(c.keep, column)
		if err := table.AddColumn2(column, false); err != nil {
			return err
		}
	}
	return c.root.AddTable2(path, table)
}

// AddTable makes a table, dataset.name, known.
func (c *Catalog) AddTable(dataset, name string, columns []contract.Column) error {
	table, err := googlesql.NewSimpleTable(name, 0)
	if err != nil {
		return fmt.Errorf("table %s.%s: %w", dataset, name, err)
	}
	c.keep = append(c.keep, table)
	for _, column := range columns {
		if err := c.addColumn(table, name, column); err != nil {
			return fmt.Errorf("table %s.%s: column %s: %w", dataset, name, column.Name, err)
		}
	}
	in := c.datasets[dataset]
	if in == nil {
		if in, err = googlesql.NewSimpleCatalog(dataset, c.types); err != nil {
			return fmt.Errorf("dataset %s: %w", dataset, err)
		}
		c.datasets[dataset] = in
		if err := c.root.AddCatalog(in); err != nil {
			return fmt.Errorf("dataset %s: %w", dataset, err)
		}
	}
	// BigQuery takes a path in one pair of backticks too, where GoogleSQL sees a
	// single name.
	path := dataset + "." + name
	if err := errors.Join(in.AddTable(table), c.root.AddTable2(path, table), c.root.AddTable2(c.project+"."+path, table)); err != nil {
		return fmt.Errorf("table %s: %w", path, err)
	}
	return nil
}

func (c *Catalog) addFields(dataset, name string, fields bigquery.Schema) error {
	types := map[bigquery.FieldType]contract.Type{
		bigquery.StringFieldType: contract.String, bigquery.FloatFieldType: contract.Float64, bigquery.IntegerFieldType: contract.Int64,
		bigquery.BooleanFieldType: contract.Bool, bigquery.TimestampFieldType: contract.Timestamp, bigquery.JSONFieldType: contract.JSON,
	}
	var columns []contract.Column
	for _, f := range fields {
		columns = append(columns, contract.Column{Name: f.Name, Type: types[f.Type]})
	}
	return c.AddTable(dataset, name, columns)
}

func (c *Catalog) addColumn(table *googlesql.SimpleTable, name string, column contract.Column) error {
	t, err := c.typeOf(column.Type)
	if err != nil {
		return err
	}
	added, err := googlesql.NewSimpleColumn(name, column.Name, t, false, true)
	if err != nil {
		return err
	}
	c.keep = append(c.keep, added)
	return table.AddColumn2(added, false)
}

func (c *Catalog) typeOf(t contract.Type) (googlesql.Googlesql_TypeNode, error) {
	switch t {
	case contract.String:
		return c.types.GetString()
	case contract.Float64:
		return c.types.GetDouble()
	case contract.Int64:
		return c.types.GetInt64()
	case contract.Bool:
		return c.types.GetBool()
	case contract.Timestamp:
		return c.types.GetTimestamp()
	case contract.JSON:
		return c.types.GetJson()
	}
	return nil, fmt.Errorf("no type %q", t)
}

// AddView analyses the query of a view and makes the view known.
func (c *Catalog) AddView(dataset, name, sql string) ([]contract.Column, error) {
	columns, err := c.Query(sql)
	if err != nil {
		return nil, fmt.Errorf("view %s.%s: %w", dataset, name, err)
	}
	for i, column := range columns {
		if strings.HasPrefix(column.Name, "$") {
			return nil, fmt.Errorf("view %s.%s: column %d has no name", dataset, name, i+1)
		}
	}
	return columns, c.AddTable(dataset, name, columns)
}

// Query analyses one statement that must be a query, and gives its columns. The
// name of one that has none begins with $.
func (c *Catalog) Query(sql string) ([]contract.Column, error) {
	out, err := googlesql.AnalyzeStatement(sql, c.options, c.root, c.types)
	if err != nil {
		return nil, err
	}
	statement, err := out.ResolvedStatement()
	if err != nil {
		return nil, err
	}
	query, ok := statement.(*googlesql.ResolvedQueryStmt)
	if !ok {
		return nil, fmt.Errorf("a %T is no query", statement)
	}
	if err := checkJoins(query); err != nil {
		return nil, err
	}
	list, err := query.OutputColumnList()
	if err != nil {
		return nil, err
	}
	columns := make([]contract.Column, len(list))
	for i, one := range list {
		if columns[i], err = describe(one); err != nil {
			return nil, fmt.Errorf("column %d: %w", i+1, err)
		}
		// GoogleSQL allows it; BigQuery's answers have no place for it.
		if slices.ContainsFunc(columns[:i], func(c contract.Column) bool { return strings.EqualFold(c.Name, columns[i].Name) }) {
			return nil, fmt.Errorf("duplicate column name %s", columns[i].Name)
		}
	}
	return columns, nil
}

// checkJoins refuses outer joins that BigQuery does not run: LEFT OUTER JOIN
// cannot be used without a condition that is an equality of fields from both
// sides of the join.
func checkJoins(query *googlesql.ResolvedQueryStmt) error {
	joins, err := query.GetDescendantsWithKinds([]googlesql.ResolvedNodeKind{googlesql.ResolvedNodeKindResolvedJoinScan})
	if err != nil {
		return err
	}
	for _, node := range joins {
		join, ok := node.(*googlesql.ResolvedJoinScan)
		if !ok {
			return fmt.Errorf("a join is a %T", node)
		}
		kind, err := join.JoinType()
		if err != nil {
			return err
		}
		if kind == googlesql.ResolvedJoinScanEnums_JoinTypeInner {
			continue
		}
		condition, err := join.JoinExpr()
		if err != nil {
			return err
		}
		if equal, err := hasEquality(condition); err != nil {
			return err
		} else if !equal {
			return errors.New("an outer join without an equality of fields from both sides")
		}
	}
	return nil
}

// hasEquality says whether a condition is an equality, or one and others.
func hasEquality(condition googlesql.ResolvedExprNode) (bool, error) {
	call, ok := condition.(*googlesql.ResolvedFunctionCall)
	if !ok {
		return false, nil
	}
	function, err := call.Function()
	if err != nil {
		return false, err
	}
	name, err := function.Name()
	if err != nil || name == "$equal" || name != "$and" {
		return name == "$equal", err
	}
	parts, err := call.ArgumentList()
	if err != nil {
		return false, err
	}
	for _, part := range parts {
		if equal, err := hasEquality(part); equal || err != nil {
			return equal, err
		}
	}
	return false, nil
}

// describe gives the name and type of a column of an answer.
func describe(out *googlesql.ResolvedOutputColumn) (c contract.Column, err error) {
	if c.Name, err = out.Name(); err != nil {
		return c, err
	}
	column, err := out.Column()
	if err != nil {
		return c, err
	}
	t, err := column.Type()
	if err != nil {
		return c, err
	}
	kind, err := t.Kind()
	if err != nil {
		return c, err
	}
	var known bool
	if c.Type, known = kinds[kind]; !known {
		return c, fmt.Errorf("%s: the type %v is no column's", c.Name, kind)
	}
	return c, nil
}

var kinds = map[googlesql.TypeKind]contract.Type{
	googlesql.TypeKindTypeString:    contract.String,
	googlesql.TypeKindTypeDouble:    contract.Float64,
	googlesql.TypeKindTypeInt64:     contract.Int64,
	googlesql.TypeKindTypeBool:      contract.Bool,
	googlesql.TypeKindTypeTimestamp: contract.Timestamp,
	googlesql.TypeKindTypeJson:      contract.JSON,
}

// Script analyses statements that are separated by semicolons, each by itself,
// and gives how many there are. It knows no variables.
func (c *Catalog) Script(sql string) (n int, err error) {
	at, err := googlesql.NewParseResumeLocationFromString(sql)
	if err != nil {
		return 0, err
	}
	for {
		begin, err := at.BytePosition()
		if err != nil {
			return n, err
		}
		if strings.TrimSpace(sql[begin:]) == "" {
			return n, nil
		}
		if _, err := googlesql.AnalyzeNextStatement(at, c.options, c.root, c.types); err != nil {
			return n, fmt.Errorf("statement %d: %w", n+1, err)
		}
		n++
	}
}
