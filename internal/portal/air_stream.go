package portal

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/air"
	"github.com/telemesh/telemesh/internal/live"
	"github.com/telemesh/telemesh/internal/mesh"
)

const (
	// airWait is the time from one look for new readings to the next. The log may have
	// an event before the warehouse has its rows: they are looked for after each, less
	// and less often, until airPatience.
	airWait     = time.Second
	airPatience = 30 * time.Second
	// airOverlap is how long before it asked for a stream a page may have been drawn
	// that does not say what it knows.
	airOverlap = 15 * time.Second
)

// airStream tells a page of each time when readings of what it shows were stored: an
// event "readings" with how many, and the earliest instant that they are of. Who
// comes again is told what was stored meanwhile. An event "withdrawn" says that some
// of what it shows is the tenant's no more, or is of another place: all of it is to be
// asked for again.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
func (p *Portal) airStream(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
	s, a, _, err := p.airAsked(r, v)
	switch {
	case err != nil:
		return err
	case p.feed == nil:
		return errNotFound
	}
	ctx, cancel := context.WithTimeout(r.Context(), liveLasts)
	defer cancel()
	own, err := v.As(s.tenant)
	if err != nil {
		return err
	}
	joined, err := p.feed.Watch(ctx, own, func(e *live.Event) bool { return e.Type() == mesh.AnalyticsJoined && e.Tenant() == s.tenant })
	if err != nil {
		return err
	}
	defer joined.Close()
	corrected, err := p.feed.Watch(ctx, corrector, func(e *live.Event) bool { return corrects(e, s.tenant) })
	if err != nil {
		return err
	}
	defer corrected.Close()
	last, err := p.airSeen(ctx, r, a, &s)
	if err != nil {
		return err
	}
	held, err := a.Held(ctx, s.selection(), s.now)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // of proxies that would hold it back
	out := http.NewResponseController(w)
	say := func(text string) bool {
		if !p.still(r, v) {
			return false
		}
		_, err := io.WriteString(w, text)
		return err == nil && out.Flush() == nil
	}
	if !say(fmt.Sprintf("retry: 3000\nid: %d\n\n", last.UnixMicro())) {
		return nil // who asked is gone, or is out
	}

	events, corrections := told(ctx, joined), told(ctx, corrected)
	beat := time.NewTicker(liveBeat)
	defer beat.Stop()
	wait, waiting := airWait, true
	look := time.NewTimer(wait)
	defer look.Stop()
	soon := func() {
		if !waiting || wait > airWait { // else events that follow each other closely would put it off
			wait, waiting = airWait, true
			look.Reset(wait)
		}
	}
	later := func() bool {
		if wait *= 2; wait < airPatience {
			waiting = true
			look.Reset(wait)
		}
		return waiting
	}
	failed := func(err error) error {
		if ctx.Err() == nil {
			p.log.Warn("stream of the air ended", "tenant", s.tenant, "error", err)
		}
		return nil
	}
	checks := false // whether what was held is held still
	for {
		select {
		case _, open := <-events:
			if !open {
				return nil // the browser comes again
			}
			soon()
		case _, open := <-corrections:
			if !open {
				return nil
			}
			checks = true
			soon()
		case <-look.C:
			waiting = false
			if checks {
				now, err := a.HeldStill(ctx, s.selection(), held)
				if err != nil {
					return failed(err)
				}
				if now.Lost(held) {
					held = now
					if !say(fmt.Sprintf("id: %d\nevent: withdrawn\ndata: {}\n\n", last.UnixMicro())) {
						return nil
					}
				}
			}
			news, err := p.airNews(ctx, a, &s, last)
			if err != nil {
				return failed(err)
			}
			if news.Readings == 0 {
				checks = later() && checks
				continue
			}
			if checks {
				later()
			}
			last = news.Recorded
			if !say(fmt.Sprintf("id: %d\nevent: readings\ndata: {\"readings\": %d, \"since\": %d}\n\n", last.UnixMicro(), news.Readings, news.Since.UnixMilli())) {
				return nil
			}
		case <-beat.C:
			if !say(": alive\n\n") {
				return nil
			}
		}
	}
}

// corrector looks for corrections as who sees all events: one that takes a reading from a
// tenant is nobody's, or of the next one. Nothing of it is told but what then is
// missing of what the tenant had.
var corrector = access.Viewer{Name: "air", Role: access.Analyst}

// corrects says whether an event may take readings from what a tenant is shown.
func corrects(e *live.Event, tenant string) bool {
	switch e.Type() {
	case mesh.AnalyticsWithdrawn, mesh.TenancyRepaired:
		return true
	case mesh.AnalyticsJoined: // in another room
		return e.Tenant() == tenant && e.Source() != mesh.Source("analytics-join")
	}
	return false
}

// told is sent to when a watcher is told of something: once, however much that is. It
// is closed with ctx, or when the portal ends.
func told(ctx context.Context, w *live.Watcher) <-chan struct{} {
	events := make(chan struct{}, 1)
	go func() {
		defer close(events)
		for {
			if _, err := w.Next(ctx); err != nil {
				return
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	return events
}

// airNews gives what was stored after an instant of the range of a page, which went
// on since it was asked for. Of what is not on the page it must not be told.
func (p *Portal) airNews(ctx context.Context, a *air.Air, s *airState, after time.Time) (air.News, error) {
	now, of := p.now(), s.selection()
	if s.preset != "" {
		of.From = of.From.Add(now.Sub(s.now))
	}
	return a.News(ctx, of, after, now)
}

// airSeen is up to when readings were recorded that who asks has: as who comes again
// says, or a page that was loaded for what its last stream told; else about the last
// that there are.
func (p *Portal) airSeen(ctx context.Context, r *http.Request, a *air.Air, s *airState) (time.Time, error) {
	for _, id := range []string{r.Header.Get("Last-Event-ID"), s.asked.Get("after")} {
		if micros, err := strconv.ParseInt(id, 10, 64); err == nil && micros > 0 {
			return time.UnixMicro(micros).UTC(), nil
		}
	}
	// By the clock of who writes, and not by the one here.
	news, err := p.airNews(ctx, a, s, time.Unix(0, 0))
	if err != nil || news.Recorded.IsZero() {
		return time.Unix(0, 0), err
	}
	return news.Recorded.Add(-airOverlap), nil
}
