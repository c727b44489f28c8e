package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

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
	var dir, folder, schemas, mappings, crm, format, since string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say where the mesh does not fit together",
		Long: `Reads brokers/, triggers/, config/ and products/ as one model and says what does not
fit, where, why it matters and what to do: Triggers that nobody can fire, event types
that nobody reads, filters that no event passes (with one that does not), events that
come twice, functions that could wake each other for ever, input ports that do not get
what they need, views that read past an output port, service levels that nothing
measures, breaking changes without a new major version, functions without an account
or a token of their own, overlays whose mesh is another one, mappings that do not make
of their examples what they say, what the policies of config/policies/ do not allow, and
documents that are not as Telemesh reads them or, with --schemas, not as their standard
(ODPS v1.0.0, ODCS v3.1.0) wants them.

With --manifests DIR the products are those of DIR/products, where that is there, unless
--products says otherwise. In a git repository their contracts are held against those of
the last tag. Exits 1 if there is any error. Run it before the mesh is applied, and in CI.`,
		Args: arguments(cobra.NoArgs, "no arguments: --manifests and --products name folders"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, ok := findingFormats[format]
			if !ok {
				return hint(fmt.Errorf("there is no --format %q", format), "one of %s", strings.Join(slices.Sorted(maps.Keys(findingFormats)), ", "))
			}
			folders, overlays, err := manifestFolders(dir)
			if err != nil {
				return err
			}
			if own := filepath.Join(dir, "products"); dir != "" && folder == "" {
				if _, err := os.Stat(own); err == nil {
					folder = own
				}
			}
			documents, err := productsFolder(folder)
			if err != nil {
				return err
			}
			source := check.Source{Manifests: folders, Overlays: overlays, Functions: functionsOf(dir)}
			if dir == "" || folder != "" { // else the products built in are those of another mesh
				source.Products = manifest.Folder{Name: cmp.Or(folder, "products"), FS: documents}
			}
			if schemas != "" {
				if source.Schemas, err = standard.Read(schemas); err != nil {
					return hint(err, "--schemas takes a folder with the JSON schemas of ODCS v3.1.0 and ODPS v1.0.0 under the names that they are published by")
				}
			}
			formats, err := flatten.ReadFormats(mappings)
			if err != nil {
				return err
			}
			customers := customer.Mappings()
			if crm != "" {
				customers = append(customers, crm)
			}
			policies, err := byPolicies(dir, source.Products)
			if err != nil {
				return err
			}
			mesh := check.Read(source)
			switch {
			case folder != "":
				if mesh.Released, err = check.LastReleased(cmd.Context(), folder, since); err != nil && since != "" {
					return hint(err, "--since takes a revision of the git repository that --products is in, as v1.2.0")
				} else if err != nil {
					fmt.Fprintf(cmd.ErrOrStderr(), "not compared with released contracts: %v\n", err)
				}
			case since != "":
				return hint(errors.New("--since without --products: those built in have no revisions"), "name the folder of the products by --products")
			}
			findings := check.Run(mesh, policies, func(check.Mesh) []check.Finding { return checkMappings(formats, customers) })
			if len(mesh.Manifests.Brokers) == 0 && !slices.ContainsFunc(findings, func(f check.Finding) bool { return f.Rule == "manifest-invalid" }) {
				return hint(fmt.Errorf("there is no Broker in %s", dir), "--manifests takes a folder with brokers/, triggers/ and config/")
			}
			if err := write(cmd.OutOrStdout(), findings); err != nil {
				return err
			}
			if slices.ContainsFunc(findings, func(f check.Finding) bool { return f.Severity == check.Error }) {
				return errors.New(counted(int64(len(findings)), "finding"))
			}
			if format == "text" {
				fmt.Fprintf(cmd.OutOrStdout(), "ok: %d brokers, %d triggers, %d services, %d products, %d mappings\n", len(mesh.Manifests.Brokers),
					len(mesh.Manifests.Triggers), len(mesh.Manifests.Services), len(mesh.Products), formats.Mappings()+len(customers))
			}
			return nil
		},
	}
	mappingsFlag(cmd, &mappings)
	cmd.Flags().StringVar(&crm, "crm-mapping", "", "file with a mapping of a CRM's customers, to be checked as well")
	cmd.Flags().StringVar(&dir, "manifests", "", "folder with brokers/, triggers/ and config/ (default: those built in)")
	productsFlag(cmd, &folder)
	cmd.Flags().StringVar(&schemas, "schemas", "", "folder with the JSON schemas of ODCS v3.1.0 and ODPS v1.0.0, to hold the documents of the products against them")
	cmd.Flags().StringVar(&since, "since", "", "revision of the git repository of --products whose contracts must still hold (default: its last tag)")
	cmd.Flags().StringVar(&format, "format", "text", "text, json, or github: annotations of a workflow")
	return cmd
}

// findingFormats are how findings are written, by --format.
var findingFormats = map[string]func(io.Writer, []check.Finding) error{
	"text": func(w io.Writer, findings []check.Finding) error {
		for _, f := range findings {
			if _, err := fmt.Fprintf(w, "%s: %s: %s: %s (%s)\n    %s\n    %s\n", f.Where, f.Severity, f.Object, f.Problem, f.Rule, f.Why, f.Do); err != nil {
				return err
			}
		}
		return nil
	},
	"json": func(w io.Writer, findings []check.Finding) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(append([]check.Finding{}, findings...))
	},
	// https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
	"github": func(w io.Writer, findings []check.Finding) error {
		property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
		data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
		for _, f := range findings {
			text := fmt.Sprintf("%s: %s\n%s\n%s", f.Object, f.Problem, f.Why, f.Do)
			if _, err := fmt.Fprintf(w, "::%s file=%s,line=%d,title=%s::%s\n", f.Severity, property.Replace(f.File), max(1, f.Line), property.Replace(f.Rule), data.Replace(text)); err != nil {
				return err
			}
		}
		return nil
	},
}

// checkMappings says which mappings do not make of their examples what they say.
func checkMappings(formats *flatten.Formats, customers []string) (findings []check.Finding) {
	errs := formats.Check()
	for _, name := range customers {
		if _, err := customer.ReadMapping(name); err != nil {
			errs = append(errs, err)
		}
	}
	for _, err := range errs {
		f := check.Finding{
			Object: "mapping", Severity: check.Error, Rule: "mapping-wrong", Problem: err.Error(),
			Why: "What devices and customers are is read by it, and would be read otherwise than its examples say.", Do: "correct the mapping, or the example",
		}
		if place, problem, ok := strings.Cut(f.Problem, ": "); ok {
			f.File, f.Problem = place, problem
			if file, line, ok := strings.Cut(place, ":"); ok {
				if n, err := strconv.Atoi(line); err == nil {
					f.File, f.Line = file, n
				}
			}
		}
		findings = append(findings, f)
	}
	return findings
}

// functionsOf are the functions that images can be made of: those of the clone that the
// manifests are of, which the command may be older than, else those built in.
func functionsOf(dir string) []string {
	mains, err := filepath.Glob(filepath.Join(dir, "functions", "*", "main.go"))
	if err != nil || len(mains) == 0 || dir == "" {
		return slices.Sorted(maps.Keys(functions.Table))
	}
	var names []string
	for _, main := range mains {
		names = append(names, filepath.Base(filepath.Dir(main)))
	}
	return names
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
