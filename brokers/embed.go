// Package brokers holds the Brokers of the mesh, one per domain, for programs
// that run without the repository beside them.
//
// All have one delivery: ten retries whose waits double from 0.2 s, 205 s in
// all. That outlives a restart of a function, of a port or of the warehouse,
// and what has failed for longer is not cured by trying again.
package brokers

import "embed"

// FS holds the manifests.
//
//go:embed *.yaml
var FS embed.FS
