// Command assignment-port is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/assignment-port/port"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("assignment-port", port.Start) }
