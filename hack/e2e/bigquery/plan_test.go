package bigquery_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/option"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/cloud"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/products"
)

// wire is between the client and the emulator: it counts requests that write,
// and breaks one.
type wire struct {
	writes atomic.Int64
	fail   atomic.Int64 // the write that fails; 0: none
}

var errWire = errors.New("the wire is cut")

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	// A query that reads is a POST as well; these tests list rows instead.
	if r.Method != http.MethodGet {
		if n := w.writes.Add(1); n == w.fail.Load() {
			return nil, errWire
		}
	}
	return http.DefaultTransport.RoundTrip(r)
}

// deployment is a project that plans are made of.
type deployment struct {
	*emulator.Emulator
	wire   *wire
	client *bigquery.Client
	cloud.Config
}

func newDeployment(t *testing.T, e *emulator.Emulator) *deployment {
	t.Helper()
	d := &deployment{Emulator: e, wire: &wire{}}
	client, err := bigquery.NewClient(t.Context(), e.Project, option.WithEndpoint(e.URL), option.WithHTTPClient(&http.Client{Transport: d.wire}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	d.client = client
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	d.Config = cloud.Config{Project: e.Project, Location: "EU", Products: list, BigQuery: client,
		Access: &cloud.Access{Platform: []string{"ops@example.org"}, Tenants: map[string][]string{"linden-school": {"anna@example.org", "domain:linden.example"}}}}
	return d
}

func (d *deployment) plan(t *testing.T) *cloud.Plan {
	t.Helper()
	p, err := cloud.New(d.Config).Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (d *deployment) apply(t *testing.T) *cloud.Plan {
	t.Helper()
	p := d.plan(t)
	if err := cloud.New(d.Config).Apply(t.Context(), p, func(cloud.Step) {}); err != nil {
		t.Fatal(err)
	}
	return p
}

func text(t *testing.T, p *cloud.Plan) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The first plan lists everything, and once it is applied nothing is left to do.
func TestApplyTwice(t *testing.T) {
	d := newDeployment(t, emulator.Start(t))
	first := text(t, d.plan(t))
	for _, want := range []string{
		"+ dataset telemesh_internal\n", "+ table iot_telemetry_internal.readings_appended\n", "+ view iot_telemetry.readings\n",
		"+ access iot_telemetry_internal: view iot_telemetry.readings\n", "+ access iot_telemetry: READER userByEmail anna@example.org\n",
		"+ member anna@example.org of linden-school\n", "+ contract iot_telemetry.readings\n",
	} {
		if !strings.Contains(first, want) {
			t.Errorf("the first plan has no line %q:\n%s", want, first)
		}
	}
	d.apply(t)
	t.Log(d.wire.writes.Load(), "writes")
	if again := d.plan(t); !again.Empty() || len(again.Left)+len(again.Refused)+len(again.Notes) > 1 {
		t.Fatalf("after apply the plan is:\n%s", text(t, again))
	}
	before := d.wire.writes.Load()
	d.apply(t)
	if writes := d.wire.writes.Load() - before; writes != 0 {
		t.Errorf("the second apply made %d writes", writes)
	}
}

var _ context.Context
