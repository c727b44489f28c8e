// Command service-levels is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/service-levels/measure"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("service-levels", measure.Start) }
