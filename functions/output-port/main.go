// Command output-port is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/output-port/port"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("output-port", port.Start) }
