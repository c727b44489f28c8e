// Package port is the lookup port of iot-metadata: who held a device at an
// instant, and since which version of the placements that is so.
//
//	GET /assignments                     all assignments, as NDJSON
//	GET /assignments?since=VERSION       those, whole, of the devices of which one is newer
//	GET /assignments/DEVICE              those of one device
//	GET /assignments/DEVICE?at=RFC3339   who held it then
//	GET /openapi.json                    the port described
//
// The assignments are the replay of every placement ever recorded
// (tenancy.Assignments). An answer names their version (Telemesh-Version) and
// has a strong ETag. A request costs one small query as long as nothing has
// changed; after a change the devices that it names are replayed once for all
// who ask.
//
// While the warehouse is away the answer is 503 with Retry-After, also where an
// older copy is at hand: who looks up wants what is true now, and who keeps a
// copy has one.
package port

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed" // openapi.json
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/telemesh/telemesh/internal/etag"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/snapshot"
	"github.com/telemesh/telemesh/internal/tenancy"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
)

// Start makes the function.
func Start(ports function.Ports) (*function.Function, error) {
	config, err := function.Config[connect.Config]()
	if err != nil {
		return nil, err
	}
	w, err := config.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	return &function.Function{HTTP: New(w, ports.Log)}, nil
}

// New serves the assignments of the placements in w.
func New(w warehouse.Warehouse, log *slog.Logger) http.Handler {
	return &port{warehouse: w, log: log}
}

type port struct {
	warehouse warehouse.Warehouse
	log       *slog.Logger

	mu   sync.Mutex // held while placements are read: who else asks for them waits for the same copy
	copy *copied
}

// copied is what all who ask share.
type copied struct {
	state  state
	steps  tenancy.Steps
	index  *tenancy.Index
	zipped func() []byte // all assignments; made when they are first asked for
}

const (
	root     = "/assignments"
	jsonType = "application/json"
)

//go:embed openapi.json
var openAPI []byte

func (p *port) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The path as it was sent: a device may have a slash in its name.
	path := r.URL.EscapedPath()
	device, one := strings.CutPrefix(path, root+"/")
	switch {
	case path != root && path != "/openapi.json" && (!one || device == ""):
		problem(w, http.StatusNotFound, fmt.Sprintf("nothing is served at %s: there are %s, %s/DEVICE and /openapi.json", path, root, root))
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		problem(w, http.StatusMethodNotAllowed, "assignments are read by GET: they follow from the placements")
	case one:
		p.device(w, r, device)
	case path == root:
		p.all(w, r)
	default:
		w.Header().Set("Content-Type", jsonType)
		w.Write(openAPI)
	}
}

