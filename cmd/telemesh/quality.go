package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/warehouse"
)

func qualityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quality",
		Short: "Check rows by the quality rules of contracts",
		Long: `What the rows of output ports have to be like is said by the quality rules of
their contracts. quality-check counts by them every hour, and the catalog shows
what it found; check counts now. judge looks at readings one by one.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(qualityCheck(), qualityJudge())
	return cmd
}

func qualityCheck() *cobra.Command {
	var (
		at     warehouseAt
		folder string
		days   int
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "check [PORT…]",
		Short: "Count by the quality rules of output ports",
		Long: `Counts by the rules of the output ports that are named, or of all, and ends with 1
if one of them does not hold or could not be checked. It reads every row, unless
--days says how many days it looks at, today included, of tables that a column
partitions.`,
		Example: `  telemesh quality check
  telemesh quality check iot_telemetry.readings --days 7
  telemesh quality check --json --warehouse bigquery://PROJECT?location=EU`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if days < 0 {
				return hint(fmt.Errorf("--days %d is no number of days", days), "--days takes how many days are looked at, or 0 for all rows")
			}
			tables, err := ruledTables(folder, args)
			if err != nil {
				return err
			}
			var wrong, all int
			err = at.with(cmd.Context(), func(w warehouse.Warehouse) error {
				out := newVerdicts(cmd.OutOrStdout(), asJSON)
				checker := quality.Checker{Query: quality.Of(w)}
				for _, t := range tables {
					results, err := checker.Check(cmd.Context(), t, quality.Window{Days: days, Now: time.Now()})
					if err != nil {
						return err
					}
					for i := range results {
						if all++; !results[i].Kept() {
							wrong++
						}
						if err := out.add(t, &results[i]); err != nil {
							return err
						}
					}
				}
				return out.close()
			})
			switch {
			case err != nil:
				return err
			case wrong > 0:
				return hint(fmt.Errorf("%d of %d rules do not hold", wrong, all), "docs/quality.md says what each counts; `telemesh query` shows the rows")
			}
			return nil
		},
	}
	at.flags(cmd)
	productsFlag(cmd, &folder)
	cmd.Flags().IntVar(&days, "days", 0, "look at the rows of so many days, today included; 0: at all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "an object a line")
	return cmd
}

// ruledTables are the tables of output ports, or those of some names.
func ruledTables(folder string, names []string) ([]*contract.Table, error) {
	products, err := readProducts(folder)
	if err != nil {
		return nil, err
	}
	var tables []*contract.Table
	var known []string
	for i := range products {
		for j := range products[i].Tables {
			if t := &products[i].Tables[j]; t.Schema == products[i].Schema {
				known = append(known, t.FullName())
				if len(names) == 0 || slices.Contains(names, t.FullName()) {
					tables = append(tables, t)
				}
			}
		}
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, hint(fmt.Errorf("no output port %q is a table", name), "those are %s; a view has no rules of its own", strings.Join(known, ", "))
		}
	}
	return tables, nil
}

// verdicts writes results, as a table or as an object a line.
type verdicts struct {
	table *tabwriter.Writer
	json  *json.Encoder
}

func newVerdicts(w io.Writer, asJSON bool) *verdicts {
	if asJSON {
		return &verdicts{json: json.NewEncoder(w)}
	}
	v := &verdicts{table: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(v.table, "PORT\tRULE\tROWS\tCOUNTED\tWANTED\tVERDICT")
	return v
}

func (v *verdicts) add(t *contract.Table, r *quality.Result) error {
	verdict := "broken"
	switch {
	case r.Err != nil:
		verdict = "not known"
	case r.Kept():
		verdict = "kept"
	}
	if v.json != nil {
		one := map[string]any{"port": t.FullName(), "rule": r.Rule.ID, "wanted": r.Rule.Wanted(), "verdict": verdict, "purpose": r.Rule.Purpose}
		if r.Rows >= 0 {
			one["rows"] = r.Rows
		}
		if r.Err != nil {
			one["error"] = r.Err.Error()
		} else {
			one["counted"] = r.Number
		}
		if !r.From.IsZero() {
			one["from"] = r.From
		}
		return v.json.Encode(one)
	}
	rows, counted := "-", strconv.FormatFloat(r.Number, 'f', -1, 64)
	if r.Rows >= 0 {
		rows = strconv.FormatInt(r.Rows, 10)
	}
	if r.Err != nil {
		counted, verdict = "-", verdict+": "+strings.Join(strings.Fields(r.Err.Error()), " ")
	}
	_, err := fmt.Fprintf(v.table, "%s\t%s\t%s\t%s\t%s\t%s\n", t.FullName(), r.Rule.ID, rows, counted, r.Rule.Wanted(), verdict)
	return err
}

func (v *verdicts) close() error {
	if v.table == nil {
		return nil
	}
	return v.table.Flush()
}
