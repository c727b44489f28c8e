package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/feed"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/internal/sheet/sheetstest"
	"github.com/telemesh/telemesh/internal/snapshot"
)

// Addresses of the mesh, the same on a cluster and in the embedded runtime.
const (
	ingestURL     = "http://telemetry-ingest.iot.svc.cluster.local/"
	brokerURL     = "http://broker-ingress.platform.svc.cluster.local/"
	placementsURL = "http://iot-metadata-port.iot.svc.cluster.local/placements"
	actionsURL    = "http://iot-actions-port.iot.svc.cluster.local/actions"
	customersURL  = "http://customers-port.crm.svc.cluster.local/customers"
)

// patience is what one step may take: a chain of cold starts, with the
// retries that may be between them.
const patience = 2 * time.Minute

// metadata is what functions have to know of devices before messages come.
type metadata struct {
	placements []mesh.Placement
	actions    []mesh.Action
	customers  []mesh.Customer
}

// scenario is a room's device that the days of two tenants pass by: nobody's at
// first, then a school's, then an office's, with actions in each of their rooms. A
// spare one is the school's from an afternoon on. Then it turns out that the
// office had the device for six hours in between, and that the spare one was
// nobody's.
type scenario struct {
	metadata
	corrected []mesh.Placement // without version
	bursts    [2][]request
}

// request is messages that are sent together.
type request [][]byte

const (
	batch   = 500 // BATCH_MAX_MESSAGES of config/telemetry-ingest.yaml
	singles = 10  // messages of a burst that come alone
	spares  = 20  // messages of the spare device
	device  = "925038/CO2-meter-SCD4x"
	spare   = "mesh-spare"
)

// newScenario takes the messages of a real building, four weeks from 2022-10-06 on,
// or made up ones where the data set is not there.
func newScenario(t *testing.T) scenario {
	t.Helper()
	school := mesh.Placement{DeviceID: device, TenantID: "mesh-school", Building: "T", Floor: "5", Room: "T5.38", Persons: ptr[int64](28), OutsideCO2: ptr(415.5)}
	office := mesh.Placement{DeviceID: device, TenantID: "mesh-office", Building: "Kantoor", Room: "12"}
	during := func(p mesh.Placement, version int64, from, to string) mesh.Placement {
		p.Version, p.ValidFrom = version, at(t, from)
		if to != "" {
			p.ValidTo = ptr(at(t, to))
		}
		return p
	}
	s := scenario{
		metadata: metadata{
			placements: []mesh.Placement{
				during(school, 1, "2022-10-06T14:00:00+02:00", "2022-10-25T12:00:00+02:00"),
				during(office, 2, "2022-10-25T12:00:00+02:00", ""),
				during(mesh.Placement{DeviceID: spare, TenantID: school.TenantID, Building: "T", Room: "T5.40"}, 3, "2022-10-07T08:00:00+02:00", ""),
			},
			actions: []mesh.Action{
				{ActionID: "mesh-a1", TenantID: school.TenantID, Building: "T", Room: "T5.38", Action: "open window", TakenAt: at(t, "2022-10-07T09:00:00+02:00"), Version: 1},
				{ActionID: "mesh-a2", TenantID: office.TenantID, DeviceID: device, Action: "ventilation on", TakenAt: at(t, "2022-10-27T08:00:00+02:00"), Version: 1},
			},
			customers: []mesh.Customer{
				{CustomerID: school.TenantID, Name: "Hogeschool \"De Brug\"", Sector: "education", Country: "NL", Version: 1},
				{CustomerID: office.TenantID, Name: "Kantoor Zuid", Country: "NL", Version: 1},
			},
		},
		corrected: []mesh.Placement{
			during(school, 0, "2022-10-06T14:00:00+02:00", "2022-10-11T10:00:00+02:00"),
			during(office, 0, "2022-10-11T10:00:00+02:00", "2022-10-11T16:00:00+02:00"),
			during(school, 0, "2022-10-11T16:00:00+02:00", "2022-10-25T12:00:00+02:00"),
			during(office, 0, "2022-10-25T12:00:00+02:00", ""),
		},
	}
	messages := windesheim(t)
	spareOnes := madeUp(spare, at(t, "2022-10-07T12:00:00+02:00"), spares)
	half := len(messages) / 2
	s.bursts[0] = requests(slices.Concat(messages[:half], spareOnes,
		// What cannot be read, what came before, and what says otherwise.
		[][]byte{[]byte(`{"device_id":"` + spare + `","timestamp":"yesterday","metrics":{"co2__ppm":1}}`), spareOnes[3], bytes.Replace(spareOnes[4], []byte("404"), []byte("999"), 1)}))
	s.bursts[1] = requests(messages[half:])
	return s
}

