package portal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/flow"
	"github.com/telemesh/telemesh/internal/levels"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/topology"
)

// inventory is what the pages of the catalog and of the mesh are made of.
type inventory struct {
	catalog func() (*catalog.Catalog, error)
	live    *catalog.Live // nil, as flow is: there is no warehouse
	flow    *flow.Log
	mesh    func() *topology.Mesh
	process func() topology.Here // nil: a cluster runs the mesh

	documents fs.FS // of the products; nil: they are not at hand
}

func newInventory(cfg *Config, now func() time.Time) inventory {
	mesh := func() *topology.Mesh { return &cfg.Mesh }
	if cfg.Here != nil {
		mesh = func() *topology.Mesh {
			here := cfg.Here()
			return &here.Mesh
		}
	}
	all := inventory{
		// Not before it is asked for: what runs here is known once all of it does.
		catalog: sync.OnceValues(func() (*catalog.Catalog, error) { return catalog.New(cfg.Products, *mesh()) }),
		mesh:    mesh,
		process: cfg.Here,

		documents: cfg.Documents,
	}
	if cfg.Data != nil {
		all.live, all.flow = catalog.NewLive(cfg.Data, now), flow.NewLog(cfg.Data, mesh, now)
	}
	return all
}

func (p *Portal) catalogRoutes() []route {
	return []route{
		{"GET /catalog", signedIn, ofNobody, p.catalogPage},
		{"GET /catalog/{product}", signedIn, ofNobody, p.productPage},
		{"GET /catalog/{product}/{port}", signedIn, byItself, p.portPage},
		{"POST /catalog/{product}/{port}/check", team, ofNobody, p.checkPort},
	}
}

// links lead from a name to its page.
type links struct {
	catalog *catalog.Catalog
	// Files: pages are those of a folder, which everybody reads who has it. They
	// say nothing of rows where there is no warehouse.
	Files, NoRows bool
}

// Home is the address of the catalog.
func (l links) Home() string {
	if l.Files {
		return indexFile
	}
	return "/catalog"
}

// Product gives the address of a product.
func (l links) Product(name string) string {
	if l.Files {
		return productFile(name)
	}
	return "/catalog/" + url.PathEscape(name)
}

// Port gives the address of a port; empty: there is none of that name.
func (l links) Port(name string) string {
	port := l.catalog.Port(name)
	switch {
	case port == nil:
		return ""
	case l.Files:
		return portFile(name)
	}
	return l.Product(port.Product.Name) + "/" + url.PathEscape(name)
}

// Column gives the address of a column on its port's page; empty: the table is
// no output port.
func (l links) Column(c lineage.Column) string {
	if at := l.Port(c.Table); at != "" {
		return at + "#" + columnAnchor(c.Name)
	}
	return ""
}

func columnAnchor(name string) string { return "c-" + name }

// Anchor is where a column stands on its page.
func (l links) Anchor(column string) string { return columnAnchor(column) }

// portFacts is a port with what is true of it now, as pages show it.
type portFacts struct {
	*catalog.Port
	Rows, Newest shownFact
	Fresh        string // kept or old, by the service level; empty: there is none, or nobody knows
	Quality      string // how many of its rules are kept; empty: nobody has checked, or the viewer may not know
	Broken       bool   // one is not
}

// shownFact is a fact in words; empty Text: it is not known, and Why says why.
type shownFact struct {
	Text, Why string
	At        time.Time // of a time
}

func why(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, access.ErrForbidden):
		return "of all tenants: not yours to see"
	}
	return "not known: " + err.Error()
}

