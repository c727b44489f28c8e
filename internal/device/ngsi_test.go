package device_test

import "testing"

func FuzzNGSILD(f *testing.F) { fuzzFormat(f, "ngsi-ld") }
func FuzzNGSIV2(f *testing.F) { fuzzFormat(f, "ngsi-v2") }
