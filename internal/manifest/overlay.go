package manifest

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"knative.dev/eventing/pkg/apis/eventing"
)

// Overlays gives the folders in a folder of overlays, such as config/overlays.
func Overlays(f Folder) ([]Folder, error) {
	entries, err := fs.ReadDir(f.FS, ".")
	if err != nil {
		return nil, fmt.Errorf("read overlays of %s: %w", f.Name, err)
	}
	var all []Folder
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		sub, err := fs.Sub(f.FS, e.Name())
		if err != nil {
			return nil, fmt.Errorf("read overlays of %s: %w", f.Name, err)
		}
		all = append(all, Folder{filepath.Join(f.Name, e.Name()), sub})
	}
	return all, nil
}

// Overlaid reads the folders with an overlay applied besides, or in place of brokers/
// where it has Brokers of its own.
func Overlaid(base []Folder, overlay Folder) (Set, error) {
	alone, err := Load(overlay)
	if err != nil {
		return Set{}, err
	}
	folders := slices.Clone(base)
	if len(alone.Brokers) > 0 {
		folders = slices.DeleteFunc(folders, func(f Folder) bool { return filepath.Base(f.Name) == "brokers" })
	}
	return Load(append(folders, overlay)...)
}

// CheckOverlay says where the mesh with an overlay, as Overlaid gives it, is another
// one than the mesh without: what Check finds in it and not in the other, and what
// its Brokers do otherwise. The class of a Broker and its config are what an overlay
// is for.
func CheckOverlay(base, over Set) []Finding {
	known := map[string]bool{}
	for _, f := range append(Check(base), CheckIdentities(base)...) {
		known[f.Object+f.Problem] = true
	}
	c := checker{Set: over}
	for _, f := range append(Check(over), CheckIdentities(over)...) {
		if !known[f.Object+f.Problem] {
			c.findings = append(c.findings, f)
		}
	}
	for _, b := range base.Brokers {
		same := over.Broker(b.Ref())
		if same == nil {
			c.find(b.Where, "Broker "+b.Ref().String(), "add it to the overlay", "is not in the overlay that stands in place of it")
			continue
		}
		for _, part := range []struct {
			field       string
			there, here any
		}{
			{"metadata.annotations", withoutClass(b.Annotations), withoutClass(same.Annotations)},
			{"metadata.labels", b.Labels, same.Labels},
			{"spec.delivery", b.Spec.Delivery, same.Spec.Delivery},
		} {
			if !equality.Semantic.DeepEqual(part.there, part.here) {
				c.find(same.At(part.field), "Broker "+b.Ref().String(), "make all but the class and spec.config as it is there",
					"has other %s than at %s", part.field, b.Where)
			}
		}
	}
	return c.sorted()
}

func withoutClass(annotations map[string]string) map[string]string {
	rest := maps.Clone(annotations)
	delete(rest, eventing.BrokerClassKey)
	return rest
}
