package portal

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/mesh"
)

const (
	// As many letters are read for the page, and as many are acted on at once.
	lettersRead  = 5000
	lettersAtOne = 500
	lettersShown = 50 // of a group
	// How long nothing may come of any letter before it is said.
	lettersPatience = 30 * time.Second
)

// letterGroup is letters of one Trigger that failed alike.
type letterGroup struct {
	Key     string
	Trigger string // NAMESPACE/NAME
	Status  int64  // 0: none
	Cause   string // with … for what differs
	N       int
	First   time.Time
	Last    time.Time
	Letters []letterLine // the newest
	letters []deadletter.Letter
}

type letterLine struct {
	ID, Short string
	At        time.Time
	Type      string
	Event     string // address of its page in the log
	EventID   string
	Tenant    string
}

// differing is what of a cause tells one letter of a group from another.
var differing = regexp.MustCompile(`"[^"]*"|[0-9a-fA-F]{8,}|\b\d+\b`)

// causeOf is the first line of a cause with … for what differs.
func causeOf(cause string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(cause), "\n")
	line = differing.ReplaceAllString(line, "…")
	if len(line) > 300 {
		line = strings.ToValidUTF8(line[:300], "") + "…"
	}
	return line
}

func triggerOf(l *deadletter.Letter) string {
	if l.Trigger == "" {
		return l.Namespace
	}
	return l.Namespace + "/" + l.Trigger
}

// letterGroups gives the letters that are open, those that many share first. cut says
// that there are more than were read, the newest.
func (p *Portal) letterGroups(ctx context.Context, v access.Viewer) (groups []*letterGroup, cut bool, err error) {
	reader, err := p.data.Reader(v)
	if err != nil {
		return nil, false, err
	}
	by := map[string]*letterGroup{}
	n := 0
	for l, err := range deadletter.Latest(ctx, reader, lettersRead) {
		if err != nil {
			return nil, false, err
		}
		n++
		trigger, cause := triggerOf(&l), causeOf(l.Cause)
		key := mesh.Hash(trigger, fmt.Sprint(l.Status), cause)[:16]
		g := by[key]
		if g == nil {
			g = &letterGroup{Key: key, Trigger: trigger, Status: l.Status, Cause: cause, Last: l.RecordedAt.Time()}
			by[key] = g
			groups = append(groups, g)
		}
		g.N++
		g.First = l.RecordedAt.Time()
		if len(g.Letters) < lettersShown {
			g.Letters = append(g.Letters, newLetterLine(&l))
		}
		g.letters = append(g.letters, l)
	}
	for _, g := range groups {
		if g.N == 1 {
			g.Cause = g.letters[0].Cause
		}
	}
	slices.SortStableFunc(groups, func(a, b *letterGroup) int { return b.N - a.N })
	return groups, n == lettersRead, nil
}

func newLetterLine(l *deadletter.Letter) letterLine {
	e := live.Event{Event: l.Event}
	return letterLine{
		ID: l.ID, Short: l.ID[:min(len(l.ID), 12)], At: l.RecordedAt.Time(), Type: l.Event.Type(), Tenant: e.Tenant(), EventID: l.Event.ID(),
		Event: eventLink(live.Key{Source: l.Event.Source(), ID: l.Event.ID()}, l.ReceivedAt),
	}
}

func (p *Portal) letters(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	groups, cut, err := p.letterGroups(r.Context(), v)
	if err != nil {
		return err
	}
	page := struct {
		Groups []*letterGroup
		Cut    bool
		Read   int
		Admin  bool
		Now    time.Time
	}{groups, cut, lettersRead, admins.lets(v), p.now()}
	return p.page(w, r, v, http.StatusOK, "operations-letters", "Dead letters", page)
}

type letterPage struct {
	letterLine
	Trigger, Destination string
	Status               int64
	Cause                string
	Received             string
	Attributes           [][2]string
	Data                 dataShow
	History              []deadletter.Outcome
	Open                 bool
	Problem              string // with its data
	Admin                bool
}

