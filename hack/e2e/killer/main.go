// Killer ends the process of a container with SIGKILL while it handles a
// request. It runs in a privileged pod that sees the processes of its node
// (hostPID): inside its own container a process that is the first one cannot be
// ended so.
//
//	killer CONTAINER-ID DURATION
//
// stops the process with SIGSTOP and looks at its connections. If it has read a
// request on one and not begun to answer, it is killed where it stands; if not,
// it runs on for a moment and is stopped again, for at most DURATION. Printed is
// the number of the requests that were in its hands. Without arguments it waits
// for SIGTERM, for kubectl exec to find it there.
//
// What the request is it cannot see. A connection on which fewer than 512 bytes
// came is taken for a probe's.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 1 {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		<-ctx.Done()
		return
	}
	requests, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "killer: %v\n", err)
		os.Exit(1)
	}
	fmt.Println(requests)
}

func run(args []string) (requests int, err error) {
	if len(args) != 2 {
		return 0, errors.New("usage: killer CONTAINER-ID DURATION")
	}
	within, err := time.ParseDuration(args[1])
	if err != nil {
		return 0, err
	}
	return kill(args[0], within)
}
