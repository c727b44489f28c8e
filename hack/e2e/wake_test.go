package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/manifest"
)

// wakes shows that the first message after a quiet time starts all that WAKE names,
// and not only what it comes to: it cannot be read, so that it comes to flatten, to
// the table of rejections and to the log, and nothing else would start the others.
// All functions are at zero.
func (d *deployed) wakes(t *testing.T) {
	t.Helper()
	ingest := d.set.Service(manifest.Ref{Namespace: "iot", Name: "telemetry-ingest"})
	downstream := d.set.Downstream(&ingest.Workload)
	if len(downstream) == 0 {
		t.Fatal("the events of telemetry-ingest lead to no Service")
	}
	pods := watchPods(t)
	start := time.Now()
	send(t, d.client, []byte(`{"device_id":"wake","timestamp":"yesterday","metrics":{"co2__ppm":1}}`))
	until(t, patience, "a pod of each Service that WAKE names, begun since the message", func() string {
		var missing []string
		for _, ref := range downstream {
			if !pods.begunSince(ref, start) {
				missing = append(missing, ref.String())
			}
		}
		return strings.Join(missing, ", ")
	})
	t.Logf("one message that goes no further than flatten woke %d Services within %v", len(downstream), since(start))
}

// begunSince says whether a pod of a function was made after an instant. Clusters
// give such times in whole seconds.
func (p *pods) begunSince(ref manifest.Ref, at time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.byUID {
		if one.of() == ref && !one.Metadata.CreationTimestamp.Before(at.Truncate(time.Second)) {
			return true
		}
	}
	return false
}
