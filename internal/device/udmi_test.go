package device_test

import "testing"

func FuzzUDMI(f *testing.F) { fuzzFormat(f, "udmi") }
