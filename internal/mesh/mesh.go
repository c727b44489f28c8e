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
	TelemetryOutdated   = "dev.telemesh.telemetry.outdated.v1"   // Readings stored after placements that they do not know of
	TelemetryQuestioned = "dev.telemesh.telemetry.questioned.v1" // Question: which stored readings are to be judged
	TenancyRepaired     = "dev.telemesh.tenancy.repaired.v1"     // Repaired: changed placements have reached the stored readings
	PlacementsChanged   = "dev.telemesh.placements.changed.v1"   // Placements
	PlacementsRecorded  = "dev.telemesh.placements.recorded.v1"  // Placements: the changed ones are stored; all versions of them
	PlacementsRejected  = "dev.telemesh.placements.rejected.v1"  // RejectedRows
	ActionsLogged       = "dev.telemesh.actions.logged.v1"       // Actions
	ActionsRecorded     = "dev.telemesh.actions.recorded.v1"     // Actions: the logged ones are stored; all versions of them
	ActionsRejected     = "dev.telemesh.actions.rejected.v1"     // RejectedRows
	CustomersChanged    = "dev.telemesh.customers.changed.v1"    // Customers
	CustomersRecorded   = "dev.telemesh.customers.recorded.v1"   // Customers: the changed ones are stored; all versions of them
	CustomersRejected   = "dev.telemesh.customers.rejected.v1"   // RejectedRows
	AnalyticsJoined     = "dev.telemesh.analytics.joined.v1"     // JoinedReadings of one tenant
	AnalyticsWithdrawn  = "dev.telemesh.analytics.withdrawn.v1"  // JoinedReadings that are no tenant's any more
	CO2Classified       = "dev.telemesh.co2.classified.v1"       // Classification: the air of a room has come to another level
	AnalyticsOutdated   = "dev.telemesh.analytics.outdated.v1"   // JoinedReadings stored after metadata that they do not know of
	QualityChecked      = "dev.telemesh.quality.checked.v1"      // rows of mesh_metrics.quality_results: what the rules of an output port counted
	LevelsMeasured      = "dev.telemesh.slo.measured.v1"         // rows of mesh_metrics.service_levels: how output ports keep their service levels
	LevelBreached       = "dev.telemesh.slo.breached.v1"         // levels.Change: an output port does not keep a service level any more
	LevelRestored       = "dev.telemesh.slo.restored.v1"         // levels.Change: it keeps it again
	PortRead            = "dev.telemesh.port.read.v1"            // rows of mesh_metrics.reads: who read which output port how often
	RedriveRequested    = "dev.telemesh.redrive.requested.v1"    // Redrive: dead letters to be delivered again
)

// Event types of examples/transactions.
const (
	TransactionsReceived   = "dev.telemesh.transactions.received.v1"   // a payment, as its feed has it
	TransactionsClassified = "dev.telemesh.transactions.classified.v1" // Classification: how large it is
)

// Extension attributes that Telemesh sets on events.
const (
	ExtTenant       = "tenantid"     // the tenant whose readings the event carries
	ExtPartitionKey = "partitionkey" // the device, where an event has one (CloudEvents partitioning extension)
	ExtTraceParent  = "traceparent"  // W3C trace context (CloudEvents distributed tracing extension)

	// ExtCauseSource and ExtCauseID are source and id of the event that an event
	// was made of: by them the way of a reading is followed through the event log.
	ExtCauseSource = "causesource"
	ExtCauseID     = "causeid"

	// ExtVersion is the version of the metadata that what an event carries was
	// made with; of a recorded event, the first version that has its rows. The
	// version of a table is how many rows were recorded in it, that of several
	// tables their sum: it only grows, and who knows a higher one knows all that
	// who knows a lower one does. A decimal number.
	ExtVersion = "metadataversion"
	// ExtLabel is the label that a rule gave all records of a classified event,
	// ExtSeverityText and ExtSeverityNumber how severe that is (CloudEvents severity
	// extension; names and numbers are those of Severities). ExtPreviousSeverity is the
	// number of the level before, where a level changed and the one before is known.
	ExtLabel            = "label"
	ExtSeverityText     = "severitytext"
	ExtSeverityNumber   = "severitynumber"
	ExtPreviousSeverity = "previousseverity"
	// ExtWithdrawn is "true" on telemetry.unassigned of which a reading was a
	// tenant's before a correction, or might have been.
	ExtWithdrawn = "withdrawn"
)