// requests sends some messages singly and the others in micro-batches.
func requests(messages [][]byte) (all []request) {
	for chunk := range slices.Chunk(messages[:singles], 1) {
		all = append(all, chunk)
	}
	for chunk := range slices.Chunk(messages[singles:], batch) {
		all = append(all, chunk)
	}
	return all
}

// sent is the set of the messages of requests.
func sent(requests []request) map[string]bool {
	all := map[string]bool{}
	for _, r := range requests {
		for _, message := range r {
			all[string(message)] = true
		}
	}
	return all
}

// windesheim gives the messages of a recording, in its order, which is that of
// time.
func windesheim(t *testing.T) (messages [][]byte) {
	t.Helper()
	data := cmp.Or(os.Getenv("TELEMESH_DATASETS"), filepath.Join(dataset.Root(t), "..", "shared", "data"))
	path := filepath.Join(data, "indoor-air", "windesheim-b4b2022", "925038_raw_properties.csv")
	if _, err := os.Stat(path); err != nil {
		t.Logf("the Windesheim data set is not here, the messages are made up: %v", err)
		return madeUp(device, at(t, "2022-10-06T13:20:00+02:00"), 4000)
	}
	f, err := feed.Open(path, feed.Columns{Device: []string{"id", "source"}, Time: "timestamp"})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for m, err := range f.All() {
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, bytes.Clone(m.Body))
	}
	return messages
}

// madeUp gives messages of a device, one every ten minutes.
func madeUp(device string, from mesh.Instant, n int) (messages [][]byte) {
	for i := range n {
		messages = append(messages, fmt.Appendf(nil, `{"device_id":%q,"timestamp":%q,"metrics":{"co2__ppm":%d,"temp_in__degC":%.1f,"occupied":%t}}`,
			device, from.Time().Add(time.Duration(i)*10*time.Minute).Format(time.RFC3339), 400+i, 18+float64(i%50)/10, i%3 == 0))
	}
	return messages
}

func ptr[T any](v T) *T { return &v }

