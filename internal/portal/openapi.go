package portal

import (
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/access"
)

// api describes routes for programs, by pattern. It stands with the routes of an
// area and is one of apis; a test sees that each route below /api/ is described.
type api map[string]operation

// apis is what /api/openapi.json is made of.
var apis = []api{userAPI, airAPI, liveAPI, meshAPI}

// operation describes a route for programs.
type operation struct {
	Summary string // one line
	Query   []parameter
	Body    any // zero value of what is sent; nil: nothing is
	Status  int // of the answer; 0: 200
	Answer  any // zero value of what is answered; nil: nothing is
	// Media is the type of an answer that is no JSON, such as text/csv.
	Media string
	// Errors are the statuses of answers that say what was wrong, besides those that
	// follow from who may ask.
	Errors []int
}

// parameter is one of the query.
type parameter struct {
	Name, Description string
	Required          bool
	Enum              []string // nil: any text
}

var pathParameter = regexp.MustCompile(`\{(\w+)(?:\.\.\.)?\}`)

// openAPI describes the routes for programs. https://spec.openapis.org/oas/v3.1.0.html
func (p *Portal) openAPI(w http.ResponseWriter, _ *http.Request, _ access.Viewer) error {
	return answer(w, http.StatusOK, p.description())
}

func (p *Portal) description() map[string]any {
	described := api{}
	for _, part := range apis {
		for pattern, op := range part {
			described[pattern] = op
		}
	}
	paths, schemas := map[string]any{}, &schemas{map[string]any{}, map[string]reflect.Type{}}
	for _, each := range p.routes() {
		method, path, _ := strings.Cut(each.pattern, " ")
		if !strings.HasPrefix(path, "/api/") {
			continue
		}
		op, ok := described[each.pattern]
		if !ok {
			continue
		}
		path = pathParameter.ReplaceAllString(path, "{$1}")
		methods, _ := paths[path].(map[string]any)
		if methods == nil {
			methods = map[string]any{}
			paths[path] = methods
		}
		methods[strings.ToLower(method)] = op.describe(each, schemas)
	}
	schemas.named["Problem"] = schemas.of(reflect.TypeFor[struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}]())
	return map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "Telemesh portal", "version": "1",
			"description": "What the pages of the portal do, for programs: the same rules say who may ask for what. A program gets a token by POST /api/token.",
		},
		"servers": []any{map[string]any{"url": "/"}},
		"paths":   paths,
		"components": map[string]any{
			"schemas": schemas.named,
			"securitySchemes": map[string]any{
				"token":   map[string]any{"type": "http", "scheme": "bearer"},
				"session": map[string]any{"type": "apiKey", "in": "cookie", "name": cookieName("telemesh", p.secure)},
			},
		},
	}
}

// describe gives the operation as an OpenAPI document has it.
func (op operation) describe(of route, schemas *schemas) map[string]any {
	responses := map[string]any{}
	status := op.Status
	if status == 0 {
		status = http.StatusOK
	}
	good := map[string]any{"description": http.StatusText(status)}
	switch {
	case op.Media != "":
		good["content"] = map[string]any{op.Media: map[string]any{}}
	case op.Answer != nil:
		good["content"] = map[string]any{"application/json": map[string]any{"schema": schemas.of(reflect.TypeOf(op.Answer))}}
	}
	responses[strconv.Itoa(status)] = good
	errors := append([]int{http.StatusInternalServerError}, op.Errors...)
	if of.who != anyone {
		errors = append(errors, http.StatusUnauthorized)
	}
	if of.who == team || of.who == admins {
		errors = append(errors, http.StatusForbidden)
	}
	for _, status := range errors {
		responses[strconv.Itoa(status)] = map[string]any{
			"description": http.StatusText(status),
			"content":     map[string]any{"application/problem+json": map[string]any{"schema": reference("Problem")}},
		}
	}
	out := map[string]any{"summary": op.Summary, "responses": responses}
	if of.who == anyone {
		out["security"] = []any{}
	} else {
		out["security"] = []any{map[string]any{"token": []any{}}, map[string]any{"session": []any{}}}
		out["description"] = map[who]string{
			signedIn: "For every user.", team: "For the roles admin and analyst.", admins: "For the role admin.",
		}[of.who]
	}
	var parameters []any
	for _, match := range pathParameter.FindAllStringSubmatch(of.pattern, -1) {
		parameters = append(parameters, map[string]any{"name": match[1], "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
	}
	for _, q := range op.Query {
		schema := map[string]any{"type": "string"}
		if q.Enum != nil {
			schema["enum"] = q.Enum
		}
		parameters = append(parameters, map[string]any{"name": q.Name, "in": "query", "description": q.Description, "required": q.Required, "schema": schema})
	}
	if parameters != nil {
		out["parameters"] = parameters
	}
	if op.Body != nil {
		out["requestBody"] = map[string]any{"required": true, "content": map[string]any{
			"application/json": map[string]any{"schema": schemas.of(reflect.TypeOf(op.Body))},
		}}
	}
	return out
}

// schemas are the named types of a description.
type schemas struct {
	named map[string]any
	types map[string]reflect.Type // that have the names
}

func reference(name string) map[string]any {
	return map[string]any{"$ref": "#/components/schemas/" + name}
}

// of gives the JSON Schema of what encoding/json makes of a type. A struct with a
// name is among the schemas under it; the tag description of a field is taken over.
func (all *schemas) of(t reflect.Type) map[string]any {
	switch t {
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case reflect.TypeFor[access.Role]():
		return map[string]any{"type": "string", "enum": roles}
	}
	switch t.Kind() {
	case reflect.Pointer:
		inner := all.of(t.Elem())
		return map[string]any{"anyOf": []any{inner, map[string]any{"type": "null"}}}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Interface:
		return map[string]any{}
	case reflect.Slice, reflect.Array:
		return map[string]any{"type": []string{"array", "null"}, "items": all.of(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": []string{"object", "null"}, "additionalProperties": all.of(t.Elem())}
	case reflect.Struct:
		return all.structure(t)
	}
	if t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64 {
		return map[string]any{"type": "integer"}
	}
	panic(fmt.Sprintf("no schema of a %s", t)) // found by the test of the description
}

func (all *schemas) structure(t reflect.Type) map[string]any {
	name := t.Name()
	if name != "" {
		name = strings.ToUpper(name[:1]) + name[1:]
		switch all.types[name] {
		case t:
			return reference(name)
		case nil:
			all.types[name] = t // also for one that holds itself
		default:
			panic(fmt.Sprintf("%s and %s have one name in the description", t, all.types[name])) // found by its test
		}
	}
	properties, required := map[string]any{}, []string{}
	for _, f := range reflect.VisibleFields(t) {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || f.Anonymous || tag == "-" {
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		schema := all.of(f.Type)
		if d := f.Tag.Get("description"); d != "" {
			schema["description"] = d
		}
		properties[tag] = schema
		if !strings.Contains(options, "omit") {
			required = append(required, tag)
		}
	}
	out := map[string]any{"type": "object", "properties": properties}
	if len(required) > 0 {
		out["required"] = required
	}
	if name == "" {
		return out
	}
	all.named[name] = out
	return reference(name)
}
