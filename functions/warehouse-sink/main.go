// Command warehouse-sink is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("warehouse-sink", sink.Start) }
