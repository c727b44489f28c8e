package main

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/products"
)

// ports are the tables and views that readers of BigQuery reach.
func ports(t *testing.T) (names []string) {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		for _, table := range p.Tables {
			if table.Schema == p.Schema {
				names = append(names, table.FullName())
			}
		}
		for _, v := range p.Views {
			names = append(names, v.Schema+"."+v.Name)
		}
	}
	return names
}

func TestDashboardsNameTheViews(t *testing.T) {
	const project = "example.com:acme-air"
	for _, report := range []string{"", "a/b c&d=e"} {
		out := telemesh(t, "dashboards", "--project", project, "--report-id", report)
		if !strings.HasSuffix(out, credentials) {
			t.Errorf("dashboards --report-id %q does not warn of the owner's credentials:\n%s", report, out)
		}
		var views []string
		for _, line := range strings.Split(out, "\n") {
			if !strings.HasPrefix(line, "https:") {
				continue
			}
			u, err := url.Parse(line)
			if err != nil {
				t.Fatal(err)
			}
			if got := u.Scheme + "://" + u.Host + u.Path; got != "https://lookerstudio.google.com/reporting/create" {
				t.Errorf("address of %s", got)
			}
			query := u.Query()
			if got := query.Get("c.reportId"); got != report {
				t.Errorf("c.reportId = %q, want %q", got, report)
			}
			query.Del("c.reportId")
			for key := range query {
				alias, ok := strings.CutSuffix(strings.TrimPrefix(key, "ds."), ".tableId")
				if !ok {
					continue
				}
				want := map[string]string{"connector": "bigQuery", "type": "TABLE", "projectId": project, "datasetId": "iot_analytics", "tableId": alias}
				got := map[string]string{}
				for name := range want {
					got[name] = query.Get("ds." + alias + "." + name)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("data source %s (-want +got):\n%s", alias, diff)
				}
				views = append(views, got["datasetId"]+"."+got["tableId"])
			}
			if len(query)%5 != 0 {
				t.Errorf("parameters that are of no data source: %v", query)
			}
		}
		slices.Sort(views)
		if diff := cmp.Diff([]string{"iot_analytics.actions_placed", "iot_analytics.actions_timeline", "iot_analytics.co2_evolution",
			"iot_analytics.co2_with_actions", "iot_analytics.readings_hourly"}, views); diff != "" {
			t.Errorf("views (-want +got):\n%s", diff)
		}
		for _, v := range views {
			if !slices.Contains(ports(t), v) {
				t.Errorf("%s is no output port", v)
			}
		}
	}
}

// What its statements say is analysed as GoogleSQL in hack/e2e.
func TestGrafanaDashboardReadsOutputPorts(t *testing.T) {
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ RawSQL string }
		}
		Annotations struct {
			List []struct{ Target struct{ RawSQL string } }
		}
		Templating struct {
			List []struct {
				Name    string
				Query   any
				Current struct{ Value any }
			}
		}
	}
	if err := json.Unmarshal([]byte(telemesh(t, "dashboards", "--grafana", "--project", "acme-air")), &dashboard); err != nil {
		t.Fatal(err)
	}
	var names, statements []string
	for _, v := range dashboard.Templating.List {
		names = append(names, v.Name)
		if v.Name == "project" && (v.Query != "acme-air" || v.Current.Value != "acme-air") {
			t.Errorf("variable project = %v, %v, want acme-air", v.Query, v.Current.Value)
		}
		if query, ok := v.Query.(map[string]any); ok {
			statements = append(statements, query["rawSql"].(string))
		}
	}
	if diff := cmp.Diff([]string{"datasource", "project", "tenant", "building", "room"}, names); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			statements = append(statements, target.RawSQL)
		}
	}
	for _, a := range dashboard.Annotations.List {
		statements = append(statements, a.Target.RawSQL)
	}
	if len(dashboard.Panels) != 4 || len(dashboard.Annotations.List) != 1 || len(statements) != 9 {
		t.Errorf("%d panels, %d annotations, %d statements, want 4, 1 and 9", len(dashboard.Panels), len(dashboard.Annotations.List), len(statements))
	}
	for _, sql := range statements {
		_, from, _ := strings.Cut(sql, "FROM `${project}.")
		name, _, _ := strings.Cut(from, "`")
		if !slices.Contains(ports(t), name) {
			t.Errorf("%q is no output port, in:\n%s", name, sql)
		}
		if !strings.Contains(sql, "$__timeFilter(") {
			t.Errorf("the time that is shown does not bound what is read by:\n%s", sql)
		}
	}
}

// Who shows a dashboard has to know whose rows it shows: from the command, and
// where the dashboard came without it.
func TestGrafanaDashboardWarns(t *testing.T) {
	cmd := root()
	var out, errs bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs([]string{"dashboards", "--grafana", "--project", "acme-air"})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if errs.String() != sharedAccount {
		t.Errorf("dashboards --grafana warns %q, want %q", &errs, sharedAccount)
	}
	var dashboard struct{ Description string }
	if err := json.Unmarshal(out.Bytes(), &dashboard); err != nil {
		t.Fatalf("the warning stands in the dashboard: %v", err)
	}
	if !strings.Contains(dashboard.Description, "data source's account") {
		t.Errorf("description %q, want a warning", dashboard.Description)
	}
}

func TestDashboardsRefuse(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--project", "Acme"}, {"--project", "acme-air`"}, {"--project", "acme-air", "--grafana", "--report-id", "r"},
	} {
		cmd := root()
		cmd.SetArgs(append([]string{"dashboards"}, args...))
		if err := cmd.ExecuteContext(t.Context()); err == nil {
			t.Errorf("dashboards %v is no error", args)
		}
	}
}
