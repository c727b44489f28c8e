// Command quality-check is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/quality-check/check"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("quality-check", check.Start) }