func at(t *testing.T, s string) mesh.Instant {
	t.Helper()
	i, err := mesh.ParseInstant(s)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// tell posts metadata as events, as their sources do, and waits until the output
// ports show it.
func (m *metadata) tell(t *testing.T, client *http.Client) {
	t.Helper()
	post := func(broker, eventType string, data []byte) {
		t.Helper()
		e := mesh.NewEvent(eventType, "/telemesh/hack/e2e", data, eventType, string(data))
		if err := function.Post(t.Context(), client, brokerURL+broker, e); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.placements) > 0 {
		post("iot/iot", mesh.PlacementsChanged, mesh.Encode(mesh.Placements{Placements: m.placements}))
	}
	if len(m.actions) > 0 {
		post("iot/iot", mesh.ActionsLogged, mesh.Encode(mesh.Actions{Actions: m.actions}))
	}
	if len(m.customers) > 0 {
		post("crm/crm", mesh.CustomersChanged, mesh.Encode(mesh.Customers{Customers: m.customers}))
	}
	shown(t, client, placementsURL, m.placements, func(p mesh.Placement) string { return p.DeviceID + " " + p.ValidFrom.String() })
	shown(t, client, actionsURL, m.actions, func(a mesh.Action) string { return a.ActionID })
	shown(t, client, customersURL, m.customers, func(c mesh.Customer) string { return c.CustomerID })
}

// shown waits until an output port shows rows, whatever else it shows.
func shown[Row any](t *testing.T, client *http.Client, url string, rows []Row, key func(Row) string) {
	t.Helper()
	want := map[string]Row{}
	for _, row := range rows {
		want[key(row)] = row
	}
	port := snapshot.New(client, url, 0, func(rows []Row, _ int64) ([]Row, error) { return rows, nil }, slog.New(slog.DiscardHandler))
	until(t, patience, url, func() string {
		all, err := port.Newer(t.Context())
		if err != nil {
			return err.Error()
		}
		got := map[string]Row{}
		for _, row := range all {
			if _, ok := want[key(row)]; ok {
				got[key(row)] = row
			}
		}
		return gocmp.Diff(want, got)
	})
}

// send posts messages to the ingest endpoint as one request, again and again
// until they are accepted, as every sender has to. It says how often they were not.
func send(t *testing.T, client *http.Client, messages ...[]byte) (refused int) {
	t.Helper()
	refused, err := post(t, client, messages)
	if err != nil {
		t.Fatal(err)
	}
	return refused
}

// sendAll has several senders post requests, each one after the other.
func sendAll(t *testing.T, client *http.Client, senders int, requests []request) (refused int) {
	t.Helper()
	var (
		all   sync.WaitGroup
		next  = make(chan request)
		mu    sync.Mutex
		fatal error
	)
	for range senders {
		all.Go(func() {
			for r := range next { // to the end, for who fills it not to wait
				n, err := post(t, client, r)
				mu.Lock()
				refused += n
				fatal = cmp.Or(fatal, err)
				mu.Unlock()
			}
		})
	}
	for _, r := range requests {
		next <- r
	}
	close(next)
	all.Wait()
	if fatal != nil {
		t.Fatal(fatal)
	}
	return refused
}

func post(t *testing.T, client *http.Client, messages [][]byte) (refused int, err error) {
	body := bytes.Join(messages, []byte{'\n'})
	try := func(ctx context.Context) (lasts bool, err error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, ingestURL, bytes.NewReader(body))
		if err != nil {
			return true, err
		}
		req.Header.Set("Content-Type", "application/x-ndjson")
		if token := os.Getenv("E2E_TOKEN"); token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(req)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			return !function.Retriable(resp.StatusCode), fmt.Errorf("POST %s: %w", ingestURL, function.StatusError(resp))
		}
		return false, nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		lasts, err := try(ctx)
		if err == nil || lasts || ctx.Err() != nil {
			return refused, err
		}
		refused++
		t.Logf("%v, again", err)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// The placements sheet, a Google spreadsheet.
const (
	spreadsheet     = "windesheim"
	placementsSheet = "google-sheets:" + spreadsheet + "/Placements"
)

// putSheet has a spreadsheet say who holds which device.
func putSheet(t *testing.T, google *sheetstest.Server, placements []mesh.Placement) {
	t.Helper()
	var text bytes.Buffer
	if err := sheet.Placements.Write(&text, placements); err != nil {
		t.Fatal(err)
	}
	records, err := csv.NewReader(&text).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var values [][]any
	for _, record := range records {
		var row []any
		for _, cell := range record {
			if number, err := strconv.ParseFloat(cell, 64); err == nil {
				row = append(row, number)
			} else {
				row = append(row, cell)
			}
		}
		values = append(values, row)
	}
	google.Put(spreadsheet, sheetstest.Spreadsheet{Locale: "nl_NL", TimeZone: "Europe/Amsterdam",
		Sheets: []sheetstest.Sheet{{Title: "Placements", Values: values}}})
}
