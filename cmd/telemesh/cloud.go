package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"cloud.google.com/go/pubsub/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/telemesh/telemesh/internal/cloud"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
)

// cloudFlags are what plan and apply have in common.
type cloudFlags struct {
	project, location, warehouse, access, push, products, format string
	destroy                                                      bool
}

func (f *cloudFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.project, "project", "", "Google Cloud project (default: that of --warehouse)")
	flags.StringVar(&f.location, "location", "", "where datasets are made: EU, US, europe-west4 (default: that of --warehouse, or EU)")
	flags.StringVar(&f.warehouse, "warehouse", "", "bigquery://PROJECT?location=LOCATION; endpoint and storage name an emulator (default: WAREHOUSE_URL, if it is of BigQuery)")
	flags.StringVar(&f.access, "access", "", "file that says who sees whose rows (default: members and readers stay as they are)")
	flags.StringVar(&f.push, "push-endpoint", "", "URL of telemetry-ingest that Pub/Sub pushes to (default: messages are pulled)")
	productsFlag(cmd, &f.products)
	flags.StringVar(&f.format, "format", "text", "text or json")
	flags.BoolVar(&f.destroy, "destroy", false, "destroy what no product names any more, and rows older than they are to be kept")
}

func planCommand() *cobra.Command {
	var f cloudFlags
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Say what telemesh apply would change in a Google Cloud project",
		Long: `Compares what the products are in a Google Cloud project with what is there, and
prints the difference in the order in which telemesh apply would do it: datasets,
tables, views, who has access, topics and subscriptions. What somebody changed by
hand is shown as a change back. It changes nothing.

Exits 0 if there is nothing to change, 2 if there is, and 1 if that cannot be said
or apply would refuse it.`,
		Example: `  telemesh plan --project acme-air --access access.yaml`,
		Args:    arguments(cobra.NoArgs, "no arguments: --project names the project"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd.Context(), func(p *cloud.Project) error {
				plan, err := p.Plan(cmd.Context())
				if err != nil {
					return err
				}
				if err := f.write(plan, cmd.OutOrStdout()); err != nil {
					return err
				}
				if err := refusal(plan); err != nil {
					return err
				}
				if !plan.Empty() {
					return exitCode(2)
				}
				return nil
			})
		},
	}
	f.add(cmd)
	return cmd
}

