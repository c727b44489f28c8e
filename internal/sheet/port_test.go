package sheet_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/sheet/sheetstest"
)

func newPort(t *testing.T, client *http.Client, url string) *sheet.Port[mesh.Placement] {
	t.Helper()
	port, err := sheet.NewPort(sheet.Placements, client, url, "test")
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func changes(t *testing.T, port *sheet.Port[mesh.Placement], csv string) []event.Event {
	t.Helper()
	events, err := port.Changes(t.Context(), read(t, sheet.Placements, csv))
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func types(events []event.Event) (out []string) {
	for _, e := range events {
		out = append(out, e.Type())
	}
	return out
}

const head = "device_id,tenant_id,valid_from\n"

// Versions rise above everything that was ever stored, by whomever: a row that
// comes back outranks its deletion, a finding its putting right.
func TestPortVersions(t *testing.T) {
	stored := sheetstest.NewPort(t, "placements")
	for i, step := range []struct {
		csv      string
		rows     []string
		findings []string
	}{
		{head + "d,a,2026-01-01T00:00:00Z\ne,a,soon\n", []string{"d a 1"}, []string{`3 valid_from: "soon" is not a time with an offset, such as 2026-03-02T08:30:00+01:00 or 2026-03-02T07:30:00Z`}},
		{head + "e,a,2026-01-01T00:00:00Z\n", []string{"e a 2"}, nil},
		{head + "d,a,2026-01-01T00:00:00Z\ne,,2026-01-01T00:00:00Z\n", []string{"d a 4", "e a 2"}, []string{"3 tenant_id: empty"}},
		{head + "d,a,2026-01-01T00:00:00Z\ne,,tomorrow\n", []string{"d a 4", "e a 2"}, []string{"3 tenant_id: empty", `3 valid_from: "tomorrow" is not a time with an offset, such as 2026-03-02T08:30:00+01:00 or 2026-03-02T07:30:00Z`}},
		{head, nil, nil},
	} {
		// Each time by another process, which knows only what the port says.
		stored.Store(t, changes(t, newPort(t, http.DefaultClient, stored.URL), step.csv)...)
		if diff := cmp.Diff(step.rows, stored.Rows("device_id", "tenant_id", "version")); diff != "" {
			t.Errorf("step %d: rows (-want +got):\n%s", i, diff)
		}
		if diff := cmp.Diff(step.findings, stored.Findings()); diff != "" {
			t.Errorf("step %d: findings (-want +got):\n%s", i, diff)
		}
		if again := changes(t, newPort(t, http.DefaultClient, stored.URL), step.csv); len(again) > 0 {
			t.Errorf("step %d: the same again gives %v, want nothing", i, types(again))
		}
	}
}

// handled answers requests by a handler, without a network.
type handled struct{ http.Handler }

func (h handled) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

// What was told and never comes to the port is told again after a while: the
// event may have been lost.
func TestPortTellsAgainWhatWasLost(t *testing.T) {
	stored := sheetstest.NewPort(t, "placements")
	synctest.Test(t, func(t *testing.T) {
		port := newPort(t, &http.Client{Transport: handled{stored}}, stored.URL)
		csv := head + "d,a,2026-01-01T00:00:00Z\ne,,2026-01-01T00:00:00Z\n"
		want := []string{mesh.PlacementsChanged, mesh.PlacementsRejected}
		if diff := cmp.Diff(want, types(changes(t, port, csv))); diff != "" {
			t.Fatalf("first (-want +got):\n%s", diff)
		}
		rows, err := port.Rows(t.Context())
		if err != nil || len(rows) != 1 || rows[0].DeviceID != "d" {
			t.Errorf("rows %v, %v, want the one on its way", rows, err)
		}
		time.Sleep(time.Minute) // synctest's clock
		if again := changes(t, port, csv); len(again) > 0 {
			t.Errorf("after a minute %v, want nothing yet", types(again))
		}
		time.Sleep(2 * time.Minute)
		again := changes(t, port, csv)
		if diff := cmp.Diff(want, types(again)); diff != "" {
			t.Fatalf("later (-want +got):\n%s", diff)
		}
		stored.Store(t, again...)
		if diff := cmp.Diff([]string{"d 2"}, stored.Rows("device_id", "version")); diff != "" {
			t.Errorf("rows (-want +got):\n%s", diff)
		}
	})
}

// A port that is away, or one that does not say its version, stops a change:
// its version could be lower than one that was given out.
func TestPortThatDoesNotTell(t *testing.T) {
	stored := sheetstest.NewPort(t, "placements")
	port := newPort(t, http.DefaultClient, stored.URL)
	stored.Away(true)
	s := read(t, sheet.Placements, head+"d,a,2026-01-01T00:00:00Z\n")
	if events, err := port.Changes(t.Context(), s); err == nil || len(events) > 0 || !strings.Contains(err.Error(), stored.URL) {
		t.Errorf("away: %v, %v, want an error that names the port", types(events), err)
	}
	stored.Away(false)
	if events, err := port.Changes(t.Context(), s); err != nil || len(events) != 1 {
		t.Errorf("back: %v, %v, want the change, which was not told", types(events), err)
	}
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer silent.Close()
	if _, err := newPort(t, http.DefaultClient, silent.URL).Changes(t.Context(), s); err == nil || !strings.Contains(err.Error(), "header ") {
		t.Errorf("no version: %v, want an error that names the header", err)
	}
}

// More findings than an event holds.
func TestPortPartsFindings(t *testing.T) {
	stored := sheetstest.NewPort(t, "placements")
	events := changes(t, newPort(t, http.DefaultClient, stored.URL), head+strings.Repeat("d,,2026-01-01T00:00:00Z\n", 10_001))
	if len(events) < 2 || events[0].ID() == events[1].ID() {
		t.Fatalf("%v, want several events of ids of their own", types(events))
	}
	for i, e := range events {
		if n := len(e.Data()); n > 512<<10 {
			t.Errorf("event %d has %d bytes, want at most 512 KiB", i, n)
		}
	}
	stored.Store(t, events...)
	if n := len(stored.Findings()); n != 10_001 {
		t.Errorf("%d findings, want 10,001", n)
	}
}

// What was told and never came is not there to be deleted. If it comes late, it
// is deleted then.
func TestPortDeletesOnlyWhatWasShown(t *testing.T) {
	stored := sheetstest.NewPort(t, "placements")
	port := newPort(t, http.DefaultClient, stored.URL)
	lost := changes(t, port, head+"d,a,2026-01-01T00:00:00Z\n")
	if events := changes(t, port, head); len(events) > 0 {
		t.Errorf("deleting what never came gives %v, want nothing", types(events))
	}
	stored.Store(t, lost...)
	gone := changes(t, port, head)
	if diff := cmp.Diff([]string{mesh.PlacementsChanged}, types(gone)); diff != "" {
		t.Errorf("it came late (-want +got):\n%s", diff)
	}
	stored.Store(t, gone...)
	if rows := stored.Rows("device_id"); len(rows) > 0 {
		t.Errorf("rows %v, want none", rows)
	}
}

// A finding that is told is told again when another reason or severity holds of
// the same place, and taken back when none does; those that could not be looked
// up stay.
func TestPortFindings(t *testing.T) {
	stored := sheetstest.NewPort(t, "placements")
	port := newPort(t, http.DefaultClient, stored.URL)
	of := func(reason string, severity mesh.Severity) sheet.Sheet[mesh.Placement] {
		return sheet.Sheet[mesh.Placement]{Findings: []mesh.RejectedRow{{Sheet: "s", Row: 2, Column: "c", Reason: reason, Severity: severity}}}
	}
	for i, step := range []struct {
		sheet sheet.Sheet[mesh.Placement]
		told  int
		want  []string
	}{
		{of("x", mesh.SeverityWarning), 1, []string{"2 c: x (warning)"}},
		{of("x", mesh.SeverityWarning), 0, []string{"2 c: x (warning)"}},
		{of("x", mesh.SeverityError), 1, []string{"2 c: x"}},
		{of("y", mesh.SeverityError), 1, []string{"2 c: y"}},
		{sheet.Sheet[mesh.Placement]{Unreadable: true}, 0, []string{"2 c: y"}},
		{sheet.Sheet[mesh.Placement]{Unchecked: true}, 1, nil},
		{of("x", mesh.SeverityWarning), 1, []string{"2 c: x (warning)"}},
		{sheet.Sheet[mesh.Placement]{Unchecked: true}, 0, []string{"2 c: x (warning)"}},
		{sheet.Sheet[mesh.Placement]{}, 1, nil},
	} {
		events, err := port.Changes(t.Context(), step.sheet)
		if err != nil || len(events) != step.told {
			t.Errorf("step %d: %v, %v, want %d events", i, types(events), err, step.told)
		}
		stored.Store(t, events...)
		if diff := cmp.Diff(step.want, stored.Findings()); diff != "" {
			t.Errorf("step %d: findings (-want +got):\n%s", i, diff)
		}
	}
}

// Of the events of one change some are stored before the others: what the others
// carry is not told again, and not deleted.
func TestPortThatShowsAPartOfAChange(t *testing.T) {
	stored := sheetstest.NewPort(t, "placements")
	port := newPort(t, http.DefaultClient, stored.URL)
	csv := head
	for i := range 10_000 {
		csv += fmt.Sprintf("d%05d,a,2026-01-01T00:00:00Z\n", i)
	}
	events := changes(t, port, csv)
	if len(events) < 2 {
		t.Fatalf("%d events, want several", len(events))
	}
	stored.Store(t, events[0])
	if again := changes(t, port, csv); len(again) > 0 {
		t.Errorf("when one of %d events is stored: %v, want nothing", len(events), types(again))
	}
	stored.Store(t, events[1:]...)
	if again := changes(t, port, csv); len(again) > 0 {
		t.Errorf("when all are stored: %v, want nothing", types(again))
	}
	// All of them have come: another row is told alone, and one taken out goes.
	last := changes(t, port, strings.Replace(csv, "d00000,a", "e,a", 1))
	stored.Store(t, last...)
	if rows := stored.Rows("device_id"); len(last) != 1 || len(rows) != 10_000 || rows[0] != "d00001" || rows[9_999] != "e" {
		t.Errorf("%d events, %d rows from %s, want d00000 gone and e come", len(last), len(rows), rows[0])
	}
}

// A later version is another writer's, who took out what this one told.
func TestPortOvertaken(t *testing.T) {
	stored := sheetstest.NewPort(t, "placements")
	one, other := newPort(t, http.DefaultClient, stored.URL), newPort(t, http.DefaultClient, stored.URL)
	stored.Store(t, changes(t, one, head+"d,a,2026-01-01T00:00:00Z\n")...)
	stored.Store(t, changes(t, other, head)...)
	if rows, err := one.Rows(t.Context()); err != nil || len(rows) > 0 {
		t.Errorf("rows %v, %v, want none", rows, err)
	}
}

// Another writer gave the same version out, and its rows came: what the port
// shows counts, and not what was told and is overtaken.
func TestPortWithAnotherWriter(t *testing.T) {
	stored := sheetstest.NewPort(t, "placements")
	one, other := newPort(t, http.DefaultClient, stored.URL), newPort(t, http.DefaultClient, stored.URL)
	mine, theirs := head+"d,a,2026-01-01T00:00:00Z\n", head+"d,b,2026-01-01T00:00:00Z\n"
	changes(t, one, mine)
	stored.Store(t, changes(t, other, theirs)...)
	stored.Store(t, changes(t, one, mine)...)
	if diff := cmp.Diff([]string{"d a 2"}, stored.Rows("device_id", "tenant_id", "version")); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}
