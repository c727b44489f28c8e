// Command sheet-source is the Service of that name.
package main

import (
	"github.com/telemesh/telemesh/functions/sheet-source/source"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("sheet-source", source.Start) }
