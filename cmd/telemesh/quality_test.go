package main

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

// A tick of the shipped mesh becomes rows, by way of the Broker of the platform; and
// none of the sheets' ticks is among its own.
func TestQualityIsCheckedOnATick(t *testing.T) {
	in := openFolder(t, t.TempDir())
	for _, ping := range []string{"quality-check", "quality-check-late"} {
		if err := in.mesh.Tick(t.Context(), manifest.Ref{Namespace: "platform", Name: ping}); err != nil {
			t.Fatal(err)
		}
		if err := in.mesh.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	got := cellsOf(t, in, "SELECT count(DISTINCT port), count(*) = 2 * count(DISTINCT (port, rule)), bool_and(kept), count(window_from) > 0 FROM mesh_metrics.quality_results")
	ports, err := ruledTables("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{text(int64(len(ports))) + "|true|true|true"}, got); diff != "" {
		t.Errorf("results (-want +got)\n%s", diff)
	}
	if letters := cellsOf(t, in, "SELECT trigger, cause FROM event_log_internal.dead_letters"); letters != nil {
		t.Errorf("dead letters: %v", letters)
	}
	if logged := cellsOf(t, in, "SELECT count(*) FROM event_log.events WHERE broker = 'platform/platform' AND type = '"+mesh.QualityChecked+"'"); !slices.Equal(logged, []string{text(int64(2 * len(ports)))}) {
		t.Errorf("%v events are logged", logged)
	}
	if sheets := in.sheetPings(); len(sheets) != 0 {
		t.Errorf("without sheets %v read them", sheets)
	}
}
