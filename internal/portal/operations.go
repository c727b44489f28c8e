package portal

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/rejected"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
)

// Acting is how an admin has the mesh do something.
type Acting struct {
	// Post hands an event over to Broker iot/iot, which takes all that the portal asks
	// for.
	Post func(context.Context, event.Event) error
	// Leads says where Triggers lead now.
	Leads func() (deadletter.Leads, error)
	// Parser makes one that reads messages as telemetry-flatten does.
	Parser func() *device.Parser
}

func (p *Portal) operationsRoutes() []route {
	all := []route{
		{"GET /operations", team, ofNobody, p.operations},
		{"GET /operations/deadletters", team, queried, p.letters},
		{"GET /operations/deadletters/{id}", team, queried, p.letter},
		{"GET /operations/deadletters/act", admins, queried, p.confirmLetters},
		{"POST /operations/deadletters/act", admins, byItself, p.actOnLetters},
		{"GET /operations/quality", team, ofNobody, p.brokenRules},
		{"GET /operations/audit", admins, queried, p.auditPage},
		{"POST /operations/audit", admins, queried, p.verifyAudit},
		{"GET /operations/console", admins, ofNobody, p.console},
		{"POST /operations/console", admins, byItself, p.runConsole},
	}
	if p.readings {
		all = append(all, []route{
			{"GET /operations/rejected", team, queried, p.rejections},
			{"GET /operations/rejected/{name}", team, queried, p.rejection},
			{"GET /operations/rejected/retry", admins, queried, p.confirmRetry},
			{"POST /operations/rejected/retry", admins, byItself, p.retry},
			{"GET /operations/parked", team, ofRooms, p.parked},
			{"GET /operations/sheets", team, queried, p.sheets},
		}...)
	}
	return all
}

// actWithin bounds what an action may take: Knative ends a request after 300 s. What is
// not done by then is said.
const actWithin = 4 * time.Minute

// acting is a context for an action, which goes on when who asked goes away: it is in
// the audit log by then.
func acting(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), actWithin)
}

// concern is a thing that may be wrong, with how often it is.
type concern struct {
	Path, Name, What string
	N                int64
	Unit             string // of N; empty: it is not counted
}

type operationsPage struct {
	Concerns []concern
	Admin    bool
}

const (
	openRejections = rejected.SQL + "SELECT COUNT(*) FROM messages WHERE readings IS NULL"
	parkedReadings = "SELECT COUNT(*) FROM {iot_telemetry.readings} WHERE tenant_id IS NULL"
	wrongRows      = "SELECT COUNT(*) FROM (" + findings + ")"
	// findings are what the output ports say is wrong with the sources.
	findings = `SELECT 'placements' AS source, sheet, row_number, column_name, severity, reason FROM {iot_metadata.rejected_rows}
UNION ALL SELECT 'actions', sheet, row_number, column_name, severity, reason FROM {iot_actions.rejected_rows}
UNION ALL SELECT 'customers', sheet, row_number, column_name, severity, reason FROM {customers.rejected_rows}`
)

