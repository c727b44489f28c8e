// Command display is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/display/show"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("display", show.Start) }
