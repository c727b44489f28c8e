package portal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/rejected"
)

// rejectedGroup is messages that one reader refused for one cause.
type rejectedGroup struct {
	Reader, Cause string
	N             int64
	Devices       int64
	Latest        time.Time
	List, Retry   string // addresses, of these
}

func (g *rejectedGroup) link() {
	query := url.Values{"reader": {g.Reader}, "cause": {g.Cause}}.Encode()
	g.List, g.Retry = "/operations/rejected?"+query, "/operations/rejected/retry?"+query
}

const messagesShown = 100

// selectionOf is what an address or a form means: one message, or those of a reader
// and a cause.
func (p *Portal) selectionOf(ctx context.Context, v access.Viewer, q url.Values) (s rejected.Selection, err error) {
	if id := q.Get("id"); id != "" {
		reader, err := p.data.Reader(v)
		if err != nil {
			return s, err
		}
		s.Keys, err = rejected.Keys(ctx, reader, []string{id})
		if rejected.IsUnknown(err) {
			return s, errNotFound
		}
		return s, err
	}
	s = rejected.Selection{Is: q.Get("cause"), Reader: q.Get("reader")}
	if s.Is == "" || s.Reader == "" {
		return s, badRequest("id, or reader and cause, name rejected messages")
	}
	return s, nil
}

func (p *Portal) rejections(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	reader, err := p.data.Reader(v)
	if err != nil {
		return err
	}
	page := struct {
		Groups   []rejectedGroup
		Chosen   *rejectedGroup
		Messages []rejected.Message
		More     bool
		Admin    bool
		Now      time.Time
	}{Admin: admins.lets(v), Now: p.now()}
	found, err := reader.Query(r.Context(), rejected.SQL+`SELECT reader, cause, COUNT(*) AS n, COUNT(DISTINCT device_id) AS devices, MAX(received_at) AS latest
FROM messages WHERE readings IS NULL GROUP BY reader, cause ORDER BY n DESC, cause LIMIT 500`)
	if err != nil {
		return err
	}
	for row, err := range found.All {
		if err != nil {
			return err
		}
		g := rejectedGroup{Reader: "-"}
		if s, ok := row[0].(string); ok {
			g.Reader = s
		}
		g.Cause, _ = row[1].(string)
		g.N, _ = row[2].(int64)
		g.Devices, _ = row[3].(int64)
		g.Latest, _ = row[4].(time.Time)
		g.link()
		page.Groups = append(page.Groups, g)
	}
	if q := r.URL.Query(); q.Has("cause") {
		s, err := p.selectionOf(r.Context(), v, q)
		if err != nil {
			return err
		}
		page.Chosen = &rejectedGroup{Reader: s.Reader, Cause: s.Is}
		page.Chosen.link()
		for m, err := range rejected.Select(r.Context(), reader, s, "received_at DESC, source, message_id") {
			if err != nil {
				return err
			}
			if len(page.Messages) == messagesShown {
				page.More = true
				break
			}
			page.Messages = append(page.Messages, m)
		}
	}
	return p.page(w, r, v, http.StatusOK, "operations-rejected", "Rejected messages", page)
}

type rejectionPage struct {
	rejected.Message
	Why        string
	Place      string
	Bytes      string
	Size       string
	Cut        bool
	Attributes [][2]string
	History    []rejected.Found
	Now        string // what the readers say of it now
	Readable   bool
	Retried    bool // it can be, by an admin
}