func applyCommand() *cobra.Command {
	var (
		f           cloudFlags
		yes, dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make a Google Cloud project what the products say",
		Long: `Does what telemesh plan says, after it has asked. Access is taken away before
anything else changes and given after all else has, so that nobody ever sees more
than before or after. Ended in the middle, it can be run again.

What would lose rows is not done without --destroy, and what breaks readers not
without a new major version of the contract.`,
		Example: `  telemesh apply --project acme-air --access access.yaml --push-endpoint https://ingest.example.org`,
		Args:    arguments(cobra.NoArgs, "no arguments: --project names the project"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			if f.format == "json" && !yes && !dryRun {
				return hint(errors.New("--format json asks nothing"), "add --yes or --dry-run")
			}
			return f.with(ctx, func(p *cloud.Project) error {
				plan, err := p.Plan(ctx)
				if err != nil {
					return err
				}
				if err := f.write(plan, out); err != nil {
					return err
				}
				if err := refusal(plan); err != nil || plan.Empty() || dryRun {
					return err
				}
				if !yes {
					if err := ask(ctx, cmd.InOrStdin(), out); err != nil {
						return err
					}
				}
				said := out
				if f.format == "json" {
					said = io.Discard
				}
				fmt.Fprintln(said)
				err = p.Apply(ctx, plan, func(s cloud.Step) {
					for _, c := range s.Changes {
						fmt.Fprintf(said, "done: %s %s %s\n", c.Action, c.Kind, c.Name)
					}
				})
				if stopped := new(cloud.Error); errors.As(err, &stopped) {
					return hint(err, "%d of %d steps are done and stay; %srun `telemesh apply` again: it goes on from there",
						stopped.Done, stopped.Done+stopped.Left, sentence(whoApplies.of(err)))
				}
				return err
			})
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "change nothing")
	return cmd
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return s + "; then "
}

// refusal is the error of a plan that is refused.
func refusal(p *cloud.Plan) error {
	if len(p.Refused) == 0 {
		return nil
	}
	return hint(fmt.Errorf("refused for %s", counted(int64(len(p.Refused)), "reason")), "the lines above that begin with refused: say what to do")
}

// ask asks whether to go on, on a terminal.
func ask(ctx context.Context, in io.Reader, out io.Writer) error {
	if file, ok := in.(*os.File); ok && !term.IsTerminal(int(file.Fd())) {
		return hint(errors.New("there is no terminal to ask on"), "add --yes to apply what telemesh plan says")
	}
	fmt.Fprint(out, "\napply this? only yes is a yes: ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(in).ReadString('\n') // no answer is a no
		answer <- line
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case line := <-answer:
		if strings.TrimSpace(line) != "yes" {
			return errors.New("not applied")
		}
		return nil
	}
}

func (f *cloudFlags) write(p *cloud.Plan, out io.Writer) error {
	if f.format == "json" {
		return p.JSON(out)
	}
	return p.Write(out)
}

// with opens the project.
func (f *cloudFlags) with(ctx context.Context, do func(*cloud.Project) error) (err error) {
	if f.format != "text" && f.format != "json" {
		return hint(fmt.Errorf("unknown format %q", f.format), "--format text or json")
	}
	at, err := f.config()
	if err != nil {
		return err
	}
	c := cloud.Config{Project: at.Project, Location: at.Location, Destroy: f.destroy}
	folder, err := productsFolder(f.products)
	if err != nil {
		return err
	}
	if c.Products, err = contract.Load(folder); err != nil {
		return fmt.Errorf("read contracts: %w", err)
	}
	if f.access != "" {
		text, err := os.ReadFile(f.access)
		if err != nil {
			return hint(err, "docs/sample/access.yaml is one")
		}
		if c.Access, err = cloud.ParseAccess(f.access, text); err != nil {
			return hint(err, "docs/sample/access.yaml is one that is right")
		}
	}
	if f.push != "" {
		if c.PushEndpoint, err = cloud.ParsePushEndpoint(f.push); err != nil {
			return hint(err, "give the address at which Pub/Sub reaches telemetry-ingest, such as --push-endpoint https://ingest.example.org")
		}
	}
	if c.BigQuery, err = at.NewClient(ctx); err != nil {
		return whoApplies.add(err)
	}
	defer func() { err = errors.Join(err, c.BigQuery.Close()) }()
	// Beside an emulator of BigQuery stands no real Pub/Sub.
	if at.Endpoint == "" || os.Getenv("PUBSUB_EMULATOR_HOST") != "" {
		if c.Pubsub, err = pubsub.NewClient(ctx, at.Project); err != nil {
			return whoApplies.add(fmt.Errorf("open Pub/Sub of project %s: %w", at.Project, err))
		}
		defer func() { err = errors.Join(err, c.Pubsub.Close()) }()
	}
	err = do(cloud.New(c))
	if err != nil && ctx.Err() != nil {
		return hint(errors.New("interrupted"), "what was done stays: the same command goes on from there")
	}
	return whoApplies.add(err)
}

// config says which project, and where it is reached.
func (f *cloudFlags) config() (c bigquery.Config, err error) {
	at := f.warehouse
	if url := os.Getenv("WAREHOUSE_URL"); at == "" && strings.HasPrefix(url, "bigquery:") {
		at = url
	}
	if at != "" {
		if c, err = bigquery.ParseURL(at); err != nil {
			return c, hint(err, "give --project acme-air, or --warehouse 'bigquery://acme-air?location=EU', or set WAREHOUSE_URL to that")
		}
	}
	if f.project != "" {
		c.Project = f.project
	}
	if f.location != "" {
		c.Location = f.location
	}
	if c.Location == "" {
		c.Location = "EU"
	}
	if c.Project == "" {
		return c, hint(errors.New("no project"), "--project names it, or WAREHOUSE_URL=bigquery://PROJECT?location=EU")
	}
	// An emulator has projects of any name.
	if c.Endpoint == "" {
		err = checkProject(c.Project)
	}
	return c, err
}
