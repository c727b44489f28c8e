package duckdb

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/warehouse"
)

// seen knows which rows a table has, so that a new row is told from one that
// is stored already without asking DuckDB. It holds a print of each row, by
// buckets of an hour of the table's time (a table without one is one bucket), or
// of a minute where rows come in the order of that time and never late.
// Buckets outside the time that the table spans are known to be empty, so a
// stream in order never asks the table. Rows of a bucket that is not held are
// disputed, as those of keys that have rows: the table is asked for their keys.
// Only when many rows fell into such a bucket it is read, since it has the rows
// of all devices, and a repair or late data may touch one device in each hour.
//
// A miss is certain. A hit is certain enough: two rows that differ have the
// same print once in 2^128.
type seen struct {
	loaded  bool // first and last are known
	first   int64
	last    int64 // first > last: the table is empty
	buckets map[int64]*bucket
	held    int   // rows in buckets, and a constant for each bucket
	limit   int   // of held; 0: maxHeld
	worth   int   // rows that have to fall into a bucket until it is read; 0: worthReading
	rows    int64 // of the table, or somewhat more
	round   uint64
}

type bucket struct {
	rows  map[uint64]mark // nil: not read
	asked int             // rows that fell into it before it was read
	used  uint64          // round it was last used in
}

// mark is what is known of the row of a key. A content of 0 says that the key
// has several rows: ask the table.
type mark struct {
	content  uint64
	received int64
}

const (
	minute     = 60 * 1_000_000 // of a bucket, in µs
	hour       = 60 * minute
	bucketCost = 16      // rows that an empty bucket weighs
	maxHeld    = 4 << 20 // rows; about 40 bytes each
)

// worthReading is how many rows have to fall into a bucket until it is read. To
// ask for a key takes about as long as to read 25 rows; so it is an eighth of what
// a bucket has on average, since some of what is read is not asked for later.
func (s *seen) worthReading() int {
	const least, most = 64, 4096
	return cmp.Or(s.worth, int(min(max(s.rows/(s.last-s.first+1)/8, least), most)))
}

func bucketOf(at, width int64) int64 {
	if at < 0 {
		at -= width - 1
	}
	return at / width
}

// reset forgets everything: the transaction that wrote it was rolled back.
func (s *seen) reset() { *s = seen{round: s.round, limit: s.limit, worth: s.worth} }

// prepare makes the memory hold the buckets of the prints.
func (t *table) prepare(c conn, prints [][]print) error {
	s := &t.seen
	s.round++
	if !s.loaded {
		s.buckets = map[int64]*bucket{}
		s.first, s.last = math.MaxInt64, math.MinInt64
		at := "make_timestamp(0)"
		if t.ranking.Time >= 0 {
			at = name(t.ranking.Stored[t.ranking.Time].Name)
		}
		row, err := c.one(fmt.Sprintf("SELECT count(*), coalesce(epoch_us(min(%[1]s)), 0), coalesce(epoch_us(max(%[1]s)), 0) FROM %[2]s",
			at, t.storage(currentSuffix)))
		if err != nil {
			return err
		}
		if s.rows = row[0]; s.rows > 0 {
			s.first, s.last = bucketOf(row[1], t.width), bucketOf(row[2], t.width)
		}
		s.loaded = true
	}
	worth := 0
	if s.first <= s.last { // else no bucket is to be read
		worth = s.worthReading()
	}
	missing := map[int64]bool{}
	for _, event := range prints {
		for i := range event {
			n := event[i].bucket
			b := s.buckets[n]
			if b == nil {
				b = &bucket{}
				if n < s.first || n > s.last {
					b.rows = map[uint64]mark{}
				}
				s.buckets[n] = b
				s.held += bucketCost
			}
			if b.rows == nil {
				if b.asked++; b.asked >= worth {
					missing[n] = true
				}
			}
			b.used = s.round
		}
	}
	for n := range missing {
		s.buckets[n].rows = map[uint64]mark{}
	}
	if len(missing) > 0 {
		if err := t.load(c, slices.Sorted(maps.Keys(missing))); err != nil {
			return err
		}
	}
	for _, event := range prints {
		s.rows += int64(len(event))
		for i := range event {
			s.first, s.last = min(s.first, event[i].bucket), max(s.last, event[i].bucket)
		}
	}
	s.evict()
	return nil
}

// load reads buckets, which are in order.
func (t *table) load(c conn, missing []int64) error {
	where := ""
	if t.ranking.Time >= 0 {
		at := name(t.ranking.Stored[t.ranking.Time].Name)
		where = fmt.Sprintf("WHERE %[1]s >= make_timestamp(%[2]d) AND %[1]s < make_timestamp(%[3]d)",
			at, missing[0]*t.width, (missing[len(missing)-1]+1)*t.width)
		if int64(len(missing)) < missing[len(missing)-1]-missing[0]+1 {
			var list strings.Builder
			for i, n := range missing {
				if i > 0 {
					list.WriteByte(',')
				}
				fmt.Fprint(&list, n)
			}
			// Integer division rounds towards zero, buckets towards the past.
			where += fmt.Sprintf(" AND (epoch_us(%[1]s) - CASE WHEN %[1]s < make_timestamp(0) THEN %[2]d ELSE 0 END) // %[3]d IN (%[4]s)",
				at, t.width-1, t.width, list.String())
		}
	}
	s := &t.seen
	return c.query(fmt.Sprintf("SELECT %s, resolved FROM %s %s", t.toPrint(), t.storage(currentSuffix), where),
		func(row []warehouse.Cell) error {
			p := t.printOf(row)
			if row[len(row)-1].Bool() {
				p.content = 0
			}
			s.put(s.buckets[p.bucket], p)
			return nil
		})
}

// toPrint lists the columns of a stored row, with NULL for those that its print
// does not read: they may be large.
func (t *table) toPrint() string {
	list := make([]string, len(t.ranking.Stored))
	for i, c := range t.ranking.Stored {
		list[i] = "NULL::BIGINT"
		if slices.Contains(t.printed, i) || slices.Contains(t.ranking.Key, i) || i == t.ranking.Time || i == t.ranking.Received {
			list[i] = name(c.Name)
		}
	}
	return strings.Join(list, ", ")
}

func (s *seen) put(b *bucket, p print) {
	before := len(b.rows)
	b.rows[p.key] = mark{p.content, p.received}
	s.held += len(b.rows) - before
}

// evict lets buckets go that were not used for longest, down to three quarters
// of what may be held, but none of this round.
func (s *seen) evict() {
	limit := cmp.Or(s.limit, maxHeld)
	if s.held <= limit {
		return
	}
	type old struct {
		n    int64
		used uint64
	}
	var candidates []old
	for n, b := range s.buckets {
		if b.used < s.round {
			candidates = append(candidates, old{n, b.used})
		}
	}
	slices.SortFunc(candidates, func(a, b old) int {
		return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(a.n, b.n))
	})
	for _, c := range candidates {
		if s.held <= limit/4*3 {
			return
		}
		s.held -= len(s.buckets[c.n].rows) + bucketCost
		delete(s.buckets, c.n)
	}
}
