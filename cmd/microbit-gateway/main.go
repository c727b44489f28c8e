// Command microbit-gateway, which is installed as telemesh-microbit, is the
// program on a Raspberry Pi that reads BBC micro:bits by Bluetooth.
package main

import (
	"os"

	"github.com/telemesh/telemesh/cmd/microbit-gateway/gateway"
)

func main() { os.Exit(gateway.Main(gateway.SystemClock)) }
