// Command analytics-repair is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/analytics-repair/repair"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("analytics-repair", repair.Start) }
