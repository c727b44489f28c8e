package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// sheetSource is the Service, the PingSource and the Trigger of
// config/sources/sheet-source.yaml.
var sheetSource = manifest.Ref{Namespace: "iot", Name: "sheet-source"}

// correct lets the cluster read the corrected placements at a tick of the
// PingSource, and waits for what the embedded runtime made of them.
func correct(t *testing.T, s scenario, host netip.Addr, set manifest.Set, store warehouse.Warehouse, want readings) {
	t.Helper()
	page := newPage(t, s.corrected)
	source, err := os.ReadFile(os.Getenv("E2E_SHEET_SOURCE"))
	if err != nil {
		t.Fatalf("hack/e2e.sh sets E2E_SHEET_SOURCE, config/sources/sheet-source.yaml with its image: %v", err)
	}
	told := events(t, store, mesh.PlacementsChanged)
	start := time.Now()
	create(t, kubectl(t, fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: sheets, namespace: iot}\ndata: {placements: %q}\n---\n%s",
		page.at(host), source), "label", "--local", "-o", "json", "-f", "-", mine+"=e2e"))
	kubectl(t, "", "wait", "--for=condition=Ready", "--timeout=60s", "-n", sheetSource.Namespace,
		"ksvc/"+sheetSource.Name, "pingsource/"+sheetSource.Name, "trigger/"+sheetSource.Name)
	readOnly := kubectl(t, "", "get", "pods", "-n", sheetSource.Namespace, "-l", "serving.knative.dev/service="+sheetSource.Name,
		"-o", `jsonpath={.items[*].spec.containers[?(@.name=="user-container")].securityContext.readOnlyRootFilesystem}`)
	if readOnly != "true" {
		t.Errorf("the root file system of sheet-source is read-only: %q, want of one container true", readOnly)
	}
	t.Logf("sheet-source ready after %v, its file system read-only", since(start))

	const tick = time.Minute
	until(t, tick+patience, "the correction", func() string {
		if page.reads.Load() == 0 {
			return "the sheet was not read"
		}
		return gocmp.Diff(want, readingsOf(t, store))
	})
	stored := query(t, store, `SELECT max(recorded_at) FROM (SELECT recorded_at FROM iot_telemetry_internal.readings
		UNION ALL SELECT recorded_at FROM iot_analytics_internal.readings)`)[0][0].(time.Time)
	changed := query(t, store, "SELECT max(received_at) FROM event_log.events WHERE type = '"+mesh.PlacementsChanged+"'")[0][0].(time.Time)
	t.Logf("%d readings corrected, the last row %v after placements.changed", len(want.TelemetryAgain), stored.Sub(changed).Round(time.Millisecond))

	// The sheet says nothing new at the next tick.
	reads := page.reads.Load()
	until(t, tick+patience, "another tick", func() string {
		if page.reads.Load() == reads {
			return "the sheet was not read again"
		}
		return ""
	})
	kubectl(t, "", "delete", "-n", sheetSource.Namespace, "pingsource", sheetSource.Name)
	t.Logf("functions at zero after %v", atZero(t, set.Services).Round(time.Second))
	n := events(t, store, mesh.PlacementsChanged) - told
	t.Logf("the sheet was read %d times, %d of them with its ETag; events placements.changed: %d", page.reads.Load(), page.known.Load(), n)
	if n != 1 {
		t.Errorf("%d events placements.changed of a sheet that changed once, want 1", n)
	}
	if diff := gocmp.Diff(want, readingsOf(t, store)); diff != "" {
		t.Errorf("corrected readings when all is done: embedded runtime (-), cluster (+):\n%s", diff)
	}
	misplaced := query(t, store, `SELECT count(*) FROM iot_telemetry.readings r LEFT JOIN iot_metadata.placements p
		ON r.device_id = p.device_id AND p.valid_from <= r.observed_at AND (p.valid_to IS NULL OR r.observed_at < p.valid_to)
		WHERE r.tenant_id IS DISTINCT FROM p.tenant_id`)[0][0]
	if misplaced != int64(0) {
		t.Errorf("%d readings are not of the tenant that the placements name", misplaced)
	}
}

// events is how many of a type the event log has.
func events(t *testing.T, store warehouse.Warehouse, eventType string) int64 {
	t.Helper()
	return query(t, store, "SELECT count(*) FROM event_log.events WHERE type = '"+eventType+"'")[0][0].(int64)
}

// page is a sheet as CSV behind an address.
type page struct {
	csv          []byte
	port         int
	reads, known atomic.Int64 // requests, and those of who knew the ETag
}

func newPage(t *testing.T, rows []mesh.Placement) *page {
	t.Helper()
	var csv bytes.Buffer
	if err := sheet.Placements.Write(&csv, rows); err != nil {
		t.Fatal(err)
	}
	p := &page{csv: csv.Bytes()}
	p.port = serve(t, p)
	return p
}

func (p *page) at(host netip.Addr) string {
	return fmt.Sprintf("http://%s/placements.csv", netip.AddrPortFrom(host, uint16(p.port)))
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.reads.Add(1)
	if r.Header.Get("If-None-Match") != "" {
		p.known.Add(1)
	}
	w.Header().Set("ETag", `"corrected"`)
	w.Header().Set("Content-Type", "text/csv")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p.csv))
}

// readings is what the warehouse holds of them.
type readings struct {
	Telemetry, Analytics           map[string][]any // what the output ports show, by reading_id
	TelemetryAgain, AnalyticsAgain []string         // the readings that have more rows than one behind them
}

// readingsOf leaves out how and when a row came, and after how many others: a
// reading that was joined with what a function knew from before is joined again.
func readingsOf(t *testing.T, store warehouse.Warehouse) (r readings) {
	t.Helper()
	for product, to := range map[string]struct {
		shown *map[string][]any
		again *[]string
	}{
		"iot_telemetry": {&r.Telemetry, &r.TelemetryAgain},
		"iot_analytics": {&r.Analytics, &r.AnalyticsAgain},
	} {
		*to.shown = map[string][]any{}
		for _, row := range query(t, store, `SELECT reading_id, coalesce(tenant_id, ''),
			COLUMNS(c -> c NOT IN ('reading_id', 'tenant_id', 'received_at', 'recorded_at', 'event_source', 'event_id', 'revision', 'join_version'))
			FROM `+product+`.readings`) {
			(*to.shown)[row[0].(string)] = row[1:]
		}
		for _, row := range query(t, store, `SELECT reading_id FROM `+product+`_internal.readings GROUP BY reading_id HAVING count(*) > 1 ORDER BY reading_id`) {
			*to.again = append(*to.again, row[0].(string))
		}
	}
	return r
}
