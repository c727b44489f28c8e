// Package config holds the namespaces, the accounts and the Services of the mesh,
// Services one per file, for programs that run without the repository beside them.
//
// What all Services share:
//
//   - Only telemetry-ingest is reached from outside; the others are
//     cluster-local.
//   - They scale to zero. A cold start takes less than a second, so 30 s
//     without work end the last pod; Knative's default of 60 s keeps pods that
//     wait for the next report of a device. The window is not shorter, because
//     the autoscaler sees a burst through a tenth of it and looks every 2 s.
//   - Scale follows concurrency. The target of a function that computes is
//     low: its events wait for the processor, not for others, and each holds a
//     micro-batch of up to 256 KiB. The target of one that waits is high.
//   - They ask for next to no processor, and have no limit. What is asked for
//     is kept from others also while a pod ends, which takes half a minute:
//     a mesh that asks for more finds no room for its own cold starts on a small
//     node. A limit would slow down the cold start first.
//   - No probes: Knative's own, a connection to the port every few
//     milliseconds until it is open, is the fastest there is, and functions
//     listen only when they are ready.
//   - The process needs no privilege, no token of the cluster and no disk.
//   - What opens the warehouse runs as the ServiceAccount that has the name of its
//     product.
//
// In sources/ stand sources, one per file: Deployments, which fetch messages instead
// of being woken, and Services that a PingSource wakes, with it and its Trigger. `ko
// apply -f config/` passes them over: each needs an address and mostly a Secret of
// its user's, and is applied by its own name.
package config

import (
	"embed"
	"io/fs"
)

// FS holds the manifests.
//
//go:embed *.yaml
var FS embed.FS

//go:embed sources/*.yaml
var files embed.FS

// Sources holds the manifests of sources.
var Sources, _ = fs.Sub(files, "sources") // fails for a path that is none only
