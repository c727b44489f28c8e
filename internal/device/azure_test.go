package device_test

import "testing"

func FuzzAzureIoTHub(f *testing.F)     { fuzzFormat(f, "azure-iot-hub") }
func FuzzAzureIoTCentral(f *testing.F) { fuzzFormat(f, "azure-iot-central") }
