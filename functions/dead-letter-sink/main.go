// Command dead-letter-sink is the Knative function of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/dead-letter-sink/letters"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("dead-letter-sink", letters.Start) }