func (p *Portal) factsOf(r *http.Request, v access.Viewer, ports []*catalog.Port) []portFacts {
	var asked []*catalog.Port
	for _, port := range ports {
		if port.Kind != catalog.Event {
			asked = append(asked, port)
		}
	}
	var all map[*catalog.Port]catalog.Facts
	if p.inventory.live != nil {
		all = p.inventory.live.All(r.Context(), v, asked)
	}
	var verdicts map[string]catalog.Verdicts
	if v.SeesAll() && p.inventory.live != nil {
		history := p.inventory.live.History(r.Context(), v)
		p.known(history.Err)
		verdicts = history.Value
	}
	var out []portFacts
	for _, port := range ports {
		f := portFacts{Port: port}
		if facts, ok := all[port]; ok {
			f.Rows = shownFact{Why: p.known(facts.Rows.Err)}
			if facts.Rows.Err == nil {
				f.Rows.Text = count(facts.Rows.Value)
			}
			f.Newest, f.Fresh = p.newest(port, facts.Recent)
			if kept, checked, _ := port.Kept(verdicts[port.Name]); checked > 0 {
				f.Quality, f.Broken = fmt.Sprintf("%d of %d rules kept", kept, checked), kept < checked
			}
		}
		out = append(out, f)
	}
	return out
}

// known says why a fact is not; what the viewer could not help is logged.
func (p *Portal) known(err error) string {
	if err != nil && !errors.Is(err, access.ErrForbidden) {
		p.log.Warn("a fact of the catalog is not known", "error", err)
		if !errors.Is(err, catalog.ErrSlow) {
			return "not known: it is in the log of the portal"
		}
	}
	return why(err)
}

func (p *Portal) newest(port *catalog.Port, recent catalog.Known[catalog.Recent]) (f shownFact, fresh string) {
	switch r := recent.Value; {
	case recent.Err != nil:
		f.Why = p.known(recent.Err)
	case r.By == "":
		f.Why = "no column says when a row came"
	case r.Newest.IsZero():
		f.Why = "there is no row"
	default:
		f.Text, f.At = age(r.Newest, p.now()), r.Newest
		if port.Table != nil && port.Table.Freshness > 0 && r.By == contract.RecordedAt {
			fresh = "old"
			if p.now().Sub(r.Newest) <= port.Table.Freshness {
				fresh = "kept"
			}
		}
	}
	return f, fresh
}

// catalogView is the list of products, or what a search found.
type catalogView struct {
	Links    links
	Query    string
	Hits     []catalog.Hit
	Products []productView
	// Of a catalog that is files: when it was built, and what its search finds.
	Built   time.Time
	Entries []entry
}

type productView struct {
	Links links
	*catalog.Product
	Ports   []portFacts
	Readers []string // products that read it
}

func (p *Portal) catalogPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	c, err := p.inventory.catalog()
	if err != nil {
		return err
	}
	view := catalogView{Links: links{catalog: c}, Query: strings.TrimSpace(r.URL.Query().Get("q"))}
	if utf8.RuneCountInString(view.Query) > 200 {
		return badRequest("search for less than 200 characters")
	}
	if view.Query != "" {
		view.Hits = c.Search(view.Query)
		return p.page(w, r, v, http.StatusOK, "catalog", "Catalog", view)
	}
	view.Products = p.productViews(r, v, view.Links)
	return p.page(w, r, v, http.StatusOK, "catalog", "Catalog", view)
}

// productViews are all products with their ports.
func (p *Portal) productViews(r *http.Request, v access.Viewer, l links) (all []productView) {
	var ports []*catalog.Port
	for _, product := range l.catalog.Products {
		ports = append(ports, product.Ports...)
	}
	facts := p.factsOf(r, v, ports)
	for _, product := range l.catalog.Products {
		one := productView{Links: l, Product: product, Readers: readers(product)}
		for _, f := range facts {
			if f.Product == product {
				one.Ports = append(one.Ports, f)
			}
		}
		all = append(all, one)
	}
	return all
}

