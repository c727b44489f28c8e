// Package dataset finds the public data sets that some tests run on. They
// are not part of the repository: their licences differ.
package dataset

import (
	"os"
	"path/filepath"
	"testing"
)

// Root is the folder of the repository.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "ko.yaml")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no folder above the test holds ko.yaml")
		}
		dir = up
	}
}

// Path gives the path of a file or folder of the data sets: below
// TELEMESH_DATASETS, else below shared/data beside the repository. The test is
// skipped where it is not there.
func Path(t testing.TB, name string) string {
	t.Helper()
	path, ok := Find(t, name)
	if !ok {
		t.Skipf("the data set %s is not here; set TELEMESH_DATASETS to the folder that holds it", name)
	}
	return path
}

// Find gives the path as Path does, and whether it is there.
func Find(t testing.TB, name string) (path string, ok bool) {
	t.Helper()
	dir := os.Getenv("TELEMESH_DATASETS")
	if dir == "" {
		dir = filepath.Join(filepath.Dir(Root(t)), "shared", "data")
	}
	path = filepath.Join(dir, filepath.FromSlash(name))
	_, err := os.Stat(path)
	return path, err == nil
}
