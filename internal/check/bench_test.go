package check_test

import (
	"testing"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/check"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

// The mesh of this repository with its overlays, read and looked at.
func BenchmarkShippedMesh(b *testing.B) {
	overlays, err := manifest.Overlays(manifest.Folder{Name: "config/overlays", FS: config.Overlays})
	if err != nil {
		b.Fatal(err)
	}
	source := check.Source{
		Manifests: []manifest.Folder{
			{Name: "brokers", FS: brokers.FS}, {Name: "triggers", FS: triggers.FS}, {Name: "config", FS: config.FS}, {Name: "config/sources", FS: config.Sources},
		},
		Overlays: overlays, Products: manifest.Folder{Name: "products", FS: products.FS},
	}
	b.ReportAllocs()
	for b.Loop() {
		mesh := check.Read(source)
		findings := check.Run(mesh)
		// Which functions there are is not said: each Service runs one that is not there.
		if len(findings) < len(mesh.Manifests.Services) || len(mesh.Products) == 0 || findings[0].Rule != "function-missing" {
			b.Fatalf("%d findings, %d products", len(findings), len(mesh.Products))
		}
	}
}
