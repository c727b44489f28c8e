// Package config holds the namespaces and the Services of the mesh, Services one
// per file with the account of each, for programs that run without the repository
// beside them.
//
// What all Services share:
//
//   - Only telemetry-ingest and the portal are reached from outside; the others are
//     cluster-local.
//   - They scale to zero. A cold start takes less than a second, so 30 s
//     without work end the last pod; Knative's default of 60 s keeps pods that
//     wait for the next report of a device. The window is not shorter, because
//     the autoscaler sees a burst through a tenth of it and looks every 2 s.
//   - Scale follows concurrency. The target of a function that computes is
//     low: its events wait for the processor, not for others, and each holds a
//     micro-batch of up to 256 KiB. The target of one that waits is high. A target
//     does not bound what comes to a pod before the next one is there: where
//     that would not fit its memory, containerConcurrency does.
//   - They ask for next to no processor, and have no limit. What is asked for
//     is kept from others also while a pod ends, which takes half a minute:
//     a mesh that asks for more finds no room for its own cold starts on a small
//     node. Of that the 25m that Knative's queue-proxy asks for if not told
//     otherwise would be most. A limit would slow down the cold start first.
//   - Readiness has no period: Knative's queue-proxy then asks every 50 ms until
//     the function answers, which it does as soon as it listens. A function that
//     has not answered for half a minute is started anew. Both are answered by
//     internal/function before the function sees them, whatever the path.
//   - The process needs no privilege, no token of the cluster and no disk.
//   - Each has a ServiceAccount of its own, of its name, which has no right on the
//     cluster. The label telemesh.dev/product is on those that open the warehouse
//     and names the product that they are there: docs/deploy-bigquery.md gives its
//     account of Google to all of them. The others are nobody there.
//   - Who posts several events has K_SINK, and in /oidc a token for that Broker
//     alone, by which it shows who it is where a Broker asks.
//
// In sources/ stand sources, one per file: Deployments, which fetch messages instead
// of being woken, and Services that a PingSource wakes, with it and its Trigger. `ko
// apply -f config/` passes them over: each needs an address and mostly a Secret of
// its user's, and is applied by its own name.
//
// In overlays/ stand folders that are applied besides: secure says who may post to
// the Brokers and connect to the functions, kafka stands in place of brokers/.
//
// In policies/ stand the rules that products, contracts and manifests are held to
// (docs/governance.md), and in classify/ rules by which the function classify gives
// labels to records (docs/classify.md). No cluster reads them.
package config

import (
	"embed"
	"io/fs"
)

// FS holds the manifests.
//
//go:embed *.yaml
var FS embed.FS

//go:embed sources/*.yaml overlays/*/*.yaml policies/*.yaml classify/*.yaml
var files embed.FS

// Sources holds the manifests of sources, Overlays the folders of those that are
// applied besides, Policies the policies, Classify the rules of the function classify.
// fs.Sub fails only for a path that is none.
var (
	Sources, _  = fs.Sub(files, "sources")
	Overlays, _ = fs.Sub(files, "overlays")
	Policies, _ = fs.Sub(files, "policies")
	Classify, _ = fs.Sub(files, "classify")
)
