// Command mqtt-source is the source of that name: it runs all the time.
package main

import (
	"github.com/telemesh/telemesh/functions/mqtt-source/source"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("mqtt-source", source.Start) }
