// Command pubsub-source is the source of that name: a Deployment that pulls
// from a Pub/Sub subscription.
package main

import (
	"github.com/telemesh/telemesh/functions/pubsub-source/source"
	"github.com/telemesh/telemesh/internal/function"
)

func main() { function.Main("pubsub-source", source.Start) }
