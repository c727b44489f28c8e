// Command telemetry-flatten is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("telemetry-flatten", flatten.Start) }
