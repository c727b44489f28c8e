package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/cluster"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/preflight"
)

func preflightCommand() *cobra.Command {
	var (
		kubeconfig, kubeContext, dir, folder, format string
		strict                                       bool
		timeout                                      time.Duration
	)
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Say what a cluster misses, and what is unsafe there, before and after the mesh is applied",
		Long: `Reads a Kubernetes cluster and says what is missing or unsafe there for the
manifests: Knative and its ingress, who may send to Brokers and what passes in clear
text, what Brokers keep events in, which objects are not there or not ready and why,
Triggers that lose what they cannot deliver, Secrets and ConfigMaps, the warehouse.
It changes nothing. What it is not shown it calls unknown, and what no API shows, as
whether the network enforces its policies, it does not claim.

With a warehouse of BigQuery it asks for the datasets as whoever runs it, which says
nothing of the pods.

Exits 1 if something is missing or failing, with --strict also if something is
unsafe or unknown.`,
		Example: `  telemesh preflight
  telemesh preflight --context production --strict`,
		Args: arguments(cobra.NoArgs, "no arguments: --kubeconfig and --context name the cluster"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return hint(fmt.Errorf("unknown format %q", format), "--format text or json")
			}
			set, err := loadManifests(dir)
			if err != nil {
				return err
			}
			if len(set.Brokers) == 0 {
				return hint(fmt.Errorf("there is no Broker in %s", dir), "--manifests takes a folder with brokers/, triggers/ and config/")
			}
			documents, err := productsFolder(folder)
			if err != nil {
				return err
			}
			products, err := contract.Load(documents)
			if err != nil {
				return fmt.Errorf("read contracts: %w", err)
			}
			k, err := cluster.Open(kubeconfig, kubeContext)
			if err != nil {
				return hint(err, "--kubeconfig names the file and --context the cluster in it, as for kubectl")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			c, err := preflight.Read(ctx, k, set)
			if err != nil {
				return hint(err, "`kubectl version` should answer with the same kubeconfig and context; --timeout says how long to wait")
			}
			c.AskBigQuery(ctx, set, products)
			findings := preflight.Judge(set, c)
			if err := writePreflight(cmd.OutOrStdout(), format, findings); err != nil {
				return err
			}
			if !preflight.Passes(findings, strict) {
				return exitCode(1) // the findings say why
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&kubeconfig, "kubeconfig", "", "file that says how to reach the cluster (default: KUBECONFIG, or ~/.kube/config)")
	flags.StringVar(&kubeContext, "context", "", "context of the kubeconfig (default: its current one)")
	flags.StringVar(&dir, "manifests", "", "folder with brokers/, triggers/ and config/ (default: those built in)")
	productsFlag(cmd, &folder)
	flags.StringVar(&format, "format", "text", "text or json")
	flags.BoolVar(&strict, "strict", false, "exit 1 also if something is unsafe or unknown")
	flags.DurationVar(&timeout, "timeout", 30*time.Second, "how long the cluster and BigQuery may take to answer")
	return cmd
}

func writePreflight(out io.Writer, format string, findings []preflight.Finding) error {
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(findings)
	}
	for _, f := range findings {
		if _, err := fmt.Fprintln(out, f); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(out, levels(findings))
	return err
}

// levels says how many findings are of each level, the worst first.
func levels(findings []preflight.Finding) string {
	count := preflight.Count(findings)
	var parts []string
	for _, level := range preflight.Levels {
		if n := count[level]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, level))
		}
	}
	return strings.Join(parts, ", ")
}
