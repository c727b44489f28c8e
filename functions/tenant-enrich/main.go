// Command tenant-enrich is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/tenant-enrich/enrich"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("tenant-enrich", enrich.Start) }
