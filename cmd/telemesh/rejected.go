package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/rejected"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

// A name as it is shown: of a million messages two have the same one once in five
// hundred times, and then it is refused.
const shownID = 12

var hexID = regexp.MustCompile(`^[0-9a-f]{4,32}$`)

func selectionFlags(cmd *cobra.Command, s *rejected.Selection) {
	cmd.Flags().StringVar(&s.Cause, "cause", "", "those whose cause has this in it; * stands for anything")
	cmd.Flags().StringVar(&s.Reader, "reader", "", "those that were read as this format; - for none")
	cmd.Flags().StringVar(&s.Device, "device", "", "those of this device, where the transport named it; - for none")
}

// keysOf gives the messages whose ids begin with some.
func keysOf(ctx context.Context, w warehouse.Warehouse, ids []string) ([]rejected.Key, error) {
	keys, err := rejected.Keys(ctx, w, ids)
	if unknown, ok := errors.AsType[*rejected.UnknownError](err); ok && unknown.Matches > 0 {
		return nil, hint(err, "`telemesh rejected list --all --json` gives the whole ids")
	} else if ok {
		return nil, hint(err, "`telemesh rejected list --all` gives the ids")
	}
	return keys, err
}

// withIDs adds the ids to rows of messages.
func withIDs(rows *warehouse.Rows) *warehouse.Rows {
	columns := append([]contract.Column{{Name: "id", Type: contract.String}}, rows.Columns...)
	return &warehouse.Rows{Columns: columns, All: func(yield func([]any, error) bool) {
		var line []any
		for row, err := range rows.All {
			if err == nil {
				line = append(append(line[:0], rejected.KeyOf(row).Name()), row...)
			}
			if !yield(line, err) {
				return
			}
		}
	}}
}

func rejectedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rejected",
		Short: "Show the messages that could not be read, and read them again",
		Long: `A message that no reader can read is kept as it came in, with the reader that was
tried, the cause and the byte it is at. Once a reader or a mapping is fixed it is
retried: read again as if it had just come, with the time it was received at
then.`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(rejectedList(), rejectedShow(), rejectedRetry())
	return cmd
}

// groupings are what rejected messages can be counted by.
var groupings = map[string]string{"cause": "cause", "reader": "reader", "device": "device_id", "source": "source"}

func rejectedList() *cobra.Command {
	var (
		at     warehouseAt
		by     string
		s      rejected.Selection
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "One line for each rejected message that is not read yet, newest first",
		Example: `  telemesh rejected list --by cause
  telemesh rejected list --reader ttn-v3 --cause 'time*neither'`,
		Args: arguments(cobra.NoArgs, "no arguments; --cause, --reader and --device choose"),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			columns := "* REPLACE ('' AS payload, false AS payload_base64)"
			if asJSON {
				columns = "*"
			}
			sql := fmt.Sprintf("SELECT %s FROM messages WHERE %s ORDER BY received_at DESC, source, message_id", columns, s.Where())
			if by != "" {
				column, ok := groupings[by]
				if !ok {
					return hint(fmt.Errorf("cannot count by %q", by), "--by cause, reader, device or source")
				}
				sql = fmt.Sprintf("SELECT count(*) AS messages, max(received_at) AS latest, %[1]s AS %[2]s FROM messages WHERE %[3]s GROUP BY %[1]s ORDER BY messages DESC, %[1]s",
					column, by, s.Where())
			}
			return at.with(cmd.Context(), func(w warehouse.Warehouse) error {
				rows, err := w.Query(cmd.Context(), rejected.SQL+sql)
				switch {
				case err != nil:
					return err
				case by != "" && asJSON:
					return writeJSON(cmd.OutOrStdout(), rows)
				case by != "":
					return writeGroups(cmd.OutOrStdout(), by, rows)
				case asJSON:
					return writeJSON(cmd.OutOrStdout(), withIDs(rows))
				}
				return writeRejected(cmd.OutOrStdout(), rows, s.All)
			})
		},
	}
	at.flags(cmd)
	selectionFlags(cmd, &s)
	cmd.Flags().BoolVar(&s.All, "all", false, "those that were read after all, too")
	cmd.Flags().StringVar(&by, "by", "", "count them by cause, reader, device or source")
	cmd.Flags().BoolVar(&asJSON, "json", false, "an object a line, with the bytes")
	return cmd
}

