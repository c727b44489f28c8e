package device_test

import "testing"

func FuzzZigbee2MQTT(f *testing.F) { fuzzFormat(f, "zigbee2mqtt") }
