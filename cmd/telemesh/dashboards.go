package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/products"
)

// dashboardProduct is the product whose views dashboards are made of.
const dashboardProduct = "iot-analytics"

// credentials is what the address of a report cannot say, and who shares the
// report has to know.
const credentials = `warning: a report is made with its owner's credentials: whoever it is shared with sees the rows that its
owner sees, of all tenants. An address cannot say otherwise. Before you share it, set each of its data
sources to Viewer's Credentials: Resource > Manage added data sources > Edit > Data credentials.
`

// sharedAccount is the same of Grafana.
const sharedAccount = `warning: Grafana asks with its data source's account: whoever may view the dashboard, or query the data
source, sees the rows that this account sees, of all of its tenants; the variable tenant only chooses
among them. Give each tenant a data source of its own, with an account that is a member of that tenant
alone, or let the data source forward the OAuth identity of who is signed in.
`

func dashboardsCommand() *cobra.Command {
	var (
		project, report string
		grafana         bool
	)
	cmd := &cobra.Command{
		Use:   "dashboards",
		Short: "Print addresses that make Looker Studio reports, or a Grafana dashboard",
		Long: `Prints for each view of iot-analytics the address that makes a Looker Studio
report of it. With --report-id it prints one address, which copies that report and
gives it the views: its data sources have the names of the views as aliases.

co2_with_actions is for time series: it has the CO2 of the quarters of an hour in
which an action was taken as a series of its own.

With --grafana it prints a dashboard for Grafana's BigQuery data source
(grafana-bigquery-datasource), to be imported: CO2 of rooms beside the air outside,
actions as annotations, rooms compared by what they add, the latest readings, and
actions with the CO2 before and after.

A report shows to all its viewers what its owner sees, unless each of its data
sources is set to Viewer's Credentials. A dashboard of Grafana shows to all its
viewers what the account of its data source sees: make a data source for each
tenant, with an account that is a member of that tenant alone, or have it forward
the OAuth identity of the viewer.`,
		Example: `  telemesh dashboards --project acme-air
  telemesh dashboards --project acme-air --grafana > co2.json`,
		Args: arguments(cobra.NoArgs, "no arguments: --project names the project"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkProject(project); err != nil {
				return err
			}
			switch {
			case grafana && report != "":
				return hint(errors.New("--report-id is of Looker Studio, --grafana is not"), "leave one of them out")
			case grafana:
				if _, err := fmt.Fprint(cmd.ErrOrStderr(), sharedAccount); err != nil {
					return err
				}
				return writeGrafana(cmd.OutOrStdout(), project)
			}
			return writeReports(cmd.OutOrStdout(), project, report)
		},
	}
	cmd.Flags().StringVar(&project, "project", "", "Google Cloud project that has the datasets")
	cmd.Flags().StringVar(&report, "report-id", "", "Looker Studio report to copy (default: an empty one)")
	cmd.Flags().BoolVar(&grafana, "grafana", false, "print the dashboard for Grafana")
	return cmd
}

// writeReports prints addresses of the Linking API of Looker Studio.
func writeReports(out io.Writer, project, report string) error {
	all, err := contract.Load(products.FS)
	if err != nil {
		return fmt.Errorf("read contracts: %w", err)
	}
	var views []contract.View
	for _, p := range all {
		if p.Name == dashboardProduct {
			views = p.Views
		}
	}
	if report != "" {
		fmt.Fprintln(out, reportAddress(project, report, views...))
	} else {
		for i, v := range views {
			if i > 0 {
				fmt.Fprintln(out)
			}
			fmt.Fprintf(out, "%s.%s\n%s\n", v.Schema, v.Name, reportAddress(project, "", v))
		}
	}
	_, err = fmt.Fprint(out, "\n"+credentials)
	return err
}

// reportAddress makes a report of views: a copy of one, or an empty one. The
// alias of a data source is the name of its view.
func reportAddress(project, report string, views ...contract.View) string {
	query := url.Values{}
	if report != "" {
		query.Set("c.reportId", report)
	}
	for _, v := range views {
		source := "ds." + v.Name + "."
		query.Set(source+"connector", "bigQuery")
		query.Set(source+"type", "TABLE")
		query.Set(source+"projectId", project)
		query.Set(source+"datasetId", v.Schema)
		query.Set(source+"tableId", v.Name)
	}
	return "https://lookerstudio.google.com/reporting/create?" + query.Encode()
}

// writeGrafana prints the dashboard with the project as the value of its
// variable.
func writeGrafana(out io.Writer, project string) error {
	text, err := fs.ReadFile(products.FS, dashboardProduct+"/dashboards/co2.grafana.json")
	if err != nil {
		return err
	}
	var dashboard map[string]any
	if err := json.Unmarshal(text, &dashboard); err != nil {
		return fmt.Errorf("dashboard of %s: %w", dashboardProduct, err)
	}
	templating, _ := dashboard["templating"].(map[string]any)
	variables, _ := templating["list"].([]any)
	for _, v := range variables {
		if variable, _ := v.(map[string]any); variable["name"] == "project" {
			variable["query"] = project
			variable["current"] = map[string]any{"text": project, "value": project}
		}
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(dashboard)
}
