package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

func qualityJudge() *cobra.Command {
	var (
		o        options
		from, to string
	)
	cmd := &cobra.Command{
		Use:   "judge [--from TIME] [--to TIME]",
		Short: "Flag stored readings by what their device measured around them",
		Long: `Has the function telemetry-judge look at stored readings, which it does by itself
for what was recorded lately: those that were measured from a time on, up to
another one. What is stuck, a spike, or of two devices of one name is flagged in
the column quality, and what is no more is not. Nothing else is changed, and what
is judged twice is flagged once.

Prints how many readings of that time have which flag.`,
		Example: `  telemesh quality judge
  telemesh quality judge --from 2026-03-01 --to 2026-04-01`,
		Args: arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var q mesh.Question
			for _, flag := range []struct {
				name, text string
				into       **mesh.Instant
			}{{"from", from, &q.ObservedFrom}, {"to", to, &q.ObservedTo}} {
				if flag.text == "" {
					continue
				}
				at, err := mesh.ParseInstant(flag.text)
				if day, dated := time.Parse(time.DateOnly, flag.text); dated == nil {
					at, err = mesh.At(day), nil
				}
				if err != nil {
					return hint(fmt.Errorf("--%s: %w", flag.name, err), "for example --%s 2026-03-01 or --%[1]s 2026-03-01T09:00:00Z", flag.name)
				}
				*flag.into = &at
			}
			return interrupted(cmd.Context(), o.judge(cmd.Context(), q, cmd.OutOrStdout()))
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "those measured at this time or later, RFC 3339 or a day (default: from the first on)")
	cmd.Flags().StringVar(&to, "to", "", "those measured before this time (default: to the last)")
	o.flags(cmd)
	return cmd
}

// judge asks for the readings to be judged, and prints their flags when all that
// comes of it is stored.
func (o *options) judge(ctx context.Context, q mesh.Question, out io.Writer) (err error) {
	r, err := o.run(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.post(ctx, mesh.NewEvent(mesh.TelemetryQuestioned, "/telemesh/cli", mesh.Encode(q), uuid.NewString())); err != nil {
		return fmt.Errorf("ask for readings to be judged: %w", err)
	}
	if err := r.idle(ctx); err != nil {
		return fmt.Errorf("wait for the mesh: %w", err)
	}
	return printFlags(ctx, r.warehouse, q, out)
}

func printFlags(ctx context.Context, w warehouse.Warehouse, q mesh.Question, out io.Writer) error {
	where := []string{"TRUE"}
	if q.ObservedFrom != nil {
		where = append(where, "observed_at >= "+literal.Time(*q.ObservedFrom))
	}
	if q.ObservedTo != nil {
		where = append(where, "observed_at < "+literal.Time(*q.ObservedTo))
	}
	answer, err := w.Query(ctx, "SELECT COALESCE(quality, '-'), COUNT(*) FROM iot_telemetry.readings WHERE "+strings.Join(where, " AND ")+" GROUP BY 1 ORDER BY 2 DESC, 1")
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "QUALITY\tREADINGS")
	for row, err := range answer.All {
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\t%d\n", row[0], row[1])
	}
	return table.Flush()
}
