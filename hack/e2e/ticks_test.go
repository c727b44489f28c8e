package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// stopTicks keeps the clock from waking functions in the middle of a test, which
// would find others at work than it knows of, and none of them at zero. It gives
// what starts them again.
func (d *deployed) stopTicks() (start func() error, err error) {
	start = func() error { return nil }
	for _, p := range d.set.PingSources {
		if p.OptIn() {
			continue // the tests bring these themselves
		}
		schedule := func(schedule string) error {
			_, err := runKubectl("", "patch", "pingsource", p.Name, "-n", p.Namespace, "--type=merge", "-p",
				fmt.Sprintf(`{"spec":{"schedule":%q}}`, schedule))
			return err
		}
		const never = "0 0 29 2 *" // on a leap day
		if err := schedule(never); err != nil {
			return start, err
		}
		others := start
		start = func() error { return errors.Join(others(), schedule(p.Spec.Schedule)) }
	}
	return start, nil
}

// tick is what a PingSource brings to its Broker when its time has come.
func (d *deployed) tick(t *testing.T, namespace, name, data string) {
	t.Helper()
	source := fmt.Sprintf("/apis/v1/namespaces/%s/pingsources/%s", namespace, name)
	e := mesh.NewEvent("dev.knative.sources.ping", source, []byte(data), fmt.Sprint(time.Now().UnixNano()))
	e.SetTime(time.Now())
	if err := function.Post(t.Context(), d.client, brokerURL+namespace+"/"+namespace, e); err != nil {
		t.Fatal(err)
	}
}

// What the clock wakes: doubtful readings are flagged in both products, and rules and
// service levels have results for the ports that the readings came to.
func TestTicks(t *testing.T) {
	d := onCluster(t)
	var m metadata
	const device, tenant = "ticks", "ticks-school"
	from := time.Date(2024, 4, 1, 8, 0, 0, 0, time.UTC)
	m.placements = append(m.placements, mesh.Placement{DeviceID: device, TenantID: tenant, ValidFrom: mesh.At(from), Version: 1})
	m.tell(t, d.client)
	var messages strings.Builder
	const spike, count = 2600, 40
	for n := range count {
		value := 600 + n*7%20
		if n == count/2 {
			value = spike
		}
		fmt.Fprintf(&messages, `{"device_id":%q,"timestamp":%q,"metrics":{"co2__ppm":%d}}`+"\n",
			device, from.Add(time.Duration(n)*10*time.Minute).Format(time.RFC3339), value)
	}
	send(t, d.client, []byte(messages.String()))
	of := func(product string) string {
		return "SELECT COUNT(*) FROM " + product + ".readings WHERE device_id = '" + device + "'"
	}
	for _, product := range []string{"iot_telemetry", "iot_analytics"} {
		until(t, patience, "readings of "+product, func() string {
			if got := query(t, d.store, of(product)+" AND tenant_id = '"+tenant+"'")[0][0]; got != int64(count) {
				return fmt.Sprint(got, " of ", count)
			}
			return ""
		})
	}

	d.tick(t, "iot", "telemetry-judge", `{"recorded": "1h"}`)
	for _, product := range []string{"iot_telemetry", "iot_analytics"} {
		took := until(t, patience, "the flag in "+product, func() string {
			rows := query(t, d.store, "SELECT value, quality FROM "+product+".readings WHERE device_id = '"+device+"' AND quality IS NOT NULL")
			if len(rows) != 1 || rows[0][0] != float64(spike) || rows[0][1] != "suspect:spike" {
				return fmt.Sprint(rows)
			}
			return ""
		})
		t.Logf("flagged in %s %v later", product, took.Round(time.Millisecond))
	}

	since := "'" + time.Now().UTC().Format("2006-01-02 15:04:05.000000+00") + "'"
	d.tick(t, "platform", "quality-check", `{"days": 2}`)
	d.tick(t, "platform", "service-levels", `{}`)
	for _, what := range []struct{ name, sql string }{
		{"results of rules", "SELECT COUNT(*) FROM mesh_metrics.quality_results WHERE port = 'iot_telemetry.readings' AND error IS NULL AND checked_at >= TIMESTAMP " + since},
		{"service levels", "SELECT COUNT(*) FROM mesh_metrics.service_levels WHERE port = 'iot_telemetry.readings' AND error IS NULL AND measured_at >= TIMESTAMP " + since},
	} {
		took := until(t, patience, what.name, func() string {
			if query(t, d.store, what.sql)[0][0] == int64(0) {
				return "none"
			}
			return ""
		})
		t.Logf("%s %v later", what.name, took.Round(time.Millisecond))
	}
	for _, row := range query(t, d.store, "SELECT port, rule, error FROM mesh_metrics.quality_results WHERE error IS NOT NULL AND checked_at >= TIMESTAMP "+since) {
		t.Errorf("%v: the rule %v could not be counted: %v", row...)
	}
	for _, row := range query(t, d.store, "SELECT namespace, trigger, type, cause FROM event_log_internal.dead_letters WHERE type = 'dev.knative.sources.ping'") {
		t.Errorf("dead letter at %v/%v of type %v: %v", row...)
	}
}
