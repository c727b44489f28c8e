package check

import (
	"cmp"
	"maps"
	"slices"
)

// rule is what Run looks for.
type rule struct {
	why      string
	severity Severity // empty: Error
}

// finding is one of the rule, of which nothing is said yet.
func (r rule) finding(name string) Finding {
	return Finding{Severity: cmp.Or(r.severity, Error), Rule: name, Why: r.why}
}

// rules by the names that findings have them by.
var rules = map[string]rule{
	"manifest-invalid":    {why: "The cluster does not take it, and telemesh up does not start."},
	"document-invalid":    {why: "The product cannot be deployed: tables, views and access are made from its documents."},
	"standard-broken":     {why: "Other tools read these documents by their standards (ODPS, ODCS), and not this one."},
	"view-unreadable":     {why: "Nobody can say what the view is made of, and a warehouse may refuse it."},
	"owner-missing":       {why: "Whoever has a question, or finds the data wrong, has nobody to turn to."},
	"level-invalid":       {why: "Nobody can rely on a level that is not said, or not in words that can be measured."},
	"quality-invalid":     {why: "The rule is not checked: bad data goes unseen."},
	"input-unsatisfied":   {why: "What the product is made of is not what it was written for: its rows are wrong or missing."},
	"input-missing":       {why: "Nothing comes in by the port: the product lacks what it is made of."},
	"input-undeclared":    {why: "Who changes the port does not know of this reader, and nothing protects it; in the warehouse it has no access."},
	"reads-internal":      {why: "What a product keeps to itself has no contract: it changes without a word, and shows rows that no tenant may see."},
	"port-unmade":         {why: "Who subscribes to the port waits for events that never come."},
	"port-twice":          {why: "Nobody can say whose the events are: who answers for them, and what their version means."},
	"tenant-missing":      {why: "By this column a tenant sees its rows and no others: without it the port cannot be opened to any."},
	"consumer-behind":     {why: "The reader was promised another version: what it does with the port fails, or goes wrong without a word.", severity: Warning},
	"product-unknown":     {why: "The Service does not start."},
	"table-unfed":         {why: "The table stays empty, and nothing fails."},
	"table-missing":       {why: "The Service does not start."},
	"level-unwatched":     {why: "Whether the level is kept is known to nobody, and its breach is seen by its readers first.", severity: Warning},
	"level-unmeasured":    {why: "A level that nobody can measure is not kept by anybody, and its breach is seen by its readers first."},
	"breaking-change":     {why: "Readers rely on the major version: theirs fails, or goes wrong without a word."},
	"function-missing":    {why: "The Service cannot be built, and telemesh up does not start."},
	"rule-invalid":        {why: "The Service does not start."},
	"rule-misfit":         {why: "What the rule should say is never said, or nobody knows that it is, and nothing fails."},
	"broker-missing":      {why: "What is sent there reaches nobody."},
	"service-missing":     {why: "What is sent there is tried again until it is a dead letter."},
	"namespace-missing":   {why: "The cluster refuses what is of a namespace that is not there."},
	"annotation-unknown":  {why: "Nobody reads it: what it should say is not known, and nothing fails."},
	"destination-invalid": {why: "Knative cannot tell where the events go, and delivers none."},
	"dead-letter-path":    {why: "By the path alone the dead letters are told apart: these would be another Trigger's, and be given back to that one."},
	"ingress-missing":     {why: "The name leads nowhere: the function cannot post its events."},
	"ingress-wrong":       {why: "The ingress of another class of Brokers does not know this one, and refuses its events."},
	"replies-split":       {why: "Where an event goes depends on how many were made with it."},
	"emits-nowhere":       {why: "What the function makes is lost."},
	"type-unread":         {why: "The events are made, sent and stored for nobody.", severity: Warning},
	"type-unmade":         {why: "The Trigger never fires for it: what should have come is missing, and nothing fails."},
	"trigger-idle":        {why: "The Trigger never fires, and nothing fails."},
	"attribute-unset":     {why: "The filter passes nothing, and nothing fails: the events are not delivered."},
	"filter-never-true":   {why: "The filter passes nothing, and nothing fails: the events are not delivered."},
	"filter-fails":        {why: "An expression that fails is not true, whatever NOT says: these events are not delivered, and nobody is told."},
	"delivered-twice":     {why: "Each event is paid for twice, and counted twice by what does not tell it from the first.", severity: Warning},
	"cycle":               {why: "One event makes others without end, until their time to live is over; each round costs as much as the first."},
	"tick-lost":           {why: "A tick that is not taken is lost, without retries and dead letter."},
	"tick-untaken":        {why: "The clock wakes nobody: what should happen at that time does not."},
	"account-shared":      {why: "Brokers and warehouses tell functions by their accounts: one that shares another's may do all that the other may."},
	"account-missing":     {why: "Nobody can have this account: pods that name it do not start, policies that name it let nobody in."},
	"token-missing":       {why: "Where Brokers ask who posts, this function is refused."},
	"token-audience":      {why: "Where Brokers ask who posts, this token is refused."},
	"policy-unknown":      {why: "The policy is about something that is not there, and not about what was meant."},
	"policy-shuts-out":    {why: "The Broker refuses the function's events."},
	"wake-list":           {why: "A function that is not named starts only when the event is there; one that nothing reaches starts for nothing."},
	"wake-window":         {why: "The function is gone again before it may be woken again, and the event waits for a cold start."},
	"overlay-differs":     {why: "What was tried without the overlay is not what runs with it."},
}

// Rules are the names of what Run looks for.
func Rules() []string { return slices.Sorted(maps.Keys(rules)) }
