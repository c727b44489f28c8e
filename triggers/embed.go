// Package triggers holds the Triggers of the mesh, one per file and named as
// its subscriber, for programs that run without the repository beside them.
//
// Each says its retries, since a Trigger's delivery replaces its Broker's, and brings
// what it gives up to the Service dead-letter-sink, under a path that is its own name.
// An expression on an attribute that an event may lack begins with EXISTS.
//
// Those on the way from a message to the event output ports keep the order of events
// of one partitionkey on Brokers of class Kafka: who reads telemetry.enriched and
// analytics.joined has them as a gateway sent them. There an event that is tried again
// holds up those behind it, which would wait for the same function. The others need
// no order: tables and logs are the same in any, and what a repair tries for
// hours must hold up nobody. Brokers of other classes do not know the annotation.
package triggers

import "embed"

// FS holds the manifests.
//
//go:embed *.yaml
var FS embed.FS
