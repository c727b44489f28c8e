package deadletter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/eventlog"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

const (
	lettersTable  = "event_log_internal.dead_letters"
	outcomesTable = "event_log_internal.dead_letter_outcomes"
)

// Reader answers SQL, as a warehouse does.
type Reader interface {
	Query(ctx context.Context, sql string) (*warehouse.Rows, error)
}

// Put stores a letter, and returns once it is durable.
func Put(ctx context.Context, store warehouse.Warehouse, l *Letter) error {
	rows, err := l.rows()
	if err != nil {
		return mesh.Permanent(err)
	}
	_, err = store.Append(ctx, warehouse.Batch{
		Table: lettersTable,
		// A Broker that does not say when it accepted the event may bring it again
		// after it was redriven: that is another row.
		EventSource: l.ID, EventID: l.ReceivedAt.String(),
		Rows: rows,
	})
	return err
}

// Record stores outcomes of one request.
func Record(ctx context.Context, store warehouse.Warehouse, o Outcome) error {
	_, err := store.Append(ctx, warehouse.Batch{
		Table: outcomesTable, EventSource: o.RequestSource, EventID: o.RequestID + " " + o.LetterID,
		Rows: []warehouse.Row{&o},
	})
	return err
}

// letterColumns are those that a Letter is read from, behind those of its event.
const letterColumns = "letter_id, namespace, trigger, destination, status, cause, received_at, recorded_at"

// ends are the outcomes that close a letter.
const ends = "outcome IN ('" + Redriven + "', '" + Discarded + "')"

// openSQL selects what of the letters that match a condition and are open, each as
// it was recorded last. Where a Broker says when it accepted an event, its letter is
// recorded once.
func openSQL(what, condition string) string {
	return fmt.Sprintf(`WITH letters AS (
	SELECT %s, %s
	FROM %s
	WHERE part = 0 AND %s
	QUALIFY ROW_NUMBER() OVER (PARTITION BY letter_id ORDER BY received_at DESC, recorded_at) = 1
), ended AS (
	SELECT letter_id, MAX(recorded_at) AS ended_at
	FROM %s
	WHERE %s
	GROUP BY letter_id
)
SELECT %s
FROM letters LEFT JOIN ended ON ended.letter_id = letters.letter_id
WHERE ended.ended_at IS NULL OR ended.ended_at < letters.recorded_at
`, eventlog.Attributes, letterColumns, lettersTable, condition, outcomesTable, ends, what)
}

// Open yields the letters that are open, oldest first, without their data.
func Open(ctx context.Context, store Reader) iter.Seq2[Letter, error] {
	return letters(ctx, store, openSQL("letters.*", "TRUE")+"ORDER BY letters.recorded_at, letters.letter_id")
}

// OpenOf yields those of the ids that are open, without their data.
func OpenOf(ctx context.Context, store Reader, ids []string) iter.Seq2[Letter, error] {
	return letters(ctx, store, openSQL("letters.*", "letter_id IN ("+texts(ids)+")"))
}

// Latest yields up to n letters that are open, newest first, without their data.
func Latest(ctx context.Context, store Reader, n int) iter.Seq2[Letter, error] {
	return letters(ctx, store, openSQL("letters.*", "TRUE")+fmt.Sprintf("ORDER BY letters.recorded_at DESC, letters.letter_id LIMIT %d", n))
}

// Count says how many letters are open.
func Count(ctx context.Context, store Reader) (int64, error) {
	rows, err := store.Query(ctx, openSQL("COUNT(*)", "TRUE"))
	if err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	for row, err := range rows.All {
		if err != nil {
			return 0, fmt.Errorf("count dead letters: %w", err)
		}
		n, _ := row[0].(int64)
		return n, nil
	}
	return 0, errors.New("count dead letters: no answer")
}

// Find gives the ids that begin with a prefix, of letters open or not; of many, some.
func Find(ctx context.Context, store Reader, prefix string) (ids []string, err error) {
	rows, err := store.Query(ctx, fmt.Sprintf("SELECT DISTINCT letter_id FROM %s WHERE STARTS_WITH(letter_id, %s) ORDER BY letter_id LIMIT 10",
		lettersTable, literal.Text(prefix)))
	if err != nil {
		return nil, fmt.Errorf("find dead letter %s: %w", prefix, err)
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, fmt.Errorf("find dead letter %s: %w", prefix, err)
		}
		id, _ := row[0].(string)
		ids = append(ids, id)
	}
	return ids, nil
}

func texts(ids []string) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(literal.Text(id))
	}
	return b.String()
}

func letters(ctx context.Context, store Reader, sql string) iter.Seq2[Letter, error] {
	return func(yield func(Letter, error) bool) {
		rows, err := store.Query(ctx, sql)
		if err != nil {
			yield(Letter{}, fmt.Errorf("read dead letters: %w", err))
			return
		}
		for row, err := range rows.All {
			if err != nil {
				yield(Letter{}, fmt.Errorf("read dead letters: %w", err))
				return
			}
			l, _ := read(row) // what is wrong with its event is told to who reads it whole
			if !yield(l, nil) {
				return
			}
		}
	}
}

// eventColumns is how many columns an event has.
var eventColumns = 1 + strings.Count(eventlog.Columns, ",")

