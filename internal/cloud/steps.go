package cloud

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"cloud.google.com/go/bigquery"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// planner makes a plan.
type planner struct {
	*Project
	want *wanted
	have *state
	plan *Plan
	// The views that a step makes or changes, and of these those that get another
	// query, or their first.
	changed, rewritten map[string]bool
	old                map[string]*contract.Table // as they were deployed, by full name
}

func (p *Project) compare(w *wanted, s *state) (*Plan, error) {
	l := &planner{Project: p, want: w, have: s, changed: map[string]bool{}, rewritten: map[string]bool{}, old: map[string]*contract.Table{},
		plan: &Plan{Project: p.config.Project, Steps: []Step{}, Notes: w.notes}}
	before, err := deployed(s.contracts)
	if err != nil {
		return nil, err
	}
	for _, product := range before {
		for i := range product.Tables {
			l.old[product.Tables[i].FullName()] = &product.Tables[i]
		}
	}
	l.contracts(before)
	var ours []*schema.Dataset
	for i := range w.schema {
		if l.dataset(&w.schema[i]) {
			ours = append(ours, &w.schema[i])
		}
	}
	for _, d := range ours {
		l.access(d)
	}
	l.others()
	l.membersRows()
	l.feeds()
	slices.SortStableFunc(l.plan.Steps, func(a, b Step) int { return int(a.Phase - b.Phase) })
	return l.plan, nil
}

func (l *planner) step(phase Phase, do func(context.Context) error, changes ...Change) {
	l.plan.Steps = append(l.plan.Steps, Step{phase, changes, do})
}

func (l *planner) refuse(format string, args ...any) {
	l.plan.Refused = append(l.plan.Refused, fmt.Sprintf(format, args...))
}

func (l *planner) note(format string, args ...any) {
	l.plan.Notes = append(l.plan.Notes, fmt.Sprintf(format, args...))
}

// destroy makes a step of a change if Config.Destroy says so.
func (l *planner) destroy(do func(context.Context) error, c Change) {
	if !l.config.Destroy {
		l.plan.Left = append(l.plan.Left, c)
		return
	}
	l.step(Remove, do, c)
}

// dataset compares a dataset that is wanted, and all in it but who gets to it.
// It says whether the dataset is Telemesh's.
func (l *planner) dataset(d *schema.Dataset) bool {
	want, have := l.want.datasets[d.Name], l.have.datasets[d.Name]
	dataset := l.config.BigQuery.Dataset(d.Name)
	switch {
	case have == nil:
		l.step(Build, func(ctx context.Context) error {
			created := *want
			created.Access = schema.Owners() // who else is wanted is let in later, as with one that is there
			return dataset.Create(ctx, &created)
		}, Change{Action: Create, Kind: "dataset", Name: d.Name, Fields: datasetFields(nil, want)})
	case have.Labels[managedBy] != telemesh:
		l.refuse("dataset %s is there and has no label %s=%s: it may be somebody else's, whose readers would lose it. If it is not, set the label: bq update --set_label %s:%s %s:%s",
			d.Name, managedBy, telemesh, managedBy, telemesh, l.config.Project, d.Name)
		return false
	case want.Location != "" && !strings.EqualFold(have.Location, want.Location):
		l.refuse("dataset %s is in %s and not in %s; a dataset cannot be moved: use --location %s", d.Name, have.Location, want.Location, have.Location)
		return false
	default:
		if fields := datasetFields(have, want); len(fields) > 0 {
			l.step(Build, func(ctx context.Context) error {
				update := bigquery.DatasetMetadataToUpdate{Description: want.Description,
					DefaultTableExpiration: want.DefaultTableExpiration, DefaultPartitionExpiration: want.DefaultPartitionExpiration}
				for name, value := range want.Labels {
					update.SetLabel(name, value)
				}
				_, err := dataset.Update(ctx, update, "")
				return err
			}, Change{Action: Modify, Kind: "dataset", Name: d.Name, Fields: fields})
		}
	}
	for i := range d.Objects {
		l.object(&d.Objects[i])
	}
	return true
}

func datasetFields(have, want *bigquery.DatasetMetadata) []Field {
	if have == nil {
		return []Field{{Name: "location", New: want.Location}}
	}
	fields := difference(nil, "description", have.Description, want.Description)
	fields = difference(fields, "new tables kept", kept(have.DefaultTableExpiration), kept(want.DefaultTableExpiration))
	fields = difference(fields, "new partitions kept", kept(have.DefaultPartitionExpiration), kept(want.DefaultPartitionExpiration))
	return labelFields(fields, have.Labels, want.Labels)
}

