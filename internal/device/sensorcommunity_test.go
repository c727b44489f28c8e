package device_test

import "testing"

func FuzzSensorCommunity(f *testing.F) { fuzzFormat(f, "sensor-community") }
