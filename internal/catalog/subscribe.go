package catalog

import (
	"fmt"
	"strings"

	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// SQL is a query on a table or a view that runs in both warehouses, for the rows
// of a tenant; empty: of all.
func (p *Port) SQL(tenant string) string {
	if p.Kind == Event {
		return ""
	}
	lines := []string{" "}
	for i, c := range p.Columns {
		name := c.Name
		if i < len(p.Columns)-1 {
			name += ","
		}
		if last := &lines[len(lines)-1]; len(*last)+len(name) < lineLength {
			*last += " " + name
		} else {
			lines = append(lines, "  "+name)
		}
	}
	var where []string
	if p.Owned != "" && tenant != "" {
		where = append(where, p.Owned+" = "+literal.Text(tenant))
	}
	if at := p.Time(); at != "" {
		where = append(where, at+" >= CURRENT_TIMESTAMP - INTERVAL 1 DAY")
	}
	sql := "SELECT\n" + strings.Join(lines, "\n") + "\nFROM " + p.Name
	if len(where) > 0 {
		sql += "\nWHERE " + strings.Join(where, "\n  AND ")
	}
	if at := p.Time(); at != "" {
		sql += "\nORDER BY " + at + " DESC"
	}
	return sql + "\nLIMIT 1000"
}

const lineLength = 90 // of a query

// Subscription is a Trigger of a name, as YAML, that brings the events of a port to a
// Service from one of the port's Brokers. Where events say whose they are it
// takes those of the tenant, if one is named; else of all.
func (p *Port) Subscription(trigger string, broker topology.Ref, tenant string, service topology.Ref) string {
	if p.Kind != Event {
		return ""
	}
	filter := "        type: " + p.Name + "\n"
	if p.Port.Tenant != "" && tenant != "" {
		filter += fmt.Sprintf("        %s: %q\n", p.Port.Tenant, tenant)
	}
	elsewhere := ""
	if service.Namespace != broker.Namespace {
		elsewhere = "      namespace: " + service.Namespace + "\n"
	}
	return fmt.Sprintf(`apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata:
  name: %[6]s
  namespace: %[1]s
spec:
  broker: %[2]s
  filters:
    - exact:
%[4]s  delivery:
    retry: 10
    backoffPolicy: exponential
    backoffDelay: PT0.2S
    deadLetterSink:
      ref:
        apiVersion: serving.knative.dev/v1
        kind: Service
        name: dead-letter-sink
        namespace: platform
      uri: /%[1]s/%[6]s
  subscriber:
    ref:
      apiVersion: serving.knative.dev/v1
      kind: Service
      name: %[3]s
%[5]s`, broker.Namespace, broker.Name, service.Name, filter, elsewhere, trigger)
}

// Grant is the SQL that opens the port, a view of BigQuery, to a member: user:…,
// group:… or serviceAccount:…. It opens this port alone, and no row: whose rows a
// member sees is said to telemesh apply.
func (p *Port) Grant(project, member string) string {
	if p.Kind == Event {
		return ""
	}
	name := p.Name
	if project != "" {
		name = project + "." + name
	}
	return fmt.Sprintf("GRANT `roles/bigquery.dataViewer`\nON VIEW `%s`\nTO %q;\n", name, member)
}
