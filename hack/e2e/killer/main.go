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
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
	p, err := find(args[0])
	if err != nil {
		return 0, err
	}
	return p.killAmidRequest(within)
}

// process is one of another container. The descriptor names it also when it has
// ended and its number is another's.
type process struct{ pid, fd int }

// find gives the process of a container by its cgroup, whose name has the id of
// the container in whatever way the kubelet nests them.
func find(container string) (process, error) {
	if len(container) < 32 {
		return process{}, fmt.Errorf("%q is no id of a container", container)
	}
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return process{}, err
	}
	var found []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), container) {
			continue // of what has ended meanwhile, there is none
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return process{}, err
		}
		found = append(found, pid)
	}
	if len(found) != 1 {
		return process{}, fmt.Errorf("container %s has the processes %v here, want one: is the pod on this node, and this one's hostPID true?", container, found)
	}
	fd, err := unix.PidfdOpen(found[0], 0)
	if err != nil {
		return process{}, fmt.Errorf("open process %d: %w", found[0], err)
	}
	return process{found[0], fd}, nil
}

func (p process) signal(s unix.Signal) error {
	if err := unix.PidfdSendSignal(p.fd, s, nil, 0); err != nil {
		return fmt.Errorf("signal %v to process %d: %w", s, p.pid, err)
	}
	return nil
}

// A request of a millisecond is met if the process is looked at that often.
const (
	runs  = 300 * time.Microsecond
	stops = 20 * time.Microsecond // until it is looked at whether it stands
)

func (p process) killAmidRequest(within time.Duration) (requests int, err error) {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(runs) {
		if requests, err = p.stopped(); err != nil {
			return 0, errors.Join(err, p.signal(unix.SIGCONT))
		}
		if requests > 0 {
			return requests, p.kill()
		}
		if err := p.signal(unix.SIGCONT); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("process %d was not seen handling a request within %v", p.pid, within)
}

// stopped stops the process and counts the requests in its hands.
func (p process) stopped() (requests int, err error) {
	if err := p.signal(unix.SIGSTOP); err != nil {
		return 0, err
	}
	for {
		stands, err := p.stands()
		if err != nil {
			return 0, err
		}
		if stands {
			return p.requests()
		}
		time.Sleep(stops)
	}
}

// stands says whether no thread of the process runs.
func (p process) stands() (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.pid))
	if err != nil {
		return false, err
	}
	for _, file := range threads {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		// PID (NAME) STATE …, where the name may hold anything.
		_, rest, ok := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), " ")
		if !ok || rest[0] != 'T' {
			return false, nil
		}
	}
	return len(threads) > 0, nil
}

// requests counts the connections to a port that the process listens on, on
// which it has read all that came, and has sent nothing since.
func (p process) requests() (n int, err error) {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
	if err != nil {
		return 0, err
	}
	listens := map[int]bool{}
	var reading []int // the ports of connections in the middle of a request
	for _, entry := range fds {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", p.pid, entry.Name()))
		if err != nil || !strings.HasPrefix(target, "socket:") {
			continue
		}
		number, err := strconv.Atoi(entry.Name())
		if err != nil {
			return 0, err
		}
		// A second descriptor of the same socket. While it is open the connection
		// lives on, also without the process.
		fd, err := unix.PidfdGetfd(p.fd, number, 0)
		if err != nil {
			return 0, fmt.Errorf("take descriptor %d of process %d: %w", number, p.pid, err)
		}
		port, listening, amid, err := look(fd)
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return 0, fmt.Errorf("look at descriptor %d of process %d: %w", number, p.pid, err)
		}
		if listening {
			listens[port] = true
		}
		if amid {
			reading = append(reading, port)
		}
	}
	for _, port := range reading {
		if listens[port] {
			n++
		}
	}
	return n, nil
}

// probe is more bytes than a probe's request has, and fewer than an event's.
const probe = 512

// look gives the port of a socket on this side, and whether it is of a connection
// in the middle of a request.
func look(fd int) (port int, listening, amid bool, err error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, false, false, err
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		port = name.Port
	case *unix.SockaddrInet6:
		port = name.Port
	default:
		return 0, false, false, nil
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOPROTOOPT) { // UDP
		return 0, false, false, nil
	}
	if err != nil {
		return 0, false, false, err
	}
	if info.State == unix.BPF_TCP_LISTEN {
		return port, true, false, nil
	}
	unread, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0, false, false, err
	}
	// The times are milliseconds ago, by the ticks of the kernel's clock: what comes
	// in the tick in which the last answer went is not counted.
	amid = info.State == unix.BPF_TCP_ESTABLISHED && unread == 0 && info.Bytes_received >= probe &&
		(info.Bytes_sent == 0 || info.Last_data_recv < info.Last_data_sent)
	return port, false, amid, nil
}

// kill ends the process, and returns when it has ended.
func (p process) kill() error {
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, -1)
		if err == nil || !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
