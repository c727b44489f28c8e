// Command tenancy-repair is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/tenancy-repair/repair"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("tenancy-repair", repair.Start) }
