// Package triggers holds the Triggers of the mesh, one per file and named as
// its subscriber, for programs that run without the repository beside them.
package triggers

import "embed"

// FS holds the manifests.
//
//go:embed *.yaml
var FS embed.FS