func (p *Portal) letter(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	reader, err := p.data.Reader(v)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	l, err := deadletter.Get(r.Context(), reader, id)
	if errors.Is(err, deadletter.ErrNone) {
		return errNotFound
	}
	if err != nil && l.ID == "" {
		return err
	}
	page := letterPage{
		letterLine: newLetterLine(&l), Trigger: triggerOf(&l), Destination: l.Destination, Status: l.Status, Cause: l.Cause,
		Received: clock(l.ReceivedAt), Admin: admins.lets(v),
	}
	if err != nil {
		page.Problem = err.Error()
	}
	e := &live.Event{Event: l.Event, Size: l.Size, ReceivedAt: l.ReceivedAt}
	page.Attributes, page.Data = attributes(e), showData(e, l.Event.Data(), err == nil)
	page.Data.Download = "" // what the log has may be less
	if page.History, err = deadletter.History(r.Context(), reader, id); err != nil {
		return err
	}
	for _, err := range deadletter.OpenOf(r.Context(), reader, []string{id}) {
		if err != nil {
			return err
		}
		page.Open = true
	}
	return p.page(w, r, v, http.StatusOK, "operations-letter", "Dead letter "+page.Short, page)
}

// chosen gives the letters that a form or an address names: one, or a group.
func (p *Portal) chosen(ctx context.Context, v access.Viewer, form url.Values) (letters []deadletter.Letter, all int, err error) {
	switch id, group := form.Get("id"), form.Get("group"); {
	case id != "":
		reader, err := p.data.Reader(v)
		if err != nil {
			return nil, 0, err
		}
		for l, err := range deadletter.OpenOf(ctx, reader, []string{id}) {
			if err != nil {
				return nil, 0, err
			}
			letters = append(letters, l)
		}
	case group != "":
		groups, _, err := p.letterGroups(ctx, v)
		if err != nil {
			return nil, 0, err
		}
		for _, g := range groups {
			if g.Key == group {
				letters = g.letters
			}
		}
	default:
		return nil, 0, badRequest("id or group names dead letters")
	}
	all = len(letters)
	slices.Reverse(letters) // oldest first
	return letters[:min(len(letters), lettersAtOne)], all, nil
}

func lettersBack(a *act) { a.Back, a.BackTo = "/operations/deadletters", "Dead letters" }

// counted is a number of things in words.
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(int64(n)) + " " + many
}

func (p *Portal) noLetters(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	a := act{Heading: "Nothing to do", Done: "None of these letters is open any more."}
	lettersBack(&a)
	return p.actPage(w, r, v, a)
}

// confirmLetters says what will become of letters.
func (p *Portal) confirmLetters(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	q := r.URL.Query()
	letters, all, err := p.chosen(r.Context(), v, q)
	if err != nil {
		return err
	}
	do := q.Get("do")
	a := act{Head: []string{"Letter", "Event", "Goes to"}, Form: &actForm{Action: "/operations/deadletters/act", Fields: map[string]string{"do": do, "id": q.Get("id"), "group": q.Get("group")}}}
	lettersBack(&a)
	if len(letters) == 0 {
		return p.noLetters(w, r, v)
	}
	n := counted(len(letters), "dead letter", "dead letters")
	if all > len(letters) {
		a.Says = append(a.Says, fmt.Sprintf("Of %s the oldest %d are taken now. Do it again for the rest.", count(int64(all)), len(letters)))
	}
	var leads deadletter.Leads
	switch do {
	case "redrive":
		if leads, err = p.act.Leads(); err != nil {
			return err
		}
		a.Heading, a.Form.Button = "Redrive "+n, "Redrive "+n
		a.Says = append(a.Says, "Each event is delivered again, to the subscriber that its Trigger leads to now and to no other. What that replies goes on as always. A letter that fails again stays open.")
	case "discard":
		a.Heading, a.Form.Button, a.Form.Danger, a.Form.Reason = "Give up "+n, "Give up "+n, true, "Why"
		a.Says = append(a.Says, "Nobody gets these events any more. They stand in the warehouse, closed, with the reason, until their time is over.")
	default:
		return badRequest("do is redrive or discard")
	}
	for i := range letters {
		l := &letters[i]
		to := "nobody"
		if do == "redrive" {
			address, moved, err := leads.Of(l)
			switch {
			case err != nil:
				to = "nobody: " + err.Error()
			case moved:
				to = address + ", where Trigger " + triggerOf(l) + " leads now"
			default:
				to = address
			}
		}
		a.Rows = append(a.Rows, []string{l.ID[:12], subject(l.Event.Type()) + " " + l.Event.ID(), to})
	}
	a.cut()
	return p.actPage(w, r, v, a)
}

