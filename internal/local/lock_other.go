//go:build !unix

package local

import "os"

// lock opens the file. Systems without flock do not keep a second process out.
func lock(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
}
