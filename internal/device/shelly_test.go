package device_test

import "testing"

func FuzzShelly(f *testing.F) { fuzzFormat(f, "shelly") }
