package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/preflight"
)

func TestWritePreflight(t *testing.T) {
	findings := []preflight.Finding{
		{Level: preflight.OK, Check: "kubernetes", Says: "Kubernetes v1.36.3"},
		{Level: preflight.Missing, Check: "applied", Says: "not there", Do: "ko apply -f brokers/", Objects: []string{
			"Broker iot/iot", "Trigger iot/a", "Trigger iot/b", "Trigger iot/c", "Trigger iot/d"}},
		{Level: preflight.Unsafe, Check: "encryption", Says: "events pass in clear text"},
		{Level: preflight.Unsafe, Check: "network", Says: "no NetworkPolicy", Objects: []string{"namespace crm", "namespace iot"}},
	}
	var text strings.Builder
	if err := writePreflight(&text, "text", findings); err != nil {
		t.Fatal(err)
	}
	const want = `ok       Kubernetes v1.36.3
missing  Broker iot/iot, Trigger iot/a, iot/b and 2 more: not there
         → ko apply -f brokers/
unsafe   events pass in clear text
unsafe   namespace crm, iot: no NetworkPolicy
1 missing, 2 unsafe, 1 ok
`
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("text differs (-want +got):\n%s", diff)
	}
	var document strings.Builder
	if err := writePreflight(&document, "json", findings); err != nil {
		t.Fatal(err)
	}
	var back []preflight.Finding
	if err := json.Unmarshal([]byte(document.String()), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(findings, back); diff != "" {
		t.Errorf("JSON differs (-want +got):\n%s", diff)
	}
}
