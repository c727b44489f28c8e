// Command alert is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/alert/notify"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("alert", notify.Start) }
