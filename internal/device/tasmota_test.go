package device_test

import "testing"

func FuzzTasmota(f *testing.F) { fuzzFormat(f, "tasmota") }
