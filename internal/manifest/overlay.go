package manifest

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
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