// read reads the columns of an event and letterColumns.
func read(row []any) (l Letter, err error) {
	rest := row[eventColumns:]
	text := func(i int) string { s, _ := rest[i].(string); return s }
	l.ID, l.Namespace, l.Trigger, l.Destination, l.Cause = text(0), text(1), text(2), text(3), text(5)
	l.Status, _ = rest[4].(int64)
	if at, ok := rest[6].(time.Time); ok {
		l.ReceivedAt = mesh.At(at)
	}
	if at, ok := rest[7].(time.Time); ok {
		l.RecordedAt = mesh.At(at)
	}
	if l.Event, l.Size, err = eventlog.Read(row); err != nil {
		return l, fmt.Errorf("dead letter %s: %w", l.ID, err)
	}
	return l, nil
}

// ErrNone says that there is no dead letter of an id.
var ErrNone = errors.New("no such dead letter")

// Get gives a letter with its data, open or not, or ErrNone.
func Get(ctx context.Context, store Reader, id string) (Letter, error) {
	whole, err := Whole(ctx, store, []string{id})
	switch {
	case err != nil:
		return Letter{}, err
	case len(whole) == 0:
		return Letter{}, fmt.Errorf("%w: %q", ErrNone, id)
	}
	return whole[0].Letter, whole[0].Err
}

// Read is a letter with its data, or why it cannot be had.
type Read struct {
	Letter
	Err error
}

// Whole gives letters with their data, open or not, by one query: they are in memory
// together.
func Whole(ctx context.Context, store Reader, ids []string) (whole []Read, err error) {
	// Of a letter that came again the parts are those of the last time; a row may be
	// there twice.
	rows, err := store.Query(ctx, fmt.Sprintf(`SELECT %s, %s
FROM %s
WHERE letter_id IN (%s)
QUALIFY ROW_NUMBER() OVER (PARTITION BY letter_id, part ORDER BY received_at DESC, recorded_at) = 1
ORDER BY letter_id, part`, eventlog.Columns, letterColumns, lettersTable, texts(ids)))
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, fmt.Errorf("read dead letters: %w", err)
		}
		l, err := read(row)
		if n := len(whole); n > 0 && whole[n-1].ID == l.ID {
			last := &whole[n-1]
			last.Event.DataEncoded = append(last.Event.DataEncoded, l.Event.DataEncoded...)
			last.Err = errors.Join(last.Err, err)
			continue
		}
		whole = append(whole, Read{l, err})
	}
	for i := range whole {
		if l := &whole[i]; l.Err == nil && int64(len(l.Event.Data())) != l.Size {
			l.Err = fmt.Errorf("dead letter %s: %d of its %d bytes are stored: its Broker sends it again", l.ID, len(l.Event.Data()), l.Size)
		}
	}
	return whole, nil
}

// Outcomes gives what requests of a source led to so far, by letter. None was made
// before since: what the query reads is bounded by it.
func Outcomes(ctx context.Context, store Reader, since mesh.Instant, source string, ids ...string) (map[string]Outcome, error) {
	all, err := outcomes(ctx, store, fmt.Sprintf("done_at >= %s AND request_source = %s AND request_id IN (%s)",
		literal.Time(since), literal.Text(source), texts(ids)))
	return byLetter(all), err
}

// byLetter gives the last of each letter.
func byLetter(all []Outcome) map[string]Outcome {
	out := map[string]Outcome{}
	for _, o := range all {
		out[o.LetterID] = o
	}
	return out
}

// Ends gives what closed letters the last time, by letter.
func Ends(ctx context.Context, store Reader, ids []string) (map[string]Outcome, error) {
	all, err := outcomes(ctx, store, fmt.Sprintf("letter_id IN (%s) AND %s", texts(ids), ends))
	return byLetter(all), err
}

// History gives what became of a letter, one after the other.
func History(ctx context.Context, store Reader, id string) ([]Outcome, error) {
	return outcomes(ctx, store, fmt.Sprintf("letter_id = %s AND outcome <> '%s'", literal.Text(id), Closed))
}

func outcomes(ctx context.Context, store Reader, condition string) (out []Outcome, err error) {
	// A row may be there twice.
	rows, err := store.Query(ctx, fmt.Sprintf(`SELECT DISTINCT letter_id, outcome, destination, status, cause, request_source, request_id, done_at
FROM %s
WHERE %s
ORDER BY done_at, letter_id`, outcomesTable, condition))
	if err != nil {
		return nil, fmt.Errorf("read outcomes of dead letters: %w", err)
	}
	for row, err := range rows.All {
		if err != nil {
			return nil, fmt.Errorf("read outcomes of dead letters: %w", err)
		}
		out = append(out, readOutcome(row))
	}
	return out, nil
}

func readOutcome(row []any) (o Outcome) {
	text := func(i int) string { s, _ := row[i].(string); return s }
	o = Outcome{LetterID: text(0), Outcome: text(1), Destination: text(2), Cause: text(4), RequestSource: text(5), RequestID: text(6)}
	o.Status, _ = row[3].(int64)
	if at, ok := row[7].(time.Time); ok {
		o.DoneAt = mesh.At(at)
	}
	return o
}
