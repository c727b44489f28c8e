package device_test

import "testing"

func FuzzLineProtocol(f *testing.F) { fuzzFormat(f, "line-protocol") }