// all answers with the assignments of all devices, or of those that changed.
func (p *port) all(w http.ResponseWriter, r *http.Request) {
	since := int64(-1)
	if query := r.URL.Query(); query.Has("since") {
		var err error
		if since, err = strconv.ParseInt(query.Get("since"), 10, 64); err != nil || since < 0 {
			problem(w, http.StatusBadRequest, fmt.Sprintf("since: %q is no version: write the %s of the answer you have, a number from 0",
				query.Get("since"), snapshot.VersionHeader))
			return
		}
	}
	c, ok := p.begin(w, r)
	if !ok {
		return
	}
	zip, done := etag.Answer(w, r, c.state.tag())
	if done {
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	switch {
	case since < 0 && zip:
		body := c.zipped()
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method == http.MethodGet {
			w.Write(body)
		}
	case r.Method == http.MethodHead:
	case since < 0:
		writeLines(w, c.index.All())
	case zip:
		z := zipper(w)
		writeLines(z, c.index.Since(since))
		z.Close() // an error of these writes is the client's, who sees an answer without end
	default:
		writeLines(w, c.index.Since(since))
	}
}

// Device is the answer for one device.
type Device struct {
	DeviceID    string            `json:"device_id"`
	Assignments []mesh.Assignment `json:"assignments"`
}

// Holder is the answer for one device at an instant.
type Holder struct {
	DeviceID string       `json:"device_id"`
	At       mesh.Instant `json:"at"`
	TenantID *string      `json:"tenant_id"` // null: nobody
	Version  int64        `json:"version"`   // 0: nothing was ever said of that instant
}

// device answers with what is known of one device.
func (p *port) device(w http.ResponseWriter, r *http.Request, escaped string) {
	device, err := url.PathUnescape(escaped)
	if err != nil {
		problem(w, http.StatusBadRequest, fmt.Sprintf("device %q: %v", escaped, err))
		return
	}
	var at *mesh.Instant
	if query := r.URL.Query(); query.Has("at") {
		t, err := mesh.ParseInstant(query.Get("at"))
		if err != nil {
			problem(w, http.StatusBadRequest, fmt.Sprintf("at: %v: write it as 2026-03-02T07:30:00Z or 2026-03-02T08:30:00%%2B01:00 (a plus sign is %%2B in an address)", err))
			return
		}
		at = &t
	}
	c, ok := p.begin(w, r)
	if !ok {
		return
	}
	assignments := c.index.Device(device)
	if len(assignments) == 0 {
		problem(w, http.StatusNotFound, fmt.Sprintf("device %q is in no placement", device))
		return
	}
	var answer any = Device{device, assignments}
	if at != nil {
		h := Holder{DeviceID: device, At: *at}
		var tenant string
		if tenant, h.Version = c.index.At(device, *at); tenant != "" {
			h.TenantID = &tenant
		}
		answer = h
	}
	body, err := json.Marshal(answer)
	if err != nil { // an instant beyond the year 9999, which no warehouse has
		p.away(w, r, err)
		return
	}
	body = append(body, '\n')
	zip, done := etag.Answer(w, r, c.state.tag())
	if done {
		return
	}
	if zip {
		body = zipped(func(w io.Writer) { w.Write(body) })
	}
	w.Header().Set("Content-Type", jsonType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		w.Write(body)
	}
}

// begin begins an answer made of the assignments as they are now. Where they
// cannot be read it ends it, and gives false.
func (p *port) begin(w http.ResponseWriter, r *http.Request) (*copied, bool) {
	c, err := p.read(r.Context())
	if err != nil {
		p.away(w, r, err)
		return nil, false
	}
	w.Header().Set(snapshot.VersionHeader, strconv.FormatInt(c.index.Version(), 10))
	w.Header().Set(tenancy.TableHeader, c.state.table())
	return c, true
}

func (p *port) away(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody is there to answer
	}
	p.log.ErrorContext(r.Context(), "read placements", "error", err)
	w.Header().Set("Retry-After", "1")
	problem(w, http.StatusServiceUnavailable, "the warehouse does not answer")
}

// problem answers with problem details (RFC 9457).
func problem(w http.ResponseWriter, status int, detail string) {
	body, _ := json.Marshal(struct { // strings and a number cannot fail
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}

// writeLines writes assignments as NDJSON, until the client has gone.
func writeLines(w io.Writer, assignments iter.Seq[mesh.Assignment]) {
	const enough = 64 << 10
	buf := make([]byte, 0, enough+4<<10)
	for a := range assignments {
		if buf = tenancy.AppendLine(buf, &a); len(buf) >= enough {
			if _, err := w.Write(buf); err != nil {
				return
			}
			buf = buf[:0]
		}
	}
	w.Write(buf)
}

// zipper zips fast: names and times that repeat are most of what there is.
func zipper(w io.Writer) *gzip.Writer {
	z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // fails for an unknown level only
	return z
}

func zipped(write func(io.Writer)) []byte {
	var b bytes.Buffer
	z := zipper(&b)
	write(z)
	z.Close() // a buffer takes everything
	return b.Bytes()
}

// read gives the assignments as they are now.
func (p *port) read(ctx context.Context) (*copied, error) {
	now, err := p.now(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.copy; c != nil && c.state == now {
		return c, nil
	}
	c, err := p.load(ctx, now, p.copy)
	if err != nil {
		return nil, err
	}
	c.zipped = sync.OnceValue(func() []byte {
		return zipped(func(w io.Writer) { writeLines(w, c.index.All()) })
	})
	p.copy = c
	return c, nil
}