// readers are the products that read a product.
func readers(product *catalog.Product) (names []string) {
	for _, port := range product.Ports {
		for _, reader := range port.Consumers {
			if reader.Of != nil && !slices.Contains(names, reader.Name) {
				names = append(names, reader.Name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func (p *Portal) productPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	c, err := p.inventory.catalog()
	if err != nil {
		return err
	}
	product := c.Product(r.PathValue("product"))
	if product == nil {
		return errNotFound
	}
	view := productView{Links: links{catalog: c}, Product: product, Ports: p.factsOf(r, v, product.Ports), Readers: readers(product)}
	return p.page(w, r, v, http.StatusOK, "catalog-product", product.Name, view)
}

// portView is a page of an output port.
type portView struct {
	Links links
	portFacts
	Viewer  access.Viewer
	Levels  []shownLevel
	Usage   []catalog.Usage // who read it in the last weeks
	Sample  shownSample
	Rules   []shownRule
	Unknown string // why nothing is known of the rules; empty: it is, or nobody checked them
	Columns []shownColumn
	Node    *lineage.Node
	Brought []brought
	Used    bool // a column of it is used by another table or view
	// SQL and YAML are what to copy to become a reader.
	SQL  string
	YAML []subscription
	// Of events: how many pass now, for those who see the log.
	Passing []passing
}

type shownLevel struct {
	Property, Promised, Actual string
	State                      string // kept, late, old, or empty: nobody can say
	Purpose                    string
}

// measured shows what was measured over the rows of all tenants, if anything was.
func (l *shownLevel) measured(m catalog.Measured) {
	if m.Actual == nil {
		return
	}
	actual := fmt.Sprintf("%g percent", *m.Actual)
	if m.Unit == "s" {
		actual = short(time.Duration(*m.Actual * float64(time.Second)))
	}
	l.Actual = actual + " at " + m.At.UTC().Format("2006-01-02 15:04 UTC")
	if m.Left != nil {
		l.Actual += fmt.Sprintf(", %.0f%% of the error budget left", *m.Left)
	}
	if m.Kept != nil {
		l.State = state(*m.Kept)
	}
}

// shownRule is a rule with what checks found.
type shownRule struct {
	*contract.Rule
	Last    *catalog.Verdict  // nil: nobody has checked, or the viewer may not know
	History []catalog.Verdict // the newest last
}

// Kept is how many of the history found that the rule holds.
func (r *shownRule) Kept() (n int) {
	for _, verdict := range r.History {
		if verdict.Kept {
			n++
		}
	}
	return n
}

type shownColumn struct {
	catalog.Column
	Origins []lineage.Column // where they are others than it is made of
	Uses    []lineage.Use
}

// brought is events that bring the rows of a table.
type brought struct {
	Type   string
	Makers []topology.Ref
	Read   []*topology.Trigger
}

type subscription struct {
	Broker topology.Ref
	YAML   string
}

type passing struct {
	Broker topology.Ref
	flow.Rate
}

func (p *Portal) portPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	c, port, err := p.port(r)
	if err != nil {
		return err
	}
	view, err := p.portView(r, v, links{catalog: c}, port)
	if err != nil {
		return err
	}
	title := port.Name
	if port.Kind == catalog.Event {
		title = port.Short()
	} else if view.Sample, err = p.sample(r, v, port); err != nil {
		return err
	}
	return p.page(w, r, v, http.StatusOK, "catalog-port", title, view)
}

// portView is all that there is to say of a port but a sample of its rows.
func (p *Portal) portView(r *http.Request, v access.Viewer, l links, port *catalog.Port) (portView, error) {
	view := portView{Links: l, Viewer: v, portFacts: p.factsOf(r, v, []*catalog.Port{port})[0]}
	tenant := ""
	if v.Role == access.Tenant && len(v.Tenants) > 0 {
		tenant = v.Tenants[0]
	}
	if port.Kind == catalog.Event {
		for _, broker := range port.Brokers {
			view.YAML = append(view.YAML, subscription{broker, port.Subscription("my-function", broker, cmp.Or(tenant, exampleTenant), topology.Ref{Namespace: broker.Namespace, Name: "my-function"})})
		}
		if l.NoRows {
			return view, nil
		}
		return view, p.passing(r, v, &view)
	}
	view.SQL = port.SQL(tenant)
	view.Node = l.catalog.Lineage.Node(port.Name)
	if v.SeesAll() && !l.NoRows && !l.Files { // whoever reads a file need not know which tenants there are
		view.Usage = p.inventory.live.Usage(r.Context(), v).Value[port.Name]
	}
	if port.Kind == catalog.Table {
		var recent catalog.Known[catalog.Recent]
		if !l.NoRows {
			recent = p.inventory.live.Facts(r.Context(), v, port).Recent
		}
		view.Levels = p.levels(port, recent)
		if v.SeesAll() && !l.NoRows {
			measured := p.inventory.live.Measured(r.Context(), v).Value[port.Name]
			for i := range view.Levels {
				view.Levels[i].measured(measured[catalog.MeasuredAs(view.Levels[i].Property)])
			}
		}
		view.Brought = p.brought(port.Table)
		view.Rules, view.Unknown = p.rulesOf(r, v, port)
	}
	for _, column := range port.Columns {
		at := lineage.Column{Table: port.Name, Name: column.Name}
		one := shownColumn{Column: column, Uses: l.catalog.Lineage.Uses(at)}
		if origins := l.catalog.Lineage.Origins(at); !slices.Equal(origins, column.Made.From) {
			one.Origins = origins
		}
		view.Used = view.Used || len(one.Uses) > 0
		view.Columns = append(view.Columns, one)
	}
	return view, nil
}

// exampleTenant stands in a Trigger for the tenant that its reader will name.
const exampleTenant = "my-tenant"

// port finds the port that a path names.
func (p *Portal) port(r *http.Request) (*catalog.Catalog, *catalog.Port, error) {
	c, err := p.inventory.catalog()
	if err != nil {
		return nil, nil, err
	}
	port := c.Port(r.PathValue("port"))
	if port == nil || port.Product.Name != r.PathValue("product") {
		return nil, nil, errNotFound
	}
	return c, port, nil
}

// rulesOf gives the rules of a table with the last verdicts: those that were stored, and
// what was counted here since.
func (p *Portal) rulesOf(r *http.Request, v access.Viewer, port *catalog.Port) (all []shownRule, unknown string) {
	var stored catalog.Verdicts
	if v.SeesAll() && p.inventory.live != nil {
		history := p.inventory.live.History(r.Context(), v)
		unknown = p.known(history.Err)
		stored = history.Value[port.Name]
	}
	rules := port.Rules()
	var here *catalog.Results
	if p.inventory.live != nil {
		here = p.inventory.live.Checked(v, port)
	}
	for i := range rules {
		one := shownRule{Rule: &rules[i], History: slices.Clone(stored[rules[i].ID])}
		slices.Reverse(one.History)
		if n := len(one.History); n > 0 {
			one.Last = &one.History[n-1]
		}
		if here != nil && (one.Last == nil || one.Last.At.Before(here.At)) {
			result := &here.All[i]
			one.Last = &catalog.Verdict{Rule: rules[i].ID, At: here.At, Number: result.Number, Kept: result.Kept(), From: result.From}
			if result.Err != nil {
				one.Last.Err = result.Err.Error()
			}
		}
		all = append(all, one)
	}
	return all, unknown
}

// checkPort counts by the quality rules of a port, and shows its page again.
func (p *Portal) checkPort(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	_, port, err := p.port(r)
	if err != nil {
		return err
	}
	if _, err := p.inventory.live.Check(r.Context(), v, port); err != nil {
		return err
	}
	http.Redirect(w, r, strings.TrimSuffix(r.URL.EscapedPath(), "/check")+"#quality", http.StatusSeeOther)
	return nil
}

func (p *Portal) passing(r *http.Request, v access.Viewer, view *portView) error {
	if !v.SeesAll() {
		return nil
	}
	rates, err := p.inventory.flow.Rates(r.Context(), v)
	if err != nil {
		return err
	}
	for _, broker := range view.Brokers {
		view.Passing = append(view.Passing, passing{broker, rates.Types[flow.Type{Broker: broker, Type: view.Name}]})
	}
	return nil
}

func (p *Portal) brought(t *contract.Table) []brought {
	var all []brought
	for _, eventType := range t.Events {
		b := brought{Type: eventType}
		for _, f := range p.inventory.mesh().Flows() {
			if f.Type != eventType {
				continue
			}
			for _, maker := range f.Makers {
				if !slices.Contains(b.Makers, maker) {
					b.Makers = append(b.Makers, maker)
				}
			}
			b.Read = append(b.Read, f.Read...)
		}
		all = append(all, b)
	}
	return all
}

func (p *Portal) levels(port *catalog.Port, recent catalog.Known[catalog.Recent]) []shownLevel {
	var all []shownLevel
	r := recent.Value
	for _, level := range port.Levels() {
		one := shownLevel{Property: level.Property, Promised: promised(level.Value), Purpose: level.Purpose}
		if level.Percent > 0 {
			one.Promised = fmt.Sprintf("%g percent", level.Percent)
		}
		switch {
		case level.Property == "retention":
			one.Actual = "is not measured"
		case level.Property == levels.Completeness:
			one.Actual = "is not measured yet, or is for who sees all tenants"
		case recent.Err != nil:
			one.Actual = p.known(recent.Err)
		case level.Property == "latency" && r.Timed > 0:
			one.Actual = fmt.Sprintf("p50 %s, p95 %s, of %s rows of the last day", short(r.P50), short(r.P95), count(r.Timed))
			one.State = state(r.P95 <= level.Value)
		case level.Property == "latency":
			one.Actual = "is not measured: no rows of the last day that say when they were received"
			if !slices.ContainsFunc(port.Columns, func(c catalog.Column) bool { return c.Name == "received_at" }) {
				one.Actual = "is not measured: no column says when a row was received"
			}
		case r.By != contract.RecordedAt:
			one.Actual = "is not measured: no column says when a row was recorded"
		case r.Newest.IsZero():
			one.Actual = "there is no row"
		default:
			one.Actual = "the newest row was recorded " + age(r.Newest, p.now())
			one.State = "old" // nothing may have come to be recorded
			if p.now().Sub(r.Newest) <= level.Value {
				one.State = "kept"
			}
		}
		all = append(all, one)
	}
	return all
}

func state(kept bool) string {
	if kept {
		return "kept"
	}
	return "late"
}

// promised prints a service level; contract counts a year with 366 days.
func promised(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return "unlimited"
	case d%(366*day) == 0:
		return fmt.Sprintf("%d years", d/(366*day))
	case d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

// short prints a duration with as many digits as tell something.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return span(d)
}

// shownSample is a few rows as text.
type shownSample struct {
	Why     string // it is not there
	Columns []catalog.Column
	Rows    [][]shownCell
	Hidden  bool // confidential columns are not shown until that is asked for
	Asked   bool // it was asked for
}

type shownCell struct {
	Text   string
	None   bool // NULL
	Hidden bool
}

// maxCell is how much of a cell is shown, in characters.
const maxCell = 120

// sample shows a tenant their own rows. The team, who see the rows of all tenants,
// are shown what is confidential in them when they ask for it, which is recorded.
func (p *Portal) sample(r *http.Request, v access.Viewer, port *catalog.Port) (shownSample, error) {
	out := shownSample{Asked: r.URL.Query().Get("confidential") == "show"}
	hide := v.Role != access.Tenant && !out.Asked
	if v.Role != access.Tenant && out.Asked {
		if err := p.record(r, v, audit.Query, port.Name, "a sample of rows with confidential columns"); err != nil {
			return out, err
		}
	}
	known := p.inventory.live.Sample(r.Context(), v, port)
	if known.Err != nil {
		out.Why = p.known(known.Err)
		return out, nil
	}
	out.Columns = known.Value.Columns
	for _, row := range known.Value.Rows {
		var cells []shownCell
		for i, value := range row {
			switch {
			case hide && out.Columns[i].Classification == "confidential":
				cells = append(cells, shownCell{Hidden: true})
				out.Hidden = true
			case value == nil:
				cells = append(cells, shownCell{None: true})
			default:
				cells = append(cells, shownCell{Text: cell(value)})
			}
		}
		out.Rows = append(out.Rows, cells)
	}
	return out, nil
}

func cell(value any) string {
	var text string
	switch v := value.(type) {
	case time.Time:
		return v.UTC().Format("2006-01-02 15:04:05.999999Z")
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	default:
		text = fmt.Sprint(v)
	}
	if utf8.RuneCountInString(text) > maxCell {
		text = string([]rune(text)[:maxCell]) + "…"
	}
	return text
}
