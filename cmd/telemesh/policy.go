package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/check"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/policy"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Rules that products, contracts and manifests are held to",
		Long: `Policies are files, config/policies/*.yaml, in CEL over a model of the products,
their contracts and the manifests. ` + "`telemesh check`" + ` holds the mesh against them.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(policyListCommand(), policyTestCommand())
	return cmd
}

func policyListCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the policies, with their exceptions",
		Args:  arguments(cobra.NoArgs, "no arguments: --manifests names a folder"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, faults, err := policies(dir)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "POLICY\tSEVERITY\tFOR EACH\tEXCEPTION\tUNTIL\tREASON")
			for _, p := range all {
				fmt.Fprintf(table, "%s\t%s\t%s", p.Name, p.Severity, p.For)
				for i, e := range p.Exceptions {
					if i > 0 {
						fmt.Fprint(table, "\n\t\t")
					}
					fmt.Fprintf(table, "\t%s\t%s\t%s", e.Object, e.Until.Format(time.DateOnly), e.Reason)
				}
				fmt.Fprintln(table)
			}
			return errors.Join(table.Flush(), tell(cmd, faults))
		},
	}
	policiesFlag(cmd, &dir)
	return cmd
}

func policyTestCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Run the cases of the policies",
		Long: `Runs the cases of the policies: small inputs, and what has to be found in each.
Exits 1 if a policy cannot be read, or a case does not end as it says.`,
		Args: arguments(cobra.NoArgs, "no arguments: --manifests names a folder"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, faults, err := policies(dir)
			if err != nil {
				return err
			}
			if err := tell(cmd, append(faults, policy.Test(all)...)); err != nil {
				return err
			}
			cases := 0
			for _, p := range all {
				cases += len(p.Cases)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "ok: %d policies, %d cases\n", len(all), cases)
			return nil
		},
	}
	policiesFlag(cmd, &dir)
	return cmd
}

func policiesFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "manifests", "", "folder whose config/policies/ has the policies (default: those built in)")
}

// tell prints findings; the error says how many there are.
func tell(cmd *cobra.Command, findings []check.Finding) error {
	if err := findingFormats["text"](cmd.OutOrStdout(), findings); err != nil {
		return err
	}
	if len(findings) > 0 {
		return errors.New(counted(int64(len(findings)), "finding"))
	}
	return nil
}

// policies are those of DIR/config/policies, else those built in.
func policies(dir string) ([]*policy.Policy, []check.Finding, error) {
	if dir != "" {
		if _, err := os.Stat(dir); err != nil {
			return nil, nil, hint(fmt.Errorf("read policies: %w", err), "--manifests takes a folder with brokers/, triggers/ and config/")
		}
		folder := filepath.Join(dir, "config", "policies")
		if _, err := os.Stat(folder); err == nil {
			return policy.Load(folder, os.DirFS(folder))
		}
	}
	return policy.Load("config/policies", config.Policies)
}

// byPolicies holds a mesh against its policies, as check.Run takes it.
func byPolicies(dir string, documents manifest.Folder) (func(check.Mesh) []check.Finding, error) {
	all, faults, err := policies(dir)
	if err != nil {
		return nil, err
	}
	return policy.Finder(all, faults, policy.Products{Folder: documents.Name, FS: documents.FS}, time.Now()), nil
}
