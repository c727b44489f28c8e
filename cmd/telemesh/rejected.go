package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

// rejectedSQL is what the table of rejected messages says, in SQL that both
// warehouses know: messages are those that something was found about, each with
// the latest of it.
const rejectedSQL = `WITH messages AS (
	SELECT received_at, source, message_id, device_id, format, content_type, attributes, payload, payload_base64, reader, position, cause,
		FIRST_VALUE(event_source) OVER (PARTITION BY received_at, source, message_id, device_id, format, content_type, payload ORDER BY recorded_at) AS refused_by,
		LAST_VALUE(readings IGNORE NULLS) OVER (PARTITION BY received_at, source, message_id, device_id, format, content_type, payload
			ORDER BY recorded_at ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS readings
	FROM iot_telemetry_internal.rejected
	QUALIFY ROW_NUMBER() OVER (PARTITION BY received_at, source, message_id, device_id, format, content_type, payload ORDER BY recorded_at DESC) = 1
)
`

// messageKey is the key of a message in its contract.
type messageKey struct {
	receivedAt mesh.Instant
	source, id string
}

// keyOf reads the columns that messages begin with.
func keyOf(row []any) (k messageKey) {
	if at, ok := row[0].(time.Time); ok {
		k.receivedAt = mesh.At(at)
	}
	k.source, _ = row[1].(string)
	k.id, _ = row[2].(string)
	return k
}

// name is the id of the message: the warehouses have no hash of one notation, so
// it is made here.
func (k messageKey) name() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%s", k.receivedAt, k.source, k.id))
	return hex.EncodeToString(sum[:16])
}

func (k messageKey) condition() string {
	return fmt.Sprintf("(received_at = %s AND source = %s AND message_id = %s)", literal.Time(k.receivedAt), literal.Text(k.source), literal.Text(k.id))
}

// rejected is a row of messages.
type rejected struct {
	id string
	mesh.Rejection
	refusedBy string // source of the event that reported it first
}

func readRejected(row []any) (r rejected, err error) {
	text := func(i int) string { s, _ := row[i].(string); return s }
	key := keyOf(row)
	r.id, r.ReceivedAt, r.Source, r.ID = key.name(), key.receivedAt, key.source, key.id
	r.DeviceID, r.Format, r.ContentType = text(3), text(4), text(5)
	if s := text(6); s != "" {
		if err := json.Unmarshal([]byte(s), &r.Attributes); err != nil {
			return r, fmt.Errorf("rejected message %s: attributes: %w", r.id, err)
		}
	}
	r.Payload = []byte(text(7))
	if binary, _ := row[8].(bool); binary {
		if r.Payload, err = base64.StdEncoding.DecodeString(text(7)); err != nil {
			return r, fmt.Errorf("rejected message %s: payload: %w", r.id, err)
		}
	}
	r.Reader, r.Cause, r.refusedBy = text(9), text(11), text(12)
	if position, ok := row[10].(int64); ok {
		r.Position = mesh.PositionAt(int(position))
	}
	if readings, ok := row[13].(int64); ok {
		r.Readings = &readings
	}
	return r, nil
}

// name is an id as it is shown: of a million messages two have the same one
// once in five hundred times, and then it is refused.
func (r *rejected) name() string { return r.id[:shownID] }

const shownID = 12

// isMessage says whether it was a device's message when it was rejected.
// Sources refuse what is none: a broken CloudEvent, with all that is around the
// message.
func (r *rejected) isMessage() bool { return r.refusedBy == mesh.Source("telemetry-flatten") }

func (r *rejected) whyNotRetried() string {
	return fmt.Sprintf("%s refused it before it was a message: it is kept as it came in; its sender has to send it right",
		strings.TrimPrefix(r.refusedBy, mesh.Source("")))
}

// why is the cause with its place.
func (r *rejected) why() string {
	var at []string
	if r.Reader != "" {
		at = append(at, r.Reader)
	}
	if offset := r.Position.Offset(); offset >= 0 {
		at = append(at, fmt.Sprintf("byte %d", offset))
	}
	if len(at) == 0 {
		return r.Cause
	}
	return strings.Join(at, ", ") + ": " + r.Cause
}

// selection says which rejected messages are meant.
type selection struct {
	keys                  []messageKey
	cause, reader, device string
	all                   bool
}

func (s *selection) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.cause, "cause", "", "those whose cause has this in it; * stands for anything")
	cmd.Flags().StringVar(&s.reader, "reader", "", "those that were read as this format; - for none")
	cmd.Flags().StringVar(&s.device, "device", "", "those of this device, where the transport named it; - for none")
}

func (s *selection) filtered() bool { return s.cause != "" || s.reader != "" || s.device != "" }

