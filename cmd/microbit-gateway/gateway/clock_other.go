//go:build !linux

package gateway

import "time"

// SystemClock takes the clock as it is where nobody can be asked whether it is
// set.
var SystemClock Clock = systemClock{}

type systemClock struct{}

func (systemClock) Now() time.Time                { return time.Now() }
func (systemClock) Set() bool                     { return true }
func (systemClock) Boot() (string, time.Duration) { return "", 0 }
