// Package elapsed measures in SQL how long it was from one instant to another.
//
// GoogleSQL and DuckDB have no word in common for a difference in milliseconds,
// nor for a percentile. Both count rows by a bucket, of which the percentiles are
// made here: a bucket is 5% wide, so that a number is right to 2.5%.
package elapsed

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// perDecade is how many buckets there are from one power of ten to the next.
const perDecade = 50

// Bucket is an expression, an INT64, of how long it was from one timestamp to a
// later one; below zero, as where clocks differ, counts as zero.
func Bucket(from, to string) string {
	return fmt.Sprintf("CAST(ROUND(%d * LOG10(1 + GREATEST(0, %s - %s))) AS INT64)", perDecade, millis(to), millis(from))
}

// millis counts milliseconds, from 1901 to 2099. The parts of an instant are those
// that both know; to one of them the millisecond has the seconds in it.
func millis(at string) string {
	part := func(name string) string { return "EXTRACT(" + name + " FROM " + at + ")" }
	year := part("YEAR")
	return fmt.Sprintf("(((((365 * %[1]s + CAST(FLOOR((%[1]s - 1) / 4) AS INT64) + %[2]s) * 24 + %[3]s) * 60 + %[4]s) * 60 + CAST(FLOOR(%[5]s) AS INT64)) * 1000 + MOD(%[6]s, 1000))",
		year, part("DAYOFYEAR"), part("HOUR"), part("MINUTE"), part("SECOND"), part("MILLISECOND"))
}

// Counts are how many there are in each bucket.
type Counts map[int64]int64

// Total is how many there are.
func (c Counts) Total() int64 {
	var n int64
	for _, each := range c {
		n += each
	}
	return n
}

// Percentile is the time that as many percent took at most; 0 of none.
func (c Counts) Percentile(percent int) time.Duration {
	rank := int64(math.Ceil(float64(c.Total()) * float64(percent) / 100))
	buckets := make([]int64, 0, len(c))
	for b := range c {
		buckets = append(buckets, b)
	}
	slices.Sort(buckets)
	for _, b := range buckets {
		if rank -= c[b]; rank <= 0 {
			return Of(b)
		}
	}
	return 0
}

// Of is the time that a bucket stands for.
func Of(bucket int64) time.Duration {
	ms := math.Pow(10, float64(bucket)/perDecade) - 1
	return time.Duration(ms * float64(time.Millisecond)).Round(time.Millisecond / 10)
}
