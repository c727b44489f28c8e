// Command classify is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/classify/label"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("classify", label.Start) }