// where is the condition on messages. all has those that were read after all,
// too.
func (s *selection) where() string {
	conditions := []string{"true"}
	if len(s.keys) > 0 {
		var keys []string
		for _, k := range s.keys {
			keys = append(keys, k.condition())
		}
		return "(" + strings.Join(keys, " OR ") + ")"
	}
	if !s.all {
		conditions = append(conditions, "readings IS NULL")
	}
	if s.cause != "" {
		// The dialects escape differently in a pattern: what would need it is made
		// other characters on both sides, of those that nobody uses.
		const special, instead = `\%_`, "\ue000\ue001\ue002"
		pattern := strings.NewReplacer(`\`, "\ue000", `%`, "\ue001", `_`, "\ue002", `*`, `%`).Replace(s.cause)
		conditions = append(conditions, fmt.Sprintf("TRANSLATE(LOWER(cause), %s, %s) LIKE LOWER(%s)",
			literal.Text(special), literal.Text(instead), literal.Text("%"+pattern+"%")))
	}
	for column, value := range map[string]string{"reader": s.reader, "device_id": s.device} {
		switch value {
		case "":
		case "-":
			conditions = append(conditions, column+" IS NULL")
		default:
			conditions = append(conditions, column+" = "+literal.Text(value))
		}
	}
	return strings.Join(conditions, " AND ")
}

var hexID = regexp.MustCompile(`^[0-9a-f]{4,32}$`)

// keysOf gives the messages whose ids begin with some, or says which of these
// names no message, or more than one.
func keysOf(ctx context.Context, w warehouse.Warehouse, ids []string) ([]messageKey, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := w.Query(ctx, "SELECT DISTINCT received_at, source, message_id FROM iot_telemetry_internal.rejected")
	if err != nil {
		return nil, err
	}
	keys, found := make([]messageKey, len(ids)), make([]int, len(ids))
	for row, err := range rows.All {
		if err != nil {
			return nil, err
		}
		key := keyOf(row)
		name := key.name()
		for i, id := range ids {
			if hexID.MatchString(id) && strings.HasPrefix(name, id) {
				keys[i] = key
				found[i]++
			}
		}
	}
	for i, id := range ids {
		switch n := found[i]; {
		case n == 0:
			return nil, hint(fmt.Errorf("no rejected message %q", id), "`telemesh rejected list --all` gives the ids")
		case n > 1:
			return nil, hint(fmt.Errorf("%d rejected messages have an id that begins with %q", n, id), "`telemesh rejected list --all --json` gives the whole ids")
		}
	}
	return keys, nil
}

// withIDs adds the ids to rows of messages.
func withIDs(rows *warehouse.Rows) *warehouse.Rows {
	columns := append([]contract.Column{{Name: "id", Type: contract.String}}, rows.Columns...)
	return &warehouse.Rows{Columns: columns, All: func(yield func([]any, error) bool) {
		var line []any
		for row, err := range rows.All {
			if err == nil {
				line = append(append(line[:0], keyOf(row).name()), row...)
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
		s      selection
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
			sql := fmt.Sprintf("SELECT %s FROM messages WHERE %s ORDER BY received_at DESC, source, message_id", columns, s.where())
			if by != "" {
				column, ok := groupings[by]
				if !ok {
					return hint(fmt.Errorf("cannot count by %q", by), "--by cause, reader, device or source")
				}
				sql = fmt.Sprintf("SELECT count(*) AS messages, max(received_at) AS latest, %[1]s AS %[2]s FROM messages WHERE %[3]s GROUP BY %[1]s ORDER BY messages DESC, %[1]s",
					column, by, s.where())
			}
			return at.with(cmd.Context(), func(w warehouse.Warehouse) error {
				rows, err := w.Query(cmd.Context(), rejectedSQL+sql)
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
				return writeRejected(cmd.OutOrStdout(), rows, s.all)
			})
		},
	}
	at.flags(cmd)
	s.flags(cmd)
	cmd.Flags().BoolVar(&s.all, "all", false, "those that were read after all, too")
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
		r, err := readRejected(row)
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
		line(orDash(readings), r.name(), r.ReceivedAt.String(), plain(r.Source), orDash(plain(r.DeviceID)), orDash(plain(r.Reader)), orDash(position), plain(short(r.Cause)))
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
	s := selection{keys: keys}
	rows, err := w.Query(ctx, rejectedSQL+"SELECT * FROM messages WHERE "+s.where())
	if err != nil {
		return err
	}
	for row, err := range rows.All {
		if err != nil {
			return err
		}
		r, err := readRejected(row)
		if err != nil {
			return err
		}
		found, err := w.Query(ctx, "SELECT recorded_at, cause, readings, event_source, event_id FROM iot_telemetry_internal.rejected WHERE "+s.where()+" ORDER BY recorded_at")
		if err != nil {
			return err
		}
		return r.show(out, found)
	}
	return nil
}

// show writes everything that is known of a message; found is when what was
// found about it.
func (r *rejected) show(out io.Writer, found *warehouse.Rows) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	attributes, err := json.Marshal(r.Attributes)
	if err != nil {
		return err
	}
	if len(r.Attributes) == 0 {
		attributes = nil
	}
	for _, line := range [][2]string{
		{"id", r.id}, {"received", r.ReceivedAt.String()}, {"source", r.Source}, {"message", r.ID}, {"device", r.DeviceID},
		{"format", r.Format}, {"content type", r.ContentType}, {"attributes", string(attributes)}, {"reader", r.Reader}, {"cause", r.Cause},
	} {
		fmt.Fprintf(table, "%s\t%s\n", line[0], orDash(plain(line[1])))
	}
	for row, err := range found.All {
		if err != nil {
			return err
		}
		what := "rejected: " + text(row[1])
		if row[2] != nil {
			what = text(row[2]) + " readings"
		}
		fmt.Fprintf(table, "recorded\t%s %s (%s %s)\n", text(row[0]), plain(what), plain(text(row[3])), plain(text(row[4])))
	}
	if !r.isMessage() {
		fmt.Fprintf(table, "not retried\t%s\n", plain(r.whyNotRetried()))
	}
	fmt.Fprintf(table, "payload\t%d bytes%s\n\n", len(r.Payload), place(r.Payload, r.Position.Offset()))
	if err := table.Flush(); err != nil {
		return err
	}
	_, err = io.WriteString(out, marked(r.Payload, r.Position.Offset()))
	return err
}

// place says in words where the byte at an offset is; -1 is nowhere.
func place(payload []byte, offset int) string {
	switch {
	case offset < 0:
		return ""
	case !isText(payload):
		return fmt.Sprintf("; the cause is at byte %d", offset)
	}
	before := payload[:min(offset, len(payload))]
	line := bytes.LastIndexByte(before, '\n') + 1
	return fmt.Sprintf("; the cause is at byte %d: line %d, column %d", offset, bytes.Count(before, []byte("\n"))+1, utf8.RuneCount(before[line:])+1)
}

// isText says whether bytes are text that a terminal shows and does not obey.
func isText(payload []byte) bool {
	return utf8.Valid(payload) && bytes.IndexFunc(payload, func(r rune) bool {
		return !unicode.IsPrint(r) && r != '\n' && r != '\t' && r != '\r' || r == unicode.ReplacementChar
	}) < 0
}

// marked gives the bytes, text as it is and other bytes in hexadecimal, with a
// mark under the one at an offset; -1: none.
func marked(payload []byte, offset int) string {
	var out strings.Builder
	dump, atByte, mark := string(payload), offset, "^"
	if !isText(payload) {
		dump, mark = hex.Dump(payload), "^^"
		if offset >= 0 {
			atByte = dumpOffset(payload, offset)
		}
	}
	atByte = min(atByte, len(dump))
	for from, line := range lines(dump) {
		out.WriteString(strings.TrimRight(line, "\r\n"))
		out.WriteByte('\n')
		// The end of a line belongs to it; the end of all to the last one.
		if atByte < from || atByte >= from+len(line) && from+len(line) < len(dump) {
			continue
		}
		// A terminal breaks a line that is longer: the mark stands under its piece.
		before := line[:atByte-from]
		if n := utf8.RuneCountInString(before); n > widest {
			fmt.Fprintf(&out, "%s column %d, after …%s\n", mark, n+1, string([]rune(before)[n-widest/2:]))
			continue
		}
		for _, r := range before {
			if r != '\t' {
				r = ' '
			}
			out.WriteRune(r)
		}
		out.WriteString(mark + "\n")
	}
	return out.String()
}

// widest is how far to the right a mark is seen for what it marks.
const widest = 100

// lines yields the lines of s with their offsets, at least one.
func lines(s string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		from := 0
		for line := range strings.Lines(s) {
			if !yield(from, line) {
				return
			}
			from += len(line)
		}
		if from == 0 {
			yield(0, "")
		}
	}
}

// dumpOffset is where hex.Dump puts a byte: 16 a line of "00000000  ", three
// characters for each with a space after the eighth, and the text.
func dumpOffset(payload []byte, offset int) int {
	offset = min(offset, len(payload))
	line := offset / 16
	if offset == len(payload) && offset%16 == 0 && offset > 0 {
		line-- // the byte after a full last line
	}
	const width = 10 + 16*3 + 2 + 18 + 1
	i := offset - line*16
	return line*width + 10 + i*3 + i/8
}

// plain is foreign text as it is, unless it holds what a terminal obeys.
func plain(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) < 0 {
		return s
	}
	quoted := fmt.Sprintf("%q", s)
	return quoted[1 : len(quoted)-1]
}
