// Command telemetry-judge is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/telemetry-judge/judge"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("telemetry-judge", judge.Start) }
