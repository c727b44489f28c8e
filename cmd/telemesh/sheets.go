package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/warehouse"
)

func sheetsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sheets",
		Short: "Read the sheets of placements, actions and customers, and show what is wrong with them",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(sheetsErrors(), sheetsRead())
	return cmd
}

// findingsSQL is what the output ports say is wrong with the sources.
const findingsSQL = `SELECT 'placements' AS source, sheet, row_number, column_name, severity, reason FROM iot_metadata.rejected_rows
	UNION ALL SELECT 'actions', sheet, row_number, column_name, severity, reason FROM iot_actions.rejected_rows
	UNION ALL SELECT 'customers', sheet, row_number, column_name, severity, reason FROM customers.rejected_rows
	ORDER BY sheet, source, row_number, column_name`

func sheetsErrors() *cobra.Command {
	var (
		data   string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "errors",
		Short: "One line for each cell, row or sheet that something is wrong with",
		Long: `Shows what was wrong with the placements, the logbook and the customers when they
were last read: the sheet, the row as the spreadsheet counts it (empty: the sheet
as a whole), the column (empty: the row as a whole), and why.

An error keeps a row from being taken: what it said before stays as it is. A
warning is about a row that was taken. What is put right is gone the next time
the sheet is read.`,
		Example: `  telemesh sheets errors
  telemesh sheets errors --json`,
		Args: arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withWarehouse(cmd.Context(), data, func(w warehouse.Warehouse) error {
				rows, err := w.Query(cmd.Context(), findingsSQL)
				switch {
				case err != nil:
					return err
				case asJSON:
					return writeJSON(cmd.OutOrStdout(), rows)
				}
				return writeFindings(cmd.OutOrStdout(), rows)
			})
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().BoolVar(&asJSON, "json", false, "an object a line")
	return cmd
}

func writeFindings(out io.Writer, rows *warehouse.Rows) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	n := 0
	for row, err := range rows.All {
		if err != nil {
			table.Flush()
			return err
		}
		if n++; n == 1 {
			fmt.Fprintln(table, "SHEET\tROW\tCOLUMN\tSEVERITY\tREASON")
		}
		number := text(row[2])
		if number == "0" {
			number = ""
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", plain(text(row[1])), orDash(number), orDash(text(row[3])), text(row[4]), plain(text(row[5])))
	}
	if n == 0 {
		fmt.Fprintln(table, "nothing is wrong with the sheets")
	}
	return table.Flush()
}
