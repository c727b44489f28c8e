package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/feed"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/snapshot"
)

// Addresses of the mesh, the same on a cluster and in the embedded runtime.
const (
	ingestURL     = "http://telemetry-ingest.iot.svc.cluster.local/"
	brokerURL     = "http://broker-ingress.knative-eventing.svc.cluster.local/"
	placementsURL = "http://iot-metadata-port.iot.svc.cluster.local/placements"
	actionsURL    = "http://iot-actions-port.iot.svc.cluster.local/actions"
	customersURL  = "http://customers-port.crm.svc.cluster.local/customers"
)

// patience is what one step may take: a chain of cold starts, with the
// retries that may be between them.
const patience = time.Minute

// scenario is one device that three tenants' days pass by: nobody's at first,
// then a school's, then an office's, with an action in each of their rooms. A
// spare one is the school's for an afternoon. Then it turns out that the office
// had the device for six hours in between, and that the spare one was nobody's.
type scenario struct {
	messages   [][]byte // one micro-batch
	placements []mesh.Placement
	corrected  []mesh.Placement // without version
	actions    []mesh.Action
	customers  []mesh.Customer
}

const (
	batch  = 500 // BATCH_MAX_MESSAGES of config/telemetry-ingest.yaml
	spares = 20  // of them are of the spare device
	device = "925038/CO2-meter-SCD4x"
	spare  = "spare"
)

// newScenario takes the first messages of a real room, four days from
// 2022-10-06 13:23 on, or of one that is made up where the data set is not
// there.
func newScenario(t *testing.T) scenario {
	school := mesh.Placement{DeviceID: device, TenantID: "school", Building: "T", Floor: "5", Room: "T5.38", Persons: ptr[int64](28), OutsideCO2: ptr(415.5)}
	office := mesh.Placement{DeviceID: device, TenantID: "office", Building: "Kantoor", Room: "12"}
	during := func(p mesh.Placement, version int64, from, to string) mesh.Placement {
		p.Version, p.ValidFrom = version, at(t, from)
		if to != "" {
			p.ValidTo = ptr(at(t, to))
		}
		return p
	}
	s := scenario{
		placements: []mesh.Placement{
			during(school, 1, "2022-10-06T14:00:00+02:00", "2022-10-08T12:00:00+02:00"),
			during(office, 2, "2022-10-08T12:00:00+02:00", ""),
			during(mesh.Placement{DeviceID: spare, TenantID: "school", Building: "T", Room: "T5.40"}, 3, "2022-10-07T08:00:00+02:00", ""),
		},
		corrected: []mesh.Placement{
			during(school, 0, "2022-10-06T14:00:00+02:00", "2022-10-07T10:00:00+02:00"),
			during(office, 0, "2022-10-07T10:00:00+02:00", "2022-10-07T16:00:00+02:00"),
			during(school, 0, "2022-10-07T16:00:00+02:00", "2022-10-08T12:00:00+02:00"),
			during(office, 0, "2022-10-08T12:00:00+02:00", ""),
		},
		actions: []mesh.Action{
			{ActionID: "a1", TenantID: "school", Building: "T", Room: "T5.38", Action: "open window", TakenAt: at(t, "2022-10-07T09:00:00+02:00"), Version: 1},
			{ActionID: "a2", TenantID: "office", DeviceID: device, Action: "ventilation on", TakenAt: at(t, "2022-10-09T08:00:00+02:00"), Version: 1},
		},
		customers: []mesh.Customer{
			{CustomerID: "school", Name: "Hogeschool \"De Brug\"", Sector: "education", Country: "NL", Version: 1},
			{CustomerID: "office", Name: "Kantoor Zuid", Country: "NL", Version: 1},
		},
	}
	s.messages = madeUp(spare, at(t, "2022-10-07T12:00:00+02:00"), spares)
	data := cmp.Or(os.Getenv("TELEMESH_DATASETS"), filepath.Join(dataset.Root(t), "..", "shared", "data"))
	path := filepath.Join(data, "indoor-air", "windesheim-b4b2022", "925038_raw_properties.csv")
	if _, err := os.Stat(path); err != nil {
		t.Logf("the Windesheim data set is not here, the messages are made up: %v", err)
		s.messages = append(s.messages, madeUp(device, at(t, "2022-10-06T13:20:00+02:00"), batch-spares)...)
		return s
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
		if s.messages = append(s.messages, bytes.Clone(m.Body)); len(s.messages) == batch {
			break
		}
	}
	return s
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

// tell posts the metadata as events and waits until the output ports show it.
func (s *scenario) tell(t *testing.T, client *http.Client) {
	t.Helper()
	post := func(broker, eventType string, data []byte) {
		t.Helper()
		e := mesh.NewEvent(eventType, "/telemesh/hack/e2e", data, eventType, string(data))
		if err := function.Post(t.Context(), client, brokerURL+broker, e); err != nil {
			t.Fatal(err)
		}
	}
	post("iot/iot", mesh.PlacementsChanged, mesh.Encode(mesh.Placements{Placements: s.placements}))
	post("iot/iot", mesh.ActionsLogged, mesh.Encode(mesh.Actions{Actions: s.actions}))
	post("crm/crm", mesh.CustomersChanged, mesh.Encode(mesh.Customers{Customers: s.customers}))
	shown(t, client, placementsURL, s.placements, func(p mesh.Placement) string { return p.DeviceID + p.ValidFrom.String() })
	shown(t, client, actionsURL, s.actions, func(a mesh.Action) string { return a.ActionID })
	shown(t, client, customersURL, s.customers, func(c mesh.Customer) string { return c.CustomerID })
}

// shown waits until an output port shows the rows and no others.
func shown[Row any](t *testing.T, client *http.Client, url string, rows []Row, key func(Row) string) {
	t.Helper()
	byKey := func(a, b Row) int { return cmp.Compare(key(a), key(b)) }
	want := slices.SortedFunc(slices.Values(rows), byKey)
	port := snapshot.New(client, url, 0, func(rows []Row, _ int64) ([]Row, error) { return rows, nil }, slog.New(slog.DiscardHandler))
	until(t, patience, url, func() string {
		got, err := port.Newer(t.Context())
		if err != nil {
			return err.Error()
		}
		slices.SortFunc(got, byKey)
		return gocmp.Diff(want, got)
	})
}

// send posts the messages to the ingest endpoint in one request, again and
// again until they are accepted, as every sender has to.
func (s *scenario) send(t *testing.T, client *http.Client) {
	t.Helper()
	body := bytes.Join(s.messages, []byte{'\n'})
	until(t, patience, "POST "+ingestURL, func() string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, ingestURL, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-ndjson")
		if token := os.Getenv("E2E_TOKEN"); token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusAccepted:
			return ""
		case !function.Retriable(resp.StatusCode):
			t.Fatalf("POST %s: %v, want 202", ingestURL, function.StatusError(resp))
		}
		err = function.StatusError(resp)
		t.Logf("POST %s: %v, again", ingestURL, err)
		return err.Error()
	})
}