func difference(fields []Field, name, old, now string) []Field {
	if old == now {
		return fields
	}
	return append(fields, Field{name, old, now})
}

func labelFields(fields []Field, have, want map[string]string) []Field {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		fields = difference(fields, "label "+name, have[name], want[name])
	}
	return fields
}

// access compares who gets to a dataset. A view that gets another query is not
// authorized from before it changes until after, so that one whose change was
// the last thing that was done is not left without: BigQuery wants a view
// authorized again that was updated (changeAccess).
func (l *planner) access(d *schema.Dataset) {
	have := l.have.access[d.Name]
	owners := l.entry(schema.Owners()[0])
	var remove, authorize, add []entry
	for _, e := range sorted(have) {
		switch {
		case l.want.access[d.Name][e] && !l.anew(e), e == owners:
		case e.Role == string(bigquery.OwnerRole):
			l.note("access %s: %s is left: an owner reads every row", d.Name, e)
		case e.Role != "" && e.Role != string(bigquery.ReaderRole) && e.Role != string(bigquery.WriterRole):
			l.note("access %s: %s is left: the role is not one that Telemesh gives", d.Name, e)
		case l.config.Access == nil && e.Role == string(bigquery.ReaderRole) && l.stays(d, e):
		default:
			remove = append(remove, e)
		}
	}
	for _, e := range sorted(l.want.access[d.Name]) {
		switch {
		case e.Kind != kindView && !have[e]:
			add = append(add, e)
		case e.Kind == kindView && (!have[e] || l.changed[e.Name]):
			authorize = append(authorize, e)
		}
	}
	l.accessStep(Narrow, d.Name, nil, remove)
	l.accessStep(Authorize, d.Name, authorize, nil)
	l.accessStep(Widen, d.Name, add, nil)
}

// stays says whether a reader of a dataset stays where no access file says who
// reads: one of a port does, and of storage who sees every row of the ports.
func (l *planner) stays(d *schema.Dataset, e entry) bool {
	switch {
	case e.Kind == kindSpecial, e.Kind == kindMember && e.Name == "allUsers": // nobody knows who
		return false
	case d.Port:
		return true
	case d.Name == schema.Platform, strings.HasSuffix(e.Name, ServiceAccount("", l.config.Project)):
		return false
	}
	// The members name no groups: of these an access file alone knows.
	return e.Kind == kindGroup || e.Kind == kindUser && l.have.members[member{e.Name, everyone}] ||
		e.Kind == kindDomain && l.have.members[member{domainPrefix + e.Name, everyone}]
}

func (l *planner) accessStep(phase Phase, dataset string, add, remove []entry) {
	var changes []Change
	for _, e := range remove {
		changes = append(changes, Change{Action: Destroy, Kind: "access", Name: dataset + ": " + e.String()})
	}
	for _, e := range add {
		c := Change{Action: Create, Kind: "access", Name: dataset + ": " + e.String()}
		if l.have.access[dataset][e] && !l.anew(e) {
			c.Action, c.Fields = Modify, []Field{{"authorized", "before the view changed", "again"}}
		}
		changes = append(changes, c)
	}
	if len(changes) > 0 {
		l.step(phase, func(ctx context.Context) error { return l.changeAccess(ctx, dataset, add, remove) }, changes...)
	}
}

// anew says whether an entry is of a view that gets another query.
func (l *planner) anew(e entry) bool { return e.Kind == kindView && l.rewritten[e.Name] }

func sorted(set map[entry]bool) []entry {
	return slices.SortedFunc(maps.Keys(set), func(a, b entry) int { return strings.Compare(a.String(), b.String()) })
}

