package label_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/classify/label"
	"github.com/telemesh/telemesh/internal/classify"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

func handler(t testing.TB, post func(context.Context, event.Event) error, names ...string) function.Handler {
	t.Helper()
	rules, err := classify.Load(names, "")
	if err != nil {
		t.Fatal(err)
	}
	return label.New(rules, nil, post)
}

func payment(id, data string) event.Event {
	e := mesh.NewEvent(mesh.TransactionsReceived, "//feed", []byte(data), id)
	e.SetID(id)
	return e
}

func paid(id string, outputs ...string) event.Event {
	return payment(id, `{"op":"utx","x":{"hash":"`+id+`","out":[{"value":`+strings.Join(outputs, `},{"value":`)+`}]}}`)
}

// labels are those of events, with the hashes of the payments that have them.
func labels(t testing.TB, events []event.Event) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, e := range events {
		data, err := mesh.Decode[mesh.Classification](e.Data())
		if err != nil || e.Type() != mesh.TransactionsClassified || e.Validate() != nil {
			t.Fatal(e, err)
		}
		for _, one := range data.Classified {
			record := string(one.Record)
			_, hash, _ := strings.Cut(record, `"hash":`)
			if one.Label != e.Extensions()[mesh.ExtLabel] || all[one.Label] != "" && !strings.Contains(fmt.Sprint(data.Classified), one.Label) {
				t.Errorf("%s in an event of %s", one.Label, e.Extensions()[mesh.ExtLabel])
			}
			all[one.Label] = strings.TrimSpace(all[one.Label] + " " + strings.Trim(strings.FieldsFunc(hash, func(r rune) bool { return r == ',' || r == '}' })[0], ` "`))
		}
	}
	return all
}

