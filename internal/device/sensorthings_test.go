package device_test

import "testing"

func FuzzSensorThings(f *testing.F) { fuzzFormat(f, "sensorthings") }