// requestSource is the source of the events by which the portal asks.
var requestSource = mesh.Source("portal")

func (p *Portal) actOnLetters(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	if err := form(w, r); err != nil {
		return err
	}
	do, why := r.PostForm.Get("do"), strings.TrimSpace(r.PostForm.Get("reason"))
	switch {
	case do != "redrive" && do != "discard":
		return badRequest("do is redrive or discard")
	case do == "discard" && why == "":
		return badRequest("say why the letters are given up")
	}
	letters, _, err := p.chosen(r.Context(), v, r.PostForm)
	if err != nil {
		return err
	}
	if len(letters) == 0 {
		return p.noLetters(w, r, v)
	}
	ctx, cancel := acting(r)
	defer cancel()
	reader, err := p.data.Reader(v)
	if err != nil {
		return err
	}
	object := "dead letter " + r.PostForm.Get("id")
	if group := r.PostForm.Get("group"); group != "" {
		object = counted(len(letters), "dead letter", "dead letters") + " of Trigger " + triggerOf(&letters[0])
	}
	if err := p.record(r, v, audit.Acted, object, strings.TrimSpace(do+" "+why)); err != nil {
		return err
	}
	a := act{Heading: "What came of redriving", Head: []string{"Letter", "What came of it", ""}}
	lettersBack(&a)
	redrive := deadletter.Redrive{
		Warehouse: reader, Source: requestSource, FirstLook: 200 * time.Millisecond, Patience: lettersPatience,
		Leads: func(context.Context, []string) (deadletter.Leads, error) { return p.act.Leads() },
		Post:  func(ctx context.Context, _ string, e event.Event) error { return p.act.Post(ctx, e) },
		Say: func(id, outcome string, status int64, cause string) {
			if status != 0 {
				cause = strings.TrimSpace(fmt.Sprint(status, " ", cause))
			}
			a.Rows = append(a.Rows, []string{id[:min(len(id), 12)], outcome, cause})
		},
	}
	if do == "discard" {
		a.Heading, redrive.Discard = "What came of giving up", v.Name+": "+why
	}
	err = redrive.Ask(ctx, letters)
	c := redrive.Counts
	if err != nil && c == (deadletter.Counts{}) && ctx.Err() == nil {
		return err
	}
	undone, _ := c.Undelivered()
	a.Failed = undone > 0 || err != nil
	a.Done = c.String() + "."
	if do == "discard" {
		a.Done = fmt.Sprintf("%d given up, %d failed, %d closed before, %d without an outcome yet.", c.GivenUp, c.Failed, c.Before, c.Waiting+c.Unasked)
	}
	if err != nil {
		p.log.Warn("letters not acted on", "error", err)
		a.Says = append(a.Says, "Not all could be asked for: "+err.Error())
	}
	if c.Waiting > 0 {
		a.Says = append(a.Says, "What has no outcome yet may get one: it was asked for, and goes on.")
	}
	a.cut()
	return p.actPage(w, r, v, a)
}
