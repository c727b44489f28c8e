package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/audit"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Check the log of who did what in the portal",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(auditVerify())
	return cmd
}

func auditVerify() *cobra.Command {
	var (
		at    accountsAt
		heads []string
	)
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "See that no entry of the audit log was changed, removed, added or moved",
		Long: `Reads the whole audit log and computes each hash again, which is over the entry
and the hash of the one before. Prints the last entry as SEQ:HASH. Keep that where
nobody who can write to the database can: who can write all of it could make a whole
new log, or cut off its end, and only an entry noted before, given as --head, tells.`,
		Example: `  telemesh audit verify
  telemesh audit verify --head 120:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`,
		Args: arguments(cobra.NoArgs, "no arguments; --head names an entry noted before"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var noted []audit.Head
			for _, s := range heads {
				h, err := audit.ParseHead(s)
				if err != nil {
					return hint(fmt.Errorf("--head %w", err), "`telemesh audit verify` prints one")
				}
				noted = append(noted, h)
			}
			return at.with(cmd.Context(), func(a *accounts) error {
				head, err := a.log.Verify(cmd.Context(), noted...)
				if errors.Is(err, audit.ErrTampered) {
					return hint(err, "compare with a backup of the database; entries up to %d are as they were written, if nobody wrote the log anew", head.Seq)
				}
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "ok: %d entries, each as it was written\n", head.Seq)
				if head.Seq > 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "head %s\n", head)
				}
				return nil
			})
		},
	}
	at.flags(cmd)
	cmd.Flags().StringArrayVar(&heads, "head", nil, "entry noted before, SEQ:HASH; may be repeated")
	return cmd
}