func withWarehouse(ctx context.Context, data string, do func(warehouse.Warehouse) error) error {
	w, err := attach(ctx, data)
	if err != nil {
		return err
	}
	err = do(w)
	if _, elsewhere := w.(*remote.Warehouse); elsewhere && err != nil && ctx.Err() == nil && !errors.As(err, new(hinted)) {
		if client, gone := dialFolder(ctx, data); gone == nil {
			client.CloseIdleConnections()
		} else {
			err = hint(fmt.Errorf("the telemesh that held %s ended meanwhile: %w", data, err), "run the command again: it opens the folder itself then")
		}
	}
	return errors.Join(err, w.Close())
}

const noRejected = "no rejected messages"

func writeRejected(out io.Writer, rows *warehouse.Rows, all bool) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	n := 0
	line := func(readings string, cells ...string) {
		if all {
			cells = append(cells[:len(cells)-1:len(cells)-1], readings, cells[len(cells)-1])
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	for row, err := range rows.All {
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		r, err := rejected.Read(row)
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		if n++; n == 1 {
			line("READINGS", "ID", "RECEIVED", "SOURCE", "DEVICE", "READER", "POSITION", "CAUSE")
		}
		position, readings := "", ""
		if offset := r.Position.Offset(); offset >= 0 {
			position = fmt.Sprint(offset)
		}
		if r.Readings != nil {
			readings = fmt.Sprint(*r.Readings)
		}
		line(orDash(readings), r.Name[:shownID], r.ReceivedAt.String(), plain(r.Source), orDash(plain(r.DeviceID)), orDash(plain(r.Reader)), orDash(position), plain(short(r.Cause)))
	}
	if n == 0 {
		fmt.Fprintln(table, noRejected)
	}
	return table.Flush()
}

func writeGroups(out io.Writer, by string, rows *warehouse.Rows) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	n := 0
	for row, err := range rows.All {
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		if n++; n == 1 {
			fmt.Fprintf(table, "MESSAGES\tLATEST\t%s\n", strings.ToUpper(by))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", text(row[0]), text(row[1]), orDash(plain(short(text(row[2])))))
	}
	if n == 0 {
		fmt.Fprintln(table, noRejected)
	}
	return table.Flush()
}

func rejectedShow() *cobra.Command {
	var at warehouseAt
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "All of one rejected message, with its bytes and where the cause is",
		Args:  arguments(cobra.ExactArgs(1), "the id of a rejected message"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.with(cmd.Context(), func(w warehouse.Warehouse) error {
				return showRejected(cmd.Context(), w, args, cmd.OutOrStdout())
			})
		},
	}
	at.flags(cmd)
	return cmd
}

func showRejected(ctx context.Context, w warehouse.Warehouse, ids []string, out io.Writer) error {
	keys, err := keysOf(ctx, w, ids)
	if err != nil {
		return err
	}
	for m, err := range rejected.Select(ctx, w, rejected.Selection{Keys: keys}, "received_at") {
		if err != nil {
			return err
		}
		found, err := rejected.History(ctx, w, keys[0])
		if err != nil {
			return err
		}
		return showMessage(out, &m, found)
	}
	return nil
}

// showMessage writes everything that is known of a message; found is when what was
// found about it.
func showMessage(out io.Writer, m *rejected.Message, found []rejected.Found) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	attributes, err := json.Marshal(m.Attributes)
	if err != nil {
		return err
	}
	if len(m.Attributes) == 0 {
		attributes = nil
	}
	for _, line := range [][2]string{
		{"id", m.Name}, {"received", m.ReceivedAt.String()}, {"source", m.Source}, {"message", m.ID}, {"device", m.DeviceID},
		{"format", m.Format}, {"content type", m.ContentType}, {"attributes", string(attributes)}, {"reader", m.Reader}, {"cause", m.Cause},
	} {
		fmt.Fprintf(table, "%s\t%s\n", line[0], orDash(plain(line[1])))
	}
	for _, f := range found {
		what := "rejected: " + f.Cause
		if f.Readings >= 0 {
			what = fmt.Sprint(f.Readings, " readings")
		}
		fmt.Fprintf(table, "recorded\t%s %s (%s %s)\n", f.At, plain(what), plain(f.EventSource), plain(f.EventID))
	}
	if !m.IsMessage() {
		fmt.Fprintf(table, "not retried\t%s\n", plain(m.WhyNotRetried()))
	}
	fmt.Fprintf(table, "payload\t%d bytes%s\n\n", len(m.Payload), rejected.Place(m.Payload, m.Position.Offset()))
	if err := table.Flush(); err != nil {
		return err
	}
	_, err = io.WriteString(out, rejected.Marked(m.Payload, m.Position.Offset()))
	return err
}

// plain is foreign text as it is, unless it holds what a terminal obeys.
func plain(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) < 0 {
		return s
	}
	quoted := fmt.Sprintf("%q", s)
	return quoted[1 : len(quoted)-1]
}
