package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/sheet/sheetstest"
)

// sheetSource is the Service, the PingSource and the Trigger of
// config/sources/sheet-source.yaml.
var sheetSource = manifest.Ref{Namespace: "iot", Name: "sheet-source"}

// correct puts sheet-source on the cluster, which reads the corrected placements
// at a tick of its PingSource, and waits for what the embedded runtime made of
// them.
func (d *deployed) correct(t *testing.T, s *scenario, google *sheetstest.Server, want *stage) {
	t.Helper()
	putSheet(t, google, s.corrected)
	before := len(google.Requests())
	key, err := os.ReadFile(google.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(os.Getenv("E2E_SHEET_SOURCE"))
	if err != nil {
		t.Fatalf("hack/e2e.sh sets E2E_SHEET_SOURCE, config/sources/sheet-source.yaml with its image: %v", err)
	}
	start := time.Now()
	create(t, kubectl(t, fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: sheets, namespace: iot}
data: {placements: %q, endpoint: %q, credentials: /etc/telemesh/google/key.json}
---
apiVersion: v1
kind: Secret
metadata: {name: google-sheets, namespace: iot}
stringData: {key.json: %q}
---
%s`, placementsSheet, google.URL, key, source), "label", "--local", "-o", "json", "-f", "-", mine+"=e2e"))
	kubectl(t, "", "wait", "--for=condition=Ready", "--timeout=60s", "-n", sheetSource.Namespace,
		"ksvc/"+sheetSource.Name, "pingsource/"+sheetSource.Name, "trigger/"+sheetSource.Name)
	readOnly := kubectl(t, "", "get", "pods", "-n", sheetSource.Namespace, "-l", "serving.knative.dev/service="+sheetSource.Name,
		"-o", `jsonpath={.items[*].spec.containers[?(@.name=="user-container")].securityContext.readOnlyRootFilesystem}`)
	if readOnly != "true" {
		t.Errorf("the root file system of sheet-source is read-only: %q, want of one container true", readOnly)
	}
	t.Logf("sheet-source ready after %v, its file system read-only", since(start))

	t.Logf("the sheet was read %v later", until(t, time.Minute+patience, "a tick", func() string {
		if len(google.Requests()) == before {
			return "the sheet was not read"
		}
		return ""
	}).Round(time.Second))
	untimely(want.log)
	d.logs(t, want.log)
	d.equals(t, want.tables)
}
