// Package mesh is the vocabulary of Telemesh: the event types, the data they
// carry, the ids that make a redelivery the same event, and the two kinds of
// error a function may answer with.
//
// It knows no network and no storage; every other package may import it, it
// imports none of them.
package mesh

// Event types, as CloudEvents `type`. The data of each is JSON; its shape is
// given by the type named beside it.
const (
	TelemetryReceived   = "dev.telemesh.telemetry.received.v1"   // Messages
	TelemetryFlattened  = "dev.telemesh.telemetry.flattened.v1"  // Readings, without tenant
	TelemetryRejected   = "dev.telemesh.telemetry.rejected.v1"   // Rejections
	TelemetryEnriched   = "dev.telemesh.telemetry.enriched.v1"   // Readings of one tenant
	TelemetryUnassigned = "dev.telemesh.telemetry.unassigned.v1" // Readings no tenant held the device for
	PlacementsChanged   = "dev.telemesh.placements.changed.v1"   // Placements
	ActionsLogged       = "dev.telemesh.actions.logged.v1"       // Actions
	CustomersChanged    = "dev.telemesh.customers.changed.v1"    // Customers
	AnalyticsJoined     = "dev.telemesh.analytics.joined.v1"     // JoinedReadings of one tenant
)

// Extension attributes that Telemesh sets on events.
const (
	ExtTenant       = "tenantid"     // the tenant whose readings the event carries
	ExtPartitionKey = "partitionkey" // the device, where an event has one (CloudEvents partitioning extension)
	ExtTraceParent  = "traceparent"  // W3C trace context (CloudEvents distributed tracing extension)
)
