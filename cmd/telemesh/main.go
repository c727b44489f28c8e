// Command telemesh runs the mesh on one machine, feeds it, asks it and checks
// it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run()) }

// run is main but for the exit, so that tests can have it as a command.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if code := exitCode(0); errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintf(os.Stderr, "telemesh: %v\n", err)
	var h hinted
	if errors.As(err, &h) {
		fmt.Fprintf(os.Stderr, "hint: %s\n", h.hint)
	}
	return 1
}

// exitCode is the error of a command that ended well and has more to say than
// that.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// hinted is an error with what to do about it.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hinted{err, fmt.Sprintf(format, args...)}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "telemesh",
		Short: "An IoT data mesh whose readings stay with the tenant of their time",
		Long: `Telemesh turns device messages into rows of one metric, stamps each with the
tenant that held the device at that instant, joins it with place, customer and
logbook, and serves the result as data products.

This command runs the whole mesh on one machine: the functions and the YAML are
those that a Knative cluster runs, on an embedded broker and DuckDB. All of it
is kept in one folder, --data.

  telemesh up --simulate        start everything, with a simulated fleet
  telemesh query 'SELECT …'     ask, while it runs or after
  telemesh replay FILE          feed files through the mesh and wait for the end`,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          unknownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hint(err, "see `%s --help`", cmd.CommandPath())
	})
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.AddCommand(
		upCommand(), replayCommand(), queryCommand(), traceCommand(), simulateCommand(),
		checkCommand(), policyCommand(), catalogCommand(), preflightCommand(), proveCommand(),
		placementsCommand(), rejectedCommand(), sheetsCommand(), deadlettersCommand(), warehouseCommand(),
		planCommand(), applyCommand(), dashboardsCommand(), usersCommand(), auditCommand(),
		lineageCommand(), qualityCommand(), newCommand(), subscribeCommand(),
	)
	return cmd
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	path := cmd.CommandPath()
	text := fmt.Sprintf("see `%s --help` for the commands there are", path)
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text = fmt.Sprintf("did you mean `%s %s`?", path, strings.Join(near, "` or `"+path+" "))
	}
	return hint(fmt.Errorf("unknown command %q", args[0]), "%s", text)
}

// arguments makes an argument check of cobra's say what to do.
func arguments(check cobra.PositionalArgs, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) != nil {
			return hint(fmt.Errorf("`%s` takes %s", cmd.CommandPath(), what), "see `%s --help`", cmd.CommandPath())
		}
		return nil
	}
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
