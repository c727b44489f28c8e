package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/functions"
	customer "github.com/telemesh/telemesh/functions/customer-source/source"
	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/internal/check"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/contract/standard"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/products"
)

func checkCommand() *cobra.Command {
	var dir, folder, schemas, mappings, crm string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say where manifests and contracts do not fit together",
		Long: `Reads brokers/, triggers/, config/ and products/ and says what does not fit: a
Trigger whose Broker or subscriber is not there, a Service whose function is not
there, an event type that is made and read by nobody or read and made by nobody, a
PingSource that wakes nobody, functions that could wake each other for ever, a dead
letter that would be another Trigger's, a function without an account or a token of
its own, a policy that lets nobody in, an overlay whose mesh is another one, a
mapping that does not make of its examples what they say, what a policy of
config/policies/ does not allow, a descriptor or a contract that is not as Telemesh
reads it or, with --schemas, not as its standard (ODPS v1.0.0, ODCS v3.1.0) wants
it. Exits 1 if there is any finding.`,
		Args: arguments(cobra.NoArgs, "no arguments: --manifests and --products name folders"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			folders, overlays, err := manifestFolders(dir)
			if err != nil {
				return err
			}
			set, err := manifest.Load(folders...)
			if err != nil {
				return err
			}
			documents, err := productsFolder(folder)
			if err != nil {
				return err
			}
			if len(set.Brokers) == 0 {
				return hint(fmt.Errorf("there is no Broker in %s", dir), "--manifests takes a folder with brokers/, triggers/ and config/")
			}
			formats, err := flatten.ReadFormats(mappings)
			if err != nil {
				return err
			}
			var findings []any
			if schemas != "" {
				s, err := standard.Read(schemas)
				if err != nil {
					return hint(err, "--schemas takes a folder with the JSON schemas of ODCS v3.1.0 and ODPS v1.0.0 under the names that they are published by")
				}
				invalid, _, err := s.Check(documents)
				if err != nil {
					return err
				}
				for _, f := range invalid {
					findings = append(findings, f)
				}
			}
			all, err := contract.Load(documents)
			if err != nil {
				findings = append(findings, err)
			}
			mesh := check.Mesh{Manifests: set, Functions: slices.Sorted(maps.Keys(functions.Table))}
			for _, overlay := range overlays {
				over, err := manifest.Overlaid(folders, overlay)
				if err != nil {
					return err
				}
				mesh.Overlays = append(mesh.Overlays, over)
			}
			policies, err := byPolicies(dir, folder, documents)
			if err != nil {
				return err
			}
			for _, f := range check.Run(mesh, policies) {
				findings = append(findings, f)
			}
			for _, f := range formats.Check() {
				findings = append(findings, f)
			}
			customers := customer.Mappings()
			if crm != "" {
				customers = append(customers, crm)
			}
			for _, name := range customers {
				if _, err := customer.ReadMapping(name); err != nil {
					findings = append(findings, err)
				}
			}
			for _, f := range findings {
				fmt.Fprintln(cmd.OutOrStdout(), f)
			}
			if len(findings) > 0 {
				return errors.New(counted(int64(len(findings)), "finding"))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "ok: %d brokers, %d triggers, %d services, %d products, %d mappings\n",
				len(set.Brokers), len(set.Triggers), len(set.Services), len(all), formats.Mappings()+len(customers))
			return nil
		},
	}
	mappingsFlag(cmd, &mappings)
	cmd.Flags().StringVar(&crm, "crm-mapping", "", "file with a mapping of a CRM's customers, to be checked as well")
	cmd.Flags().StringVar(&dir, "manifests", "", "folder with brokers/, triggers/ and config/ (default: those built in)")
	productsFlag(cmd, &folder)
	cmd.Flags().StringVar(&schemas, "schemas", "", "folder with the JSON schemas of ODCS v3.1.0 and ODPS v1.0.0, to hold the documents of the products against them")
	return cmd
}

func productsFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "products", "", "folder with the products (default: those built in)")
}

func productsFolder(dir string) (fs.FS, error) {
	if dir == "" {
		return products.FS, nil
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, hint(fmt.Errorf("read products: %w", err), "--products takes a folder as products/ is")
	}
	folder := os.DirFS(dir)
	if files, err := fs.Glob(folder, "*/product.odps.yaml"); err == nil && len(files) == 0 {
		return nil, hint(fmt.Errorf("read products: there is no */product.odps.yaml in %s", dir), "--products takes a folder as products/ is, with one folder for each product")
	}
	return folder, nil
}

// readProducts reads the contracts of a folder; empty: those built in.
func readProducts(dir string) ([]contract.Product, error) {
	folder, err := productsFolder(dir)
	if err != nil {
		return nil, err
	}
	all, err := contract.Load(folder)
	if err != nil {
		return nil, fmt.Errorf("read contracts: %w", err)
	}
	return all, nil
}
