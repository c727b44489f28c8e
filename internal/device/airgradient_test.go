package device_test

import "testing"

func FuzzAirGradient(f *testing.F) { fuzzFormat(f, "airgradient") }
