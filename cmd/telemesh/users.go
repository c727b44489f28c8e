package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/database"
	"github.com/telemesh/telemesh/internal/users"
)

func usersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "users",
		Short: "Say who may use the portal",
		Long: `The users of the portal are in the data folder, or in the database that --database
or DATABASE_URL names. A user who is added or reset gets a link, by which they
choose a password and set up the device that makes their codes: nobody else ever
knows them. What is changed here counts at once, also while ` + "`telemesh up`" + ` runs.

An admin may do everything, an analyst sees the data of all tenants, and a user of
the role tenant those of their tenants.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(usersAdd(), usersList(), usersDisable(), usersEnable(), usersReset())
	return cmd
}

// accountsAt says where the users are.
type accountsAt struct{ data, database string }

func (at *accountsAt) flags(cmd *cobra.Command) {
	dataFlag(cmd, &at.data)
	cmd.Flags().StringVar(&at.database, "database", "", "database of users, postgres://USER:PASSWORD@HOST/NAME or sqlite:PATH (default: $DATABASE_URL, else that of the data folder)")
}

// with opens the users for f.
func (at *accountsAt) with(ctx context.Context, f func(*accounts) error) (err error) {
	address := at.database
	if address == "" {
		address = os.Getenv("DATABASE_URL")
	}
	if address == "" {
		if err := folderExists(at.data); err != nil {
			return err
		}
		address = databaseIn(at.data)
	}
	// It would be made, and be nobody's.
	if file, ok := strings.CutPrefix(address, "sqlite:"); ok {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return hint(fmt.Errorf("no database of users %s", file), "`telemesh up` makes it; --data or --database names another")
		}
	}
	a, err := openAccounts(ctx, address)
	if errors.Is(err, database.ErrAddress) {
		return hint(err, "see `telemesh users add --help`")
	}
	if errors.Is(err, database.ErrNewer) {
		return hint(err, "take the telemesh that made it, or a later one")
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.db.Close()) }()
	return f(a)
}

// user gives the one of a name.
func (a *accounts) user(ctx context.Context, name string) (users.User, error) {
	u, err := a.Named(ctx, name)
	if errors.Is(err, users.ErrNotFound) {
		return u, hint(fmt.Errorf("there is no user %q", name), "`telemesh users list` gives the names")
	}
	return u, err
}

// explained says what to do about an error of users.
func explained(err error) error {
	switch {
	case errors.Is(err, users.ErrTenants):
		return hint(err, "--tenant names a tenant, and may be repeated")
	case errors.Is(err, users.ErrRole):
		return hint(err, "--role admin, analyst or tenant")
	case errors.Is(err, users.ErrTaken):
		return hint(err, "`telemesh users reset NAME` gives them a new link")
	case errors.Is(err, users.ErrLastAdmin):
		return hint(err, "`telemesh users add --role admin NAME`, and have the link used")
	}
	return err
}

// portalFlag names where the portal is reached, for links.
func portalFlag(cmd *cobra.Command, address *string) {
	cmd.Flags().StringVar(address, "portal", "", "address of the portal, for the link (default: $PORTAL_URL, else http://127.0.0.1:8080)")
}

// writeLink prints the link of a user.
func writeLink(out io.Writer, portal string, u users.User, l users.Link) {
	for _, other := range []string{os.Getenv("PORTAL_URL"), "http://127.0.0.1:8080"} {
		if portal == "" {
			portal = other
		}
	}
	fmt.Fprintf(out, "for %s, once, until %s:\n%s\n", u.Name, l.ExpiresAt.Format("2006-01-02 15:04 UTC"), strings.TrimSuffix(portal, "/")+l.Path())
}

func usersAdd() *cobra.Command {
	var (
		at      accountsAt
		portal  string
		role    string
		tenants []string
	)
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user, and print the link by which they set up their log-in",
		Example: `  telemesh users add --role admin ann
  telemesh users add --tenant linden-school principal@linden.example`,
		Args: arguments(cobra.ExactArgs(1), "the name of one user"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.with(cmd.Context(), func(a *accounts) error {
				u, link, err := a.Add(cmd.Context(), atCommandLine(), args[0], access.Role(role), tenants)
				if err != nil {
					return explained(err)
				}
				writeLink(cmd.OutOrStdout(), portal, u, link)
				return nil
			})
		},
	}
	at.flags(cmd)
	portalFlag(cmd, &portal)
	cmd.Flags().StringVar(&role, "role", string(access.Tenant), "admin, analyst or tenant")
	cmd.Flags().StringArrayVar(&tenants, "tenant", nil, "tenant whose data a user of the role tenant sees; may be repeated")
	return cmd
}

func usersList() *cobra.Command {
	var (
		at     accountsAt
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "One line for each user",
		Args:  arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return at.with(cmd.Context(), func(a *accounts) error {
				all, err := a.List(cmd.Context())
				if err != nil {
					return err
				}
				return writeUsers(cmd.OutOrStdout(), all, asJSON)
			})
		},
	}
	at.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}

func writeUsers(out io.Writer, all []users.User, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		for _, u := range all {
			err := e.Encode(map[string]any{"id": u.ID, "name": u.Name, "role": u.Role, "tenants": u.Tenants, "state": state(u), "created_at": u.CreatedAt, "changed_at": u.ChangedAt})
			if err != nil {
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		fmt.Fprintln(out, "no users")
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tROLE\tTENANTS\tSTATE\tCHANGED")
	for _, u := range all {
		tenants := strings.Join(u.Tenants, ", ")
		if tenants == "" {
			tenants = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", u.Name, u.Role, tenants, state(u), u.ChangedAt.Format(time.RFC3339))
	}
	return table.Flush()
}

func state(u users.User) string {
	switch {
	case u.Disabled:
		return "disabled"
	case u.Demo:
		return "demo"
	case u.SetUp:
		return "can log in"
	}
	return "not set up"
}

func usersDisable() *cobra.Command {
	return usersAble("disable", "Keep a user from logging in, and log them out", true)
}

func usersEnable() *cobra.Command {
	return usersAble("enable", "Let a user who was disabled log in again", false)
}

func usersAble(name, short string, disabled bool) *cobra.Command {
	var at accountsAt
	cmd := &cobra.Command{
		Use:   name + " NAME",
		Short: short,
		Args:  arguments(cobra.ExactArgs(1), "the name of one user"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.with(cmd.Context(), func(a *accounts) error {
				u, err := a.user(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if u, err = a.Change(cmd.Context(), atCommandLine(), u.ID, u.Role, u.Tenants, disabled); err != nil {
					return explained(err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", u.Name, state(u))
				return nil
			})
		},
	}
	at.flags(cmd)
	return cmd
}

func usersReset() *cobra.Command {
	var (
		at     accountsAt
		portal string
	)
	cmd := &cobra.Command{
		Use:   "reset NAME",
		Short: "Take away what a user logs in with, and print a link that sets it up anew",
		Args:  arguments(cobra.ExactArgs(1), "the name of one user"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.with(cmd.Context(), func(a *accounts) error {
				u, err := a.user(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				u, link, err := a.Reset(cmd.Context(), atCommandLine(), u.ID)
				if err != nil {
					return explained(err)
				}
				writeLink(cmd.OutOrStdout(), portal, u, link)
				return nil
			})
		},
	}
	at.flags(cmd)
	portalFlag(cmd, &portal)
	return cmd
}
