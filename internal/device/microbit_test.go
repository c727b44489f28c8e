package device_test

import "testing"

func FuzzMicroBit(f *testing.F) { fuzzFormat(f, "microbit") }
