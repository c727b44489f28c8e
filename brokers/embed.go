// Package brokers holds the Brokers of the mesh, one per domain, for programs
// that run without the repository beside them.
//
// All have one delivery: ten retries whose waits double from 0.2 s, 205 s in
// all. That outlives a restart of a function, of a port or of the warehouse,
// and what has failed for longer is not cured by trying again.
//
// On in-memory channels, Knative's default, a Broker answers when the event
// and all that came of it is delivered: nothing is lost with the channel's
// memory, but a function that is away holds up who posted the event, who then
// posts it again. Channels that store events answer at once.
package brokers

import "embed"

// FS holds the manifests.
//
//go:embed *.yaml
var FS embed.FS