func (p *Portal) operations(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	reader, err := p.data.Reader(v)
	if err != nil {
		return err
	}
	page := operationsPage{Admin: admins.lets(v)}
	add := func(path, name, unit, what string, count func() (int64, error)) {
		if err != nil {
			return
		}
		n, failed := count()
		if failed != nil {
			err = fmt.Errorf("count %s: %w", name, failed)
		}
		page.Concerns = append(page.Concerns, concern{path, name, what, n, unit})
	}
	add("deadletters", "Dead letters", "open", "Events that a function refused, or that no retry could deliver. Each is delivered again, or given up.", func() (int64, error) {
		return deadletter.Count(r.Context(), reader)
	})
	if p.readings {
		add("rejected", "Rejected messages", "not read", "Messages that could not be read, with the cause and the bytes as they came. Once a reader is mended they are read again.", func() (int64, error) {
			return firstInt(reader.Query(r.Context(), openRejections))
		})
		add("parked", "Parked readings", "of nobody", "Readings of devices that no tenant held then. They are kept, shown to nobody, and released by the sheet of placements.", func() (int64, error) {
			return firstInt(p.data.Query(r.Context(), v, parkedReadings))
		})
		add("sheets", "Problems of the sheets", "findings", "Rows of placements, the logbook and customers that could not be taken, or that something is odd about.", func() (int64, error) {
			return firstInt(p.data.Query(r.Context(), v, wrongRows))
		})
	}
	if err != nil {
		return err
	}
	broken, unknown, err := p.broken(r, v)
	if err != nil {
		return err
	}
	rules := concern{"quality", "Quality rules", "What output ports promise of their rows, and do not keep. The rules are checked every hour.", int64(len(broken)), "not kept"}
	if unknown != "" {
		rules.Unit = unknown
	}
	page.Concerns = append(page.Concerns, rules)
	return p.page(w, r, v, http.StatusOK, "operations", "Operations", page)
}

// broken are the rules whose last check did not find them kept; unknown says why nobody
// knows.
func (p *Portal) broken(r *http.Request, v access.Viewer) (broken []catalog.Broken, unknown string, err error) {
	c, err := p.inventory.catalog()
	if err != nil {
		return nil, "", err
	}
	history := p.inventory.live.History(r.Context(), v)
	if history.Err != nil {
		return nil, p.known(history.Err), nil
	}
	return c.Broken(history.Value), "", nil
}

type brokenPage struct {
	Links   links
	Broken  []catalog.Broken
	Unknown string
	Now     time.Time
}

func (p *Portal) brokenRules(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	c, err := p.inventory.catalog()
	if err != nil {
		return err
	}
	page := brokenPage{Links: links{catalog: c}, Now: p.now()}
	if page.Broken, page.Unknown, err = p.broken(r, v); err != nil {
		return err
	}
	return p.page(w, r, v, http.StatusOK, "operations-quality", "Quality rules", page)
}

// firstInt gives the number that a query answers.
func firstInt(rows *warehouse.Rows, err error) (n int64, _ error) {
	if err != nil {
		return 0, err
	}
	for row, err := range rows.All {
		if err != nil {
			return 0, err
		}
		n, _ = row[0].(int64)
	}
	return n, nil
}

// act is a page that says what an action will do, or what it did.
type act struct {
	Heading string
	Back    string // address
	BackTo  string // what is there
	Says    []string
	Done    string // what happened, in a sentence; empty: nothing yet
	Failed  bool   // some of it did not
	Form    *actForm
	Head    []string
	Rows    [][]string
	More    int // rows that are not here
}

// actForm asks for the action.
type actForm struct {
	Action string // address
	Fields map[string]string
	Reason string // label of a field for one; empty: there is none
	Button string
	Danger bool
}

func (p *Portal) actPage(w http.ResponseWriter, r *http.Request, v access.Viewer, a act) error {
	return p.page(w, r, v, http.StatusOK, "operations-act", a.Heading, a)
}

const actShown = 100 // rows

// cut leaves rows that a page shows.
func (a *act) cut() {
	if a.More = len(a.Rows) - actShown; a.More > 0 {
		a.Rows = a.Rows[:actShown]
	}
	a.More = max(0, a.More)
}

type parkedDevice struct {
	Device      string
	N           int64
	Metrics     int64
	First, Last time.Time
	Held        []string // by whom, when; none: never by anybody
	Row         string   // of the sheet, to be added
}

// interval is who held a device from when to when; to zero: still.
type interval struct {
	tenant   string
	from, to time.Time
}

func (h interval) String() string {
	if h.to.IsZero() {
		return "by " + h.tenant + " from " + isoTime(h.from)
	}
	return "by " + h.tenant + " from " + isoTime(h.from) + " until " + isoTime(h.to)
}