func TestSizes(t *testing.T) {
	h := handler(t, nil, "transaction-size")
	for _, test := range []struct{ want, outputs string }{
		{"S", "0"}, {"S", "9999999"}, {"M", "10000000"}, {"M", "9999999 1"}, {"M", "99999999"}, {"L", "100000000"}, {"L", "400000000 500000000 99999999"},
		{"XL", "1000000000"}, {"XL", "2100000000000000"}, {"S", strings.TrimSuffix(strings.Repeat("600 ", 10000), " ")},
	} {
		out, err := h(t.Context(), paid("a", strings.Fields(test.outputs)...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{test.want: "a"}, labels(t, out)); diff != "" {
			t.Errorf("%.40s (-want +got):\n%s", test.outputs, diff)
		}
	}
}

func TestSizesOfRealTransactions(t *testing.T) {
	folder := dataset.Path(t, "transactions")
	h := handler(t, nil, "transaction-size")
	for name, want := range map[string]string{
		"utx-2012-docs-f6c51463": "XL", "utx-2013-72851331": "S", "utx-2015-b29a3346": "L",
		"utx-2015-docs-0857b9de": "M", "utx-2019-0faf1806-opreturn": "S", "utx-2022-7731b35a-taproot": "S",
	} {
		data, err := os.ReadFile(filepath.Join(folder, name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		out, err := h(t.Context(), payment(name, string(data)))
		if err != nil || len(out) != 1 || out[0].Extensions()[mesh.ExtLabel] != want {
			t.Errorf("%s: %v, %v; want label %s", name, out, err, want)
		}
	}
}

// A carrier makes one event of each label, the same ones when it comes again.
func TestCarrier(t *testing.T) {
	carrier, err := mesh.Carry(mesh.TransactionsReceived, "/source", []event.Event{paid("a", "5"), paid("b", "3000000000"), paid("c", "6"), paid("d", "20000000")})
	if err != nil {
		t.Fatal(err)
	}
	h := handler(t, nil, "transaction-size")
	out, err := h(t.Context(), carrier)
	if err != nil || len(out) != 3 {
		t.Fatalf("%d events, %v; want 3", len(out), err)
	}
	if diff := cmp.Diff(map[string]string{"S": "a c", "XL": "b", "M": "d"}, labels(t, out)); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	again, err := h(t.Context(), carrier)
	if diff := cmp.Diff(fmt.Sprint(out), fmt.Sprint(again)); diff != "" || err != nil {
		t.Errorf("again, %v (-want +got):\n%s", err, diff)
	}
}

// Events that a carrier brings of several tenants do not share one.
func TestTenantsOfCarrier(t *testing.T) {
	of := func(id, tenant string) event.Event {
		e := paid(id, "5")
		if tenant != "" {
			e.SetExtension(mesh.ExtTenant, tenant)
		}
		return e
	}
	carrier, err := mesh.Carry(mesh.TransactionsReceived, "/source", []event.Event{of("a", "linden-school"), of("b", "oak-school"), of("c", ""), of("d", "linden-school")})
	if err != nil {
		t.Fatal(err)
	}
	out, err := handler(t, nil, "transaction-size")(t.Context(), carrier)
	if err != nil {
		t.Fatal(err)
	}
	got := map[any]string{}
	for _, e := range out {
		got[e.Extensions()[mesh.ExtTenant]] = labels(t, []event.Event{e})["S"]
	}
	if diff := cmp.Diff(map[any]string{"linden-school": "a d", "oak-school": "b", nil: "c"}, got); diff != "" {
		t.Errorf("payments by tenant (-want +got):\n%s", diff)
	}
}

// What has no value is a permanent error that says what it lacks; what stands beside it is
// told before.
func TestNoValue(t *testing.T) {
	var posted []event.Event
	var broken error
	h := handler(t, func(_ context.Context, e event.Event) error {
		posted = append(posted, e)
		return broken
	}, "transaction-size")
	for _, x := range []string{`{}`, `{"out":null}`, `{"out":[{}]}`, `{"out":[{"value":null}]}`, `{"out":[{"value":"5"}]}`, `{"out":7}`} {
		out, err := h(t.Context(), payment("a", `{"op":"utx","x":`+x+`}`))
		if !mesh.IsPermanent(err) || len(out) > 0 || len(posted) > 0 {
			t.Errorf("%s: %v, %v, posted %v; want a permanent error", x, out, err, posted)
		} else if !strings.Contains(err.Error(), "rule transaction-size: value (config/classify/transaction-size.yaml:") {
			t.Errorf("%s: %v, want an error that names rule and member", x, err)
		}
	}
	for _, data := range []string{``, `{`, `null`, `[]`, `{"x":1,"x":2}`} {
		if _, err := h(t.Context(), payment("a", data)); !mesh.IsPermanent(err) {
			t.Errorf("data %q: %v, want a permanent error", data, err)
		}
	}
	if _, err := h(t.Context(), mesh.NewEvent("other", "/x", []byte(`{}`), "1")); !mesh.IsPermanent(err) {
		t.Errorf("another type: %v, want a permanent error", err)
	}
	carrier, err := mesh.Carry(mesh.TransactionsReceived, "/source", []event.Event{paid("a", "5"), payment("b", `{"x":{"out":null}}`), payment("c", `{`), paid("d", "6")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = h(t.Context(), carrier)
	if !mesh.IsPermanent(err) || !strings.Contains(err.Error(), "2 of 4 records have no level: event 1 of the carrier: value (") || !strings.Contains(err.Error(), "event 2 of the carrier: the data of") {
		t.Errorf("a carrier: %v, want a permanent error of two records", err)
	}
	if diff := cmp.Diff(map[string]string{"S": "a d"}, labels(t, posted)); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	broken = errors.New("no room")
	if _, err = h(t.Context(), carrier); mesh.IsPermanent(err) || !errors.Is(err, broken) {
		t.Errorf("a Broker without room: %v, want a passing error", err)
	}
}

// A warehouse that is away, or does not know the table yet, passes.
func TestHistoryIsAway(t *testing.T) {
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusBadRequest, http.StatusUnauthorized} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", status) }))
		defer server.Close()
		rules, err := classify.Load([]string{"co2-level"}, "")
		if err != nil {
			t.Fatal(err)
		}
		h := label.New(rules, remote.Open(server.URL, server.Client(), ""), nil)
		in := mesh.NewEvent(mesh.AnalyticsJoined, "/x", mesh.EncodeJoined([]mesh.JoinedReading{{Reading: mesh.Reading{DeviceID: "d", Metric: "co2", Value: 700, ObservedAt: 1, TenantID: "t"}}}), "1")
		if out, err := h(t.Context(), in); err == nil || mesh.IsPermanent(err) || len(out) > 0 {
			t.Errorf("%d: %v, %v; want a passing error", status, out, err)
		}
	}
}

// Rules of one's own come as text, and need no warehouse.
func TestStart(t *testing.T) {
	t.Setenv("WAREHOUSE_URL", "")
	t.Setenv("CLASSIFY_RULES", `
name: door
reads: org.example.door.opened.v1
emits: org.example.door.classified.v1
value: data.times
levels: [{label: quiet, severity: INFO}, {label: busy, severity: WARN, from: 10}]
`)
	fn, err := label.Start(function.Ports{Client: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	in := mesh.NewEvent("org.example.door.opened.v1", "/x", []byte(`{"times": 12}`), "1")
	in.SetExtension(mesh.ExtTenant, "linden-school")
	server := httptest.NewServer(fn.Serve(nil, "", nil))
	defer server.Close()
	req, err := cehttp.NewHTTPRequestFromEvent(t.Context(), server.URL, in)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	reply, err := cehttp.NewEventFromHTTPResponse(resp)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"label": "busy", "severitytext": "WARN", "severitynumber": "13", "tenantid": "linden-school", "causesource": "/x", "causeid": in.ID()}
	if diff := cmp.Diff(want, reply.Extensions()); diff != "" || reply.Type() != "org.example.door.classified.v1" {
		t.Errorf("%s (-want +got):\n%s", reply.Type(), diff)
	}

	t.Setenv("CLASSIFY_RULES", "")
	if _, err := label.Start(function.Ports{}); err == nil || !strings.Contains(err.Error(), "set CLASSIFY") {
		t.Errorf("Start without a rule: %v", err)
	}
	t.Setenv("CLASSIFY", "transaction-size,co2-level")
	if _, err := label.Start(function.Ports{}); err == nil || !strings.Contains(err.Error(), "rule co2-level reads iot_analytics.readings: WAREHOUSE_URL is empty") {
		t.Errorf("Start without a warehouse: %v", err)
	}
}
