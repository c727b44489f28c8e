package device_test

import "testing"

func FuzzPubSubPush(f *testing.F) { fuzzFormat(f, "pubsub-push") }