// object compares a table or view.
func (l *planner) object(o *schema.Object) {
	name, want, have := o.FullName(), o.Metadata, l.have.tables[o.FullName()]
	phase, kind := Build, "table"
	if want.ViewQuery != "" {
		phase, kind = Show, "view"
	}
	change := Change{Action: Create, Kind: kind, Name: name}
	switch {
	case have == nil:
		l.changed[name], l.rewritten[name] = true, true
		if want.TimePartitioning != nil {
			change.Fields = []Field{{"partitioned by", "", partition(want)}, {"rows kept", "", kept(expiration(want))}}
		}
		change.Fields = difference(change.Fields, "clustered by", "", clustered(want))
		change.Fields = difference(change.Fields, "primary key", "", key(want))
		l.step(phase, func(ctx context.Context) error { return l.create(ctx, o) }, change)
	case have.ViewQuery != "" && want.ViewQuery == "":
		l.refuse("%s is there and is no table but a view, which has no rows: drop it", name)
	case have.ViewQuery == "" && want.ViewQuery != "":
		l.refuse("%s is there and is no view but a %s: rename it, which keeps its rows: ALTER TABLE %s RENAME TO %s_before",
			name, strings.ToLower(string(have.Type)), name, o.Name)
	case want.ViewQuery != "":
		fields := difference(nil, "query", have.ViewQuery, want.ViewQuery)
		fields = difference(fields, "description", have.Description, want.Description)
		fields = labelFields(fields, have.Labels, want.Labels)
		fields = append(fields, expires(have)...)
		_, purposes := described(have.Schema, o)
		if fields = append(fields, purposes...); len(fields) > 0 {
			change.Action, change.Fields = Modify, fields
			l.changed[name], l.rewritten[name] = true, have.ViewQuery != want.ViewQuery
			l.step(phase, func(ctx context.Context) error { return l.changeView(ctx, o, l.rewritten[name]) }, change)
		}
	default:
		t := &tableChange{name: name, have: have, want: want, old: l.oldContract(o)}
		t.compare()
		l.plan.Refused = append(l.plan.Refused, t.refused...)
		l.plan.Notes = append(l.plan.Notes, t.notes...)
		if len(t.fields) > 0 {
			change.Action, change.Fields = Modify, t.fields
			l.step(phase, func(ctx context.Context) error {
				_, err := l.table(name).Update(ctx, t.update, "")
				return err
			}, change)
		}
		if t.expire != nil {
			l.destroy(func(ctx context.Context) error {
				_, err := l.table(name).Update(ctx, bigquery.TableMetadataToUpdate{TimePartitioning: want.TimePartitioning}, "")
				return err
			}, Change{Action: Modify, Kind: kind, Name: name, Fields: []Field{*t.expire}})
		}
	}
}

// oldContract is the contract of a table as it was deployed, nil if none was.
func (l *planner) oldContract(o *schema.Object) *contract.Table {
	if o.Contract == nil {
		return nil
	}
	return l.old[o.Contract.FullName()]
}

// others are what is there and is not wanted.
func (l *planner) others() {
	refused := func(dataset string) bool { // somebody else's
		return l.have.datasets[dataset].Labels[managedBy] != telemesh
	}
	foreign := map[string]bool{} // datasets
	for _, name := range slices.Sorted(maps.Keys(l.have.tables)) {
		have := l.have.tables[name]
		if l.want.tables[name] != nil || refused(datasetOf(name)) {
			continue
		}
		kind := "table"
		if have.ViewQuery != "" {
			kind = "view"
		}
		if have.Labels[managedBy] != telemesh {
			l.note("%s %s is left: Telemesh did not make it; who may read dataset %s may read it", kind, name, datasetOf(name))
			foreign[datasetOf(name)] = true
			continue
		}
		l.destroy(func(ctx context.Context) error { return gonePasses(l.table(name).Delete(ctx)) }, Change{Action: Destroy, Kind: kind, Name: name})
	}
	for _, name := range slices.Sorted(maps.Keys(l.have.datasets)) {
		switch {
		case l.want.datasets[name] != nil:
			continue
		case foreign[name]: // BigQuery deletes none that is not empty
			l.note("dataset %s is left: it has tables or views that Telemesh did not make", name)
			continue
		}
		l.destroy(func(ctx context.Context) error { return gonePasses(l.config.BigQuery.Dataset(name).Delete(ctx)) }, Change{Action: Destroy, Kind: "dataset", Name: name})
	}
}

func gonePasses(err error) error {
	if isCode(err, http.StatusNotFound) {
		return nil
	}
	return err
}

// membersRows compares the rows that say who sees what.
func (l *planner) membersRows() {
	var remove, add []member
	for m := range l.have.members {
		if !l.want.members[m] && l.config.Access != nil {
			remove = append(remove, m)
		}
	}
	for m := range l.want.members {
		if !l.have.members[m] {
			add = append(add, m)
		}
	}
	l.memberStep(Narrow, Destroy, remove, l.deleteMembers)
	l.memberStep(Widen, Create, add, l.insertMembers)
}

func (l *planner) memberStep(phase Phase, action Action, rows []member, do func(context.Context, []member) error) {
	if len(rows) == 0 {
		return
	}
	slices.SortFunc(rows, func(a, b member) int { return strings.Compare(a.Tenant+"\x00"+a.Member, b.Tenant+"\x00"+b.Member) })
	var changes []Change
	for _, m := range rows {
		changes = append(changes, Change{Action: action, Kind: "member", Name: m.Member + " of " + m.Tenant})
	}
	l.step(phase, func(ctx context.Context) error { return do(ctx, rows) }, changes...)
}

