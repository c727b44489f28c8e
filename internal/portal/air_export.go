package portal

import (
	"encoding/csv"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/air"
	"github.com/telemesh/telemesh/internal/audit"
)

// airCSV sends the readings behind a chart as a table.
func (p *Portal) airCSV(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	return p.airExport(w, r, v, "csv", "text/csv; charset=utf-8; header=present", writeCSV)
}

// airParquet sends them with their types.
func (p *Portal) airParquet(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	return p.airExport(w, r, v, "parquet", "application/vnd.apache.parquet", writeParquet)
}

func (p *Portal) airExport(w http.ResponseWriter, r *http.Request, v access.Viewer, suffix, mediaType string,
	write func(io.Writer, iter.Seq2[air.Reading, error]) (int64, error),
) error {
	s, a, _, err := p.airAsked(r, v)
	if err != nil {
		return err
	}
	file := fileName(&s) + "." + suffix
	if err := p.record(r, v, audit.Export, s.tenant, file); err != nil {
		return err // what cannot be recorded is not taken away
	}
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Disposition", `attachment; filename="`+file+`"`)
	out := &started{w: w}
	_, err = write(out, a.Readings(r.Context(), s.selection()))
	switch {
	case err == nil:
		return nil
	case !out.yes:
		h.Del("Content-Type")
		h.Del("Content-Disposition")
		return err
	}
	// The status is sent: only a connection that breaks says that rows are missing.
	p.log.Error("export broke off", "path", r.URL.Path, "error", err)
	panic(http.ErrAbortHandler)
}

// started tells whether anything was written.
type started struct {
	w   io.Writer
	yes bool
}

func (s *started) Write(b []byte) (int, error) {
	s.yes = true
	return s.w.Write(b)
}

// fileName says what is in the file, in what every file system takes.
func fileName(s *airState) string {
	parts := []string{s.tenant, s.building}
	if s.room != nil {
		parts = append(parts, s.room.Building, s.room.Floor, s.room.Name)
	}
	parts = append(parts, s.device, s.metric, s.from.Format("20060102T1504Z"), s.to.Format("20060102T1504Z"))
	var b strings.Builder
	for _, part := range parts {
		if part == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('_')
		}
		for _, c := range part {
			if c < 0x80 && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
				b.WriteRune(c)
			} else {
				b.WriteByte('-')
			}
		}
	}
	const longest = 180 // with the suffix, of 255 that file systems take
	name := b.String()
	return name[:min(len(name), longest)]
}

var csvColumns = []string{"reading_id", "tenant_id", "building", "floor", "room", "device_id", "metric", "observed_at", "value", "unit", "quality", "persons", "outside_co2", "last_action"}

// inert keeps a spreadsheet from taking a name for a formula: one that begins as a
// formula does gets an apostrophe before it. Numbers are not touched.
// https://owasp.org/www-community/attacks/CSV_Injection
func inert(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

func writeCSV(w io.Writer, readings iter.Seq2[air.Reading, error]) (n int64, err error) {
	out := csv.NewWriter(w)
	if err := out.Write(csvColumns); err != nil {
		return 0, err
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return inert(*s)
	}
	float := func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
	for r, err := range readings {
		if err != nil {
			return n, err
		}
		persons, outside := "", ""
		if r.Persons != nil {
			persons = strconv.FormatInt(*r.Persons, 10)
		}
		if r.OutsideCO2 != nil {
			outside = float(*r.OutsideCO2)
		}
		if err := out.Write([]string{
			r.ReadingID, inert(r.TenantID), text(r.Building), text(r.Floor), text(r.Room), inert(r.DeviceID), inert(r.Metric),
			r.ObservedAt.Format(time.RFC3339Nano), float(r.Value), text(r.Unit), text(r.Quality), persons, outside, text(r.LastAction),
		}); err != nil {
			return n, err
		}
		n++
	}
	out.Flush()
	return n, out.Error()
}

// rowGroup is how many rows of a Parquet file are held until they are written.
const rowGroup = 1 << 16

func writeParquet(w io.Writer, readings iter.Seq2[air.Reading, error]) (n int64, err error) {
	out := parquet.NewGenericWriter[air.Reading](w, parquet.Compression(&parquet.Zstd))
	for r, err := range readings {
		if err != nil {
			return n, err
		}
		if _, err := out.Write([]air.Reading{r}); err != nil {
			return n, err
		}
		if n++; n%rowGroup == 0 {
			if err := out.Flush(); err != nil {
				return n, err
			}
		}
	}
	return n, out.Close()
}
