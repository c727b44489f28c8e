// Package brokers holds the Brokers of the mesh, one per domain, and the name of
// their ingress, for programs that run without the repository beside them.
//
// They are of the class that is the cluster's default. Knative's own is
// MTChannelBasedBroker on in-memory channels, which is for trying out: an event that
// is on its way is lost with the process that holds it. config/overlays/kafka has
// the same Brokers on Kafka, and is applied in place of this folder.
//
// All have one delivery: ten retries whose waits double from 0.2 s, 205 s in
// all. That outlives a restart of a function, of a port or of the warehouse,
// and what has failed for longer is not cured by trying again.
//
// On in-memory channels a Broker answers when the event and all that came of it is
// delivered: who posted it posts it again if the channel's memory is lost before
// that, but a function that is away holds up who posts. Channels that store events
// answer at once.
package brokers

import "embed"

// FS holds the manifests.
//
//go:embed *.yaml
var FS embed.FS