// lost gives what readers of views lose.
func (l *planner) lost(before []contract.Product) (changes []contract.Change) {
	old := map[string]*contract.View{}
	for _, product := range before {
		for i := range product.Views {
			old[product.Views[i].FullName()] = &product.Views[i]
		}
	}
	for _, product := range l.config.Products {
		for i := range product.Views {
			is := &product.Views[i]
			// Of one that says what it said before, somebody changed the query by hand.
			if was, has := old[is.FullName()], l.have.queries[is.FullName()]; was != nil && has != nil && was.SQL != is.SQL {
				changes = append(changes, contract.CompareViews(product.Name, was, is, columns(l.have.tables[is.FullName()].Schema), columns(has))...)
			}
		}
	}
	return changes
}

// contracts compares what was promised with what is promised now.
func (l *planner) contracts(before []contract.Product) {
	said := map[string][]Field{}    // by table or view
	product := map[string][]Field{} // by product: what is of none of these
	if len(before) > 0 {
		all := append(contract.Compare(before, l.config.Products), l.lost(before)...)
		if err := contract.Check(all); err != nil {
			l.refuse("%v", err)
		}
		for _, c := range all {
			switch _, wanted := l.want.contracts[c.Table]; {
			case wanted || l.have.contracts[c.Table].json != "":
				said[c.Table] = append(said[c.Table], Field{Name: c.What, New: c.Text})
			case c.Table == "":
				product[c.Product] = append(product[c.Product], Field{Name: c.What, New: c.Text})
			default: // an event
				product[c.Product] = append(product[c.Product], Field{Name: c.What, New: c.Table})
			}
		}
	}
	for i := range before {
		for j := range l.config.Products {
			if was, is := &before[i], &l.config.Products[j]; was.Name == is.Name {
				product[is.Name] = append(productFields(was, is), product[is.Name]...)
			}
		}
	}
	of := map[string]string{} // product of a table or view
	for _, p := range l.config.Products {
		for i := range p.Tables {
			of[p.Tables[i].FullName()] = p.Name
		}
		for i := range p.Views {
			of[p.Views[i].FullName()] = p.Name
		}
	}
	var changes []Change
	for _, name := range slices.Sorted(maps.Keys(product)) {
		if fields := product[name]; len(fields) > 0 {
			changes = append(changes, Change{Action: Modify, Kind: "product", Name: name, Fields: fields})
		}
	}
	rows := map[string]record{}
	for _, name := range slices.Sorted(maps.Keys(l.want.contracts)) {
		want, have := l.want.contracts[name], l.have.contracts[name]
		if want == have {
			continue
		}
		rows[name] = want
		c := Change{Action: Modify, Kind: "contract", Name: name}
		if have.json == "" || have.json == gone {
			c.Action = Create
		}
		c.Fields = append(difference(nil, "version", have.version, want.version), said[name]...)
		switch {
		case len(c.Fields) > 0:
		case len(product[of[name]]) > 0: // every record has what is said of the product
			continue
		default: // columns in another order, or what was not looked at before
			c.Fields = []Field{{Name: "recorded", New: "again: nothing differs that readers rely on"}}
		}
		changes = append(changes, c)
	}
	for _, name := range slices.Sorted(maps.Keys(l.have.contracts)) {
		if have := l.have.contracts[name]; l.want.contracts[name].json == "" && have.json != gone {
			rows[name] = record{have.version, gone}
			changes = append(changes, Change{Action: Destroy, Kind: "contract", Name: name})
		}
	}
	if len(rows) > 0 {
		l.step(Record, func(ctx context.Context) error { return l.insertContracts(ctx, rows) }, changes...)
	}
}

// productFields are what differs of a product beside what contract.Compare says.
func productFields(was, is *contract.Product) []Field {
	fields := difference(nil, "version", was.Version, is.Version)
	fields = difference(fields, "domain", was.Domain, is.Domain)
	fields = difference(fields, "owner", was.Owner, is.Owner)
	fields = difference(fields, "reads", strings.Join(was.Inputs, ", "), strings.Join(is.Inputs, ", "))
	feeds := func(p *contract.Product) string {
		var names []string
		for _, f := range p.Feeds {
			names = append(names, f.Topic+" by "+f.Subscription)
		}
		return strings.Join(names, ", ")
	}
	return difference(fields, "feeds", feeds(was), feeds(is))
}
