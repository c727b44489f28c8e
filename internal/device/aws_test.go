package device_test

import "testing"

func FuzzAWSShadow(f *testing.F) { fuzzFormat(f, "aws-iot-shadow") }
