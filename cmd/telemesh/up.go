package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/portal"
)

func upCommand() *cobra.Command {
	var (
		o                      options
		s                      sheets
		simulated              bool
		ingestOn, brokerOn, on string
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the whole mesh on this machine",
		Long: `Runs the brokers, triggers and functions of the manifests in this process until
it is interrupted, and says where to look. Started again on the same folder, it
goes on where it was, also after a kill.`,
		Example: `  telemesh up --simulate
  telemesh up --placements placements.csv --actions actions.csv --customers customers.csv
  curl -d '{"device_id": "desk-1", "metrics": {"co2": 812}}' localhost:8082`,
		Args: arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := cmd.Context()
			in, err := o.open(ctx, s)
			if err != nil {
				if ctx.Err() != nil {
					return nil // interrupted
				}
				return err
			}
			defer func() { err = errors.Join(err, in.close()) }()
			out := cmd.OutOrStdout()
			ingest, err := serveOn(ingestOn, in.mesh.Service("iot", "telemetry-ingest"))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, ingest.stop()) }()
			broker, err := serveOn(brokerOn, in.mesh.Handler())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, broker.stop()) }()
			page, err := serveOn(on, portal.Handler(in.status(ingest.address, broker.address)))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, page.stop()) }()
			data, err := filepath.Abs(o.data)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "portal   http://%s/\n", page.address)
			fmt.Fprintf(out, "ingest   http://%s/                    POST device messages\n", ingest.address)
			fmt.Fprintf(out, "brokers  http://%s/NAMESPACE/BROKER    POST CloudEvents: iot/iot, crm/crm, analytics/analytics\n", broker.address)
			fmt.Fprintf(out, "data     %s\n", data)

			ended := make(chan error, 1)
			if simulated {
				fmt.Fprintln(out, "a simulated fleet sends: the past week at once, then as time goes on")
				go func() { ended <- in.simulate(ctx) }()
			}
			select {
			case err = <-ended:
			case err = <-page.ended:
			case err = <-ingest.ended:
			case err = <-broker.ended:
			case <-ctx.Done():
				if simulated {
					err = <-ended
				}
				fmt.Fprintln(out, "stopping")
			}
			if errors.Is(err, context.Canceled) {
				return nil // interrupted, as it should be
			}
			return err
		},
	}
	o.flags(cmd)
	s.flags(cmd)
	cmd.Flags().BoolVar(&simulated, "simulate", false, "let a simulated fleet send")
	cmd.Flags().StringVar(&on, "portal", "127.0.0.1:8080", "address of the portal")
	cmd.Flags().StringVar(&brokerOn, "brokers", "127.0.0.1:8081", "address of the brokers' ingress")
	cmd.Flags().StringVar(&ingestOn, "ingest", "127.0.0.1:8082", "address of the ingest endpoint")
	return cmd
}