// subscriber collects what analytics.joined events bring.
type subscriber struct {
	mu       sync.Mutex
	readings map[string]mesh.JoinedReading // by id; a redelivery brings the same
	faults   []string
}

func newSubscriber() *subscriber {
	return &subscriber{readings: map[string]mesh.JoinedReading{}}
}

func (s *subscriber) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	function.Events(s.take, slog.New(slog.DiscardHandler), "", nil).ServeHTTP(w, r)
}

func (s *subscriber) take(_ context.Context, e event.Event) ([]event.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	readings, err := mesh.DecodeJoined(e.Data())
	if err != nil {
		s.faults = append(s.faults, err.Error())
		return nil, mesh.Permanent(err)
	}
	for _, r := range readings {
		if tenant := e.Extensions()[mesh.ExtTenant]; tenant != r.TenantID {
			s.faults = append(s.faults, fmt.Sprintf("event of tenant %v holds reading %s of %s", tenant, r.ReadingID, r.TenantID))
		}
		r.ReceivedAt = 0 // the clock of the function
		s.readings[r.ReadingID] = r
	}
	return nil, nil
}

func (s *subscriber) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.readings)
}

// reset gives what was collected and begins anew.
func (s *subscriber) reset() map[string]mesh.JoinedReading {
	s.mu.Lock()
	defer s.mu.Unlock()
	readings := s.readings
	s.readings = map[string]mesh.JoinedReading{}
	return readings
}