// free is the time about an instant in which nobody held a device: from the end of
// the interval before, or from the instant on where there is none.
func free(held []interval, at time.Time) (from, to time.Time) {
	from = at
	before := false
	for _, h := range held { // in the order they begin
		if !h.to.IsZero() && !h.to.After(at) && (!before || h.to.After(from)) {
			from, before = h.to, true
		}
		if h.from.After(at) && to.IsZero() {
			to = h.from
		}
	}
	return from, to
}

func isoTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return mesh.At(t).String()
}

// sheetColumns are those of the sheet of placements.
const sheetColumns = "device_id,tenant_id,building,floor,room,persons,outside_co2,valid_from,valid_to"

const parkedShown = 500

func (p *Portal) parked(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	found, err := p.data.Query(r.Context(), v, fmt.Sprintf(`SELECT device_id, COUNT(*) AS n, COUNT(DISTINCT metric) AS metrics, MIN(observed_at) AS first_at, MAX(observed_at) AS last_at
FROM {iot_telemetry.readings} WHERE tenant_id IS NULL GROUP BY device_id ORDER BY n DESC, device_id LIMIT %d`, parkedShown))
	if err != nil {
		return err
	}
	var devices []parkedDevice
	var ids []string
	for row, err := range found.All {
		if err != nil {
			return err
		}
		d := parkedDevice{}
		d.Device, _ = row[0].(string)
		d.N, _ = row[1].(int64)
		d.Metrics, _ = row[2].(int64)
		d.First, _ = row[3].(time.Time)
		d.Last, _ = row[4].(time.Time)
		devices, ids = append(devices, d), append(ids, literal.Text(d.Device))
	}
	held := map[string][]interval{}
	if len(ids) > 0 {
		placed, err := p.data.Query(r.Context(), v, "SELECT device_id, tenant_id, valid_from, valid_to FROM {iot_metadata.placements} WHERE device_id IN ("+
			strings.Join(ids, ", ")+") ORDER BY device_id, valid_from")
		if err != nil {
			return err
		}
		for row, err := range placed.All {
			if err != nil {
				return err
			}
			id, _ := row[0].(string)
			tenant, _ := row[1].(string)
			from, _ := row[2].(time.Time)
			to, _ := row[3].(time.Time)
			held[id] = append(held[id], interval{tenant, from, to})
		}
	}
	for i := range devices {
		d := &devices[i]
		from, to := free(held[d.Device], d.First)
		for _, h := range held[d.Device] {
			d.Held = append(d.Held, h.String())
		}
		d.Row = csvCell(d.Device) + ",TENANT,,,ROOM,,," + isoTime(from) + "," + isoTime(to)
	}
	page := struct {
		Devices []parkedDevice
		Columns string
		All     bool
		Now     time.Time
	}{devices, sheetColumns, len(devices) < parkedShown, p.now()}
	return p.page(w, r, v, http.StatusOK, "operations-parked", "Parked readings", page)
}

// csvCell writes a cell of a CSV.
func csvCell(s string) string {
	if strings.ContainsAny(s, "\",\r\n") || strings.TrimSpace(s) != s {
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return s
}

type finding struct {
	Source, Sheet, Column, Severity, Reason string
	Row                                     int64
}

func (p *Portal) sheets(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	const shown = 1000
	found, err := p.data.Query(r.Context(), v, fmt.Sprintf("%s ORDER BY sheet, source, row_number, column_name LIMIT %d", findings, shown))
	if err != nil {
		return err
	}
	var all []finding
	for row, err := range found.All {
		if err != nil {
			return err
		}
		text := func(i int) string { s, _ := row[i].(string); return s }
		f := finding{Source: text(0), Sheet: text(1), Column: text(3), Severity: text(4), Reason: text(5)}
		f.Row, _ = row[2].(int64)
		all = append(all, f)
	}
	slices.SortStableFunc(all, func(a, b finding) int { return cmp.Compare(a.Severity, b.Severity) }) // errors before warnings
	return p.page(w, r, v, http.StatusOK, "operations-sheets", "Problems of the sheets", all)
}
