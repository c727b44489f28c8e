package portal

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/audit"
)

const (
	auditShown  = 100
	auditChunk  = 1000
	auditLooked = 20 // chunks that are searched for entries that match
)

type auditPage struct {
	Who, Action, Text string // that are asked for
	Actions           []audit.Action
	Entries           []audit.Entry
	Older             string // address of the next page; empty: there is none
	Searched          bool   // not to the begin of the log
	Verified          string
	Tampered          string
	Head              string
}

// auditActions are what there is to choose from.
var auditActions = []audit.Action{
	audit.Login, audit.LoginFailed, audit.LoginDelayed, audit.Logout, audit.TokenMade, audit.TokenRevoked, audit.UserAdded, audit.UserChanged,
	audit.UserReset, audit.UserSetUp, audit.Password, audit.Codes, audit.Recovery, audit.RecoveryUsed, audit.SessionsOut, audit.Refused,
	audit.Export, audit.Query, audit.Acted,
}

func (p *Portal) auditPage(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	page, err := p.auditEntries(r)
	if err != nil {
		return err
	}
	return p.page(w, r, v, http.StatusOK, "operations-audit", "Audit log", page)
}

func (p *Portal) auditEntries(r *http.Request) (page auditPage, err error) {
	q := r.URL.Query()
	page = auditPage{Who: q.Get("who"), Action: q.Get("action"), Text: q.Get("text"), Actions: auditActions}
	if p.audit == nil {
		return page, nil
	}
	var before int64
	if text := q.Get("before"); text != "" {
		if before, err = strconv.ParseInt(text, 10, 64); err != nil || before < 1 {
			return page, badRequest("before is the number of an entry")
		}
	}
	has := func(e audit.Entry) bool {
		return (page.Who == "" || e.Who == page.Who) && (page.Action == "" || string(e.Action) == page.Action) &&
			(page.Text == "" || strings.Contains(strings.ToLower(e.Object+"\n"+e.Detail+"\n"+e.From), strings.ToLower(page.Text)))
	}
	older := func() string {
		return "/operations/audit?" + url.Values{"who": {page.Who}, "action": {page.Action}, "text": {page.Text}, "before": {fmt.Sprint(before)}}.Encode()
	}
	for range auditLooked {
		some, err := p.audit.List(r.Context(), before, auditChunk)
		if err != nil {
			return page, err
		}
		for _, e := range some {
			before = e.Seq
			if !has(e) {
				continue
			}
			if page.Entries = append(page.Entries, e); len(page.Entries) == auditShown {
				if e.Seq > 1 {
					page.Older = older()
				}
				return page, nil
			}
		}
		if len(some) < auditChunk {
			return page, nil
		}
	}
	page.Searched, page.Older = true, older()
	return page, nil
}

// verifyAudit looks whether the log is as it was written.
func (p *Portal) verifyAudit(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	page, err := p.auditEntries(r)
	if err != nil {
		return err
	}
	if p.audit == nil {
		return errNotFound
	}
	head, err := p.audit.Verify(r.Context())
	switch {
	case errors.Is(err, audit.ErrTampered):
		page.Tampered = err.Error()
	case err != nil:
		return err
	default:
		page.Verified, page.Head = counted(int(head.Seq), "entry", "entries"), head.String()
	}
	return p.page(w, r, v, http.StatusOK, "operations-audit", "Audit log", page)
}
