// Command portal is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/portal"
)

func main() { function.Main("portal", portal.Start) }