func (p *Portal) rejection(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	reader, err := p.data.Reader(v)
	if err != nil {
		return err
	}
	s, err := p.selectionOf(r.Context(), v, url.Values{"id": {r.PathValue("name")}})
	if err != nil {
		return err
	}
	for m, err := range rejected.Select(r.Context(), reader, s, "received_at") {
		if err != nil {
			return err
		}
		page := rejectionPage{Message: m, Why: rejected.Why(&m.Rejection), Size: bytesOf(int64(len(m.Payload))), Retried: admins.lets(v) && m.IsMessage()}
		offset := m.Position.Offset()
		page.Place = strings.TrimPrefix(rejected.Place(m.Payload, offset), "; ")
		shown := m.Payload
		if page.Cut = len(shown) > dataShown; page.Cut {
			shown = bytes.ToValidUTF8(shown[:dataShown], nil)
		}
		page.Bytes = rejected.Marked(shown, offset)
		for name, value := range m.Attributes {
			page.Attributes = append(page.Attributes, [2]string{name, value})
		}
		slices.SortFunc(page.Attributes, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
		if page.History, err = rejected.History(r.Context(), reader, s.Keys[0]); err != nil {
			return err
		}
		page.Now, page.Readable = p.readNow(p.act.Parser(), &m)
		return p.page(w, r, v, http.StatusOK, "operations-rejection", "Rejected message "+m.Name[:12], page)
	}
	return errNotFound
}

// readNow says what the readers say of a message now.
func (p *Portal) readNow(parser *device.Parser, m *rejected.Message) (string, bool) {
	if !m.IsMessage() {
		return m.WhyNotRetried(), false
	}
	readings, _, err := parser.Parse(nil, &m.Rejection.Message)
	if err != nil {
		now := device.Reject(m.Rejection.Message, err)
		return "It cannot be read now either: " + rejected.Why(&now), false
	}
	return "It can be read now: " + counted(len(readings), "reading", "readings") + ".", true
}

func rejectedBack(a *act) { a.Back, a.BackTo = "/operations/rejected", "Rejected messages" }

// confirmRetry says what reading messages again would give.
func (p *Portal) confirmRetry(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	q := r.URL.Query()
	s, err := p.selectionOf(r.Context(), v, q)
	if err != nil {
		return err
	}
	reader, err := p.data.Reader(v)
	if err != nil {
		return err
	}
	a := act{Head: []string{"Message", "Device", "What reading it now gives"}}
	rejectedBack(&a)
	parser, n, readable := p.act.Parser(), 0, 0
	for m, err := range rejected.Select(r.Context(), reader, s, "received_at, source, message_id") {
		if err != nil {
			return err
		}
		n++
		if n > actShown {
			continue
		}
		says, ok := p.readNow(parser, &m)
		if ok {
			readable++
		}
		a.Rows = append(a.Rows, []string{m.Name[:12], m.DeviceID, says})
	}
	a.More = max(0, n-actShown)
	a.Heading = "Read " + counted(n, "message", "messages") + " again"
	if n == 0 {
		a.Heading, a.Done = "Nothing to do", "None of these messages is still rejected."
		return p.actPage(w, r, v, a)
	}
	a.Says = []string{
		"Those that can be read now go through the mesh as they were received, with the time of then, and leave the list once all their readings are stored. The others stay. A message that is read twice adds nothing the second time.",
		fmt.Sprintf("Of the %d below %d can be read now.", len(a.Rows), readable),
	}
	a.Form = &actForm{Action: "/operations/rejected/retry", Fields: map[string]string{"id": q.Get("id"), "reader": q.Get("reader"), "cause": q.Get("cause")}, Button: a.Heading}
	return p.actPage(w, r, v, a)
}

func (p *Portal) retry(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	if err := form(w, r); err != nil {
		return err
	}
	s, err := p.selectionOf(r.Context(), v, r.PostForm)
	if err != nil {
		return err
	}
	reader, err := p.data.Reader(v)
	if err != nil {
		return err
	}
	object := "rejected message " + r.PostForm.Get("id")
	if len(s.Keys) == 0 {
		object = "rejected messages: " + s.Reader + ": " + s.Is
	}
	if err := p.record(r, v, audit.Acted, object, "retry"); err != nil {
		return err
	}
	ctx, cancel := acting(r)
	defer cancel()
	a := act{Heading: "What came of reading it again", Head: []string{"Message", "What came of it", "Readings", "Rows"}}
	rejectedBack(&a)
	again := rejected.Retry{Warehouse: reader, Parser: p.act.Parser(), Post: p.act.Post, Wait: settle, Say: func(some []*rejected.Attempt) {
		for _, each := range some {
			what := "read"
			switch {
			case each.Cause != "":
				what = each.Cause
			case each.Found < each.Expected():
				what = "read, and not all of its readings are stored"
			}
			a.Rows = append(a.Rows, []string{each.Name[:12], what, fmt.Sprint(each.Expected()), fmt.Sprint(each.Found)})
		}
	}}
	sum, err := again.Run(ctx, s)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	a.Done = fmt.Sprintf("%s: %d read now, %d remain unreadable. Of %s %d are rows.",
		counted(sum.Messages, "message", "messages"), sum.Read, sum.Unreadable+sum.Refused, counted(sum.Expected, "reading", "readings"), sum.Found)
	a.Failed = sum.Unreadable+sum.Refused+sum.Incomplete > 0 || err != nil
	if sum.Incomplete > 0 {
		a.Says = append(a.Says, "Where readings are missing, look at the dead letters: does the mesh have the same mappings as the portal?")
	}
	if err != nil {
		a.Says = append(a.Says, "It took too long: what was not done is left. Do it again.")
	}
	a.cut()
	return p.actPage(w, r, v, a)
}

// settle returns when nothing is missing any more, or nothing has come for a while.
func settle(ctx context.Context, missing func() (int, error)) error {
	const patience, most = 20 * time.Second, 2 * time.Second
	last, since, wait := -1, time.Now(), 100*time.Millisecond
	for {
		n, err := missing()
		if err != nil || n == 0 {
			return err
		}
		if n != last {
			last, since = n, time.Now()
		} else if time.Since(since) > patience {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, most)
	}
}
