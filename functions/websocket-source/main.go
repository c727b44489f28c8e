// Command websocket-source is the source of that name: it runs all the time.
package main

import (
	"github.com/telemesh/telemesh/functions/websocket-source/source"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("websocket-source", source.Start) }
