// Command analytics-join is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/analytics-join/join"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("analytics-join", join.Start) }
