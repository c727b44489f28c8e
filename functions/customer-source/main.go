// Command customer-source is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/customer-source/source"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("customer-source", source.Start) }
