package e2e

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/functions"
	"github.com/telemesh/telemesh/internal/local"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/sheet/sheetstest"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/triggers"
)

func since(start time.Time) time.Duration { return time.Since(start).Round(time.Millisecond) }

// manifests is the mesh as it stands in the repository, with more objects.
func manifests(more ...string) (manifest.Set, error) {
	extra := fstest.MapFS{}
	for i, text := range more {
		extra[fmt.Sprintf("%d.yaml", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	return manifest.Load(
		manifest.Folder{Name: "brokers", FS: brokers.FS}, manifest.Folder{Name: "triggers", FS: triggers.FS},
		manifest.Folder{Name: "config", FS: config.FS}, manifest.Folder{Name: "config/sources", FS: config.Sources},
		manifest.Folder{Name: "test", FS: extra})
}

// proxied sends as Knative's ingress does: who comes through a proxy is no caller
// of the same process, and needs a token.
type proxied struct{ http.RoundTripper }

func (p proxied) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	return p.RoundTripper.RoundTrip(r)
}

// stage is what a mesh made of the scenario so far.
type stage struct {
	tables
	log map[string]int64
}

var portalService = manifest.Ref{Namespace: "platform", Name: "portal"}

// portalHere is what the portal has of the cluster there.
func portalHere(t *testing.T) map[string]string {
	return map[string]string{"DATABASE_URL": "sqlite:" + filepath.Join(t.TempDir(), "portal.db"), "PORTAL_URL": "http://127.0.0.1"}
}

// embedded gives what the mesh makes of the scenario in this process: after the
// first burst, the second, and the correction.
func embedded(t *testing.T, s *scenario, google *sheetstest.Server, store warehouse.Warehouse) (stages [3]stage) {
	t.Helper()
	set, err := manifests()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", google.Credentials)
	m, err := local.Open(t.Context(), local.Config{
		Dir: t.TempDir(), Manifests: set, Functions: functions.Table, Warehouse: store,
		Set: map[manifest.Ref]map[string]string{
			sheetSource: {"PLACEMENTS_SHEET": placementsSheet, "SHEETS_ENDPOINT": google.URL},
			{Namespace: "iot", Name: "telemetry-ingest"}: {"INGEST_TOKENS": os.Getenv("E2E_TOKENS")},
			portalService: portalHere(t),
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	idle := func(i int, what string, start time.Time) {
		t.Helper()
		if err := m.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := since(start)
		stages[i] = stage{read(t, store, true), logged(t, store)}
		t.Logf("embedded: %s done after %v: %d readings, %d joined; read after %v", what, done,
			len(stages[i].Shown["iot_telemetry.readings"]), len(stages[i].Shown["iot_analytics.readings"]), since(start))
	}
	sender := &http.Client{Transport: proxied{m.Client().Transport}}
	s.tell(t, m.Client())
	for i, burst := range s.bursts {
		start := time.Now()
		for _, request := range burst {
			send(t, sender, request...)
		}
		idle(i, fmt.Sprintf("burst of %d requests", len(burst)), start)
	}
	putSheet(t, google, s.corrected)
	start := time.Now()
	if err := m.Tick(t.Context(), sheetSource); err != nil {
		t.Fatal(err)
	}
	idle(2, "correction", start)
	return stages
}
