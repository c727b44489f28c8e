// Command telemetry-ingest is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/telemetry-ingest/ingest"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("telemetry-ingest", ingest.Start) }
