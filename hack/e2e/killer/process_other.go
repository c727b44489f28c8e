//go:build !linux

package main

import (
	"errors"
	"time"
)

// kill is there for the program to be built, for the nodes of a cluster, from any
// system.
func kill(string, time.Duration) (requests int, err error) {
	return 0, errors.New("processes of containers are there on Linux alone")
}
