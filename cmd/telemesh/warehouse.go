package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

func warehouseCommand() *cobra.Command {
	var data, listen, folder string
	cmd := &cobra.Command{
		Use:   "warehouse",
		Short: "Serve the warehouse of a data folder over HTTP, for a cluster without BigQuery",
		Long: `Serves the DuckDB warehouse of a data folder to the sinks and output ports of a
cluster: their WAREHOUSE_URL names it. Whoever reaches the address reads and
writes everything, so it listens on loopback unless told otherwise and asks for
the token in TELEMESH_WAREHOUSE_TOKEN where that is set.`,
		Args: arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			all, err := readProducts(folder)
			if err != nil {
				return err
			}
			w, err := openWarehouse(cmd.Context(), data, all)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.Close()) }()
			s, err := serveOn(listen, remote.Handler(w, os.Getenv("TELEMESH_WAREHOUSE_TOKEN")))
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "warehouse  http://%s\ndata       %s\n", s.address, data)
			return s.wait(cmd.Context())
		},
	}
	dataFlag(cmd, &data)
	productsFlag(cmd, &folder)
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8083", "address to serve on")
	return cmd
}

// server is an HTTP server that runs.
type server struct {
	address string
	http    *http.Server
	ended   chan error
}

func serveOn(address string, handler http.Handler) (*server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, hint(err, "name another address; port 0 takes any free one")
	}
	s := &server{listener.Addr().String(), &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}, make(chan error, 1)}
	go func() { s.ended <- s.http.Serve(listener) }()
	return s, nil
}

// wait serves until ctx is done, and then lets requests end.
func (s *server) wait(ctx context.Context) error {
	select {
	case err := <-s.ended:
		return err
	case <-ctx.Done():
		return s.stop()
	}
}

func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close() // a page that is being watched does not end by itself
	}
	return nil
}
