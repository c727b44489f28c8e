package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kill ends the process of a container amid a request.
func kill(container string, within time.Duration) (requests int, err error) {
	p, err := find(container)
	if err != nil {
		return 0, err
	}
	defer unix.Close(p.fd)
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
	// Whatever comes, it is not left standing. What has ended takes no signal.
	defer func() {
		if e := p.signal(unix.SIGCONT); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, e)
		}
	}()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(runs) {
		if requests, err = p.stopped(deadline); err != nil {
			return 0, err
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
func (p process) stopped(deadline time.Time) (requests int, err error) {
	if err := p.signal(unix.SIGSTOP); err != nil {
		return 0, err
	}
	for {
		// One that ended meanwhile never stands.
		if ended, err := p.ended(0); err != nil || ended {
			return 0, errors.Join(err, fmt.Errorf("process %d has ended by itself", p.pid))
		}
		if stands, err := p.stands(); err != nil {
			return 0, err
		} else if stands {
			return p.requests()
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("process %d does not stand after SIGSTOP", p.pid)
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

// dies is how long a process may take to end after SIGKILL.
const dies = 10 * time.Second

// kill ends the process, and returns when it has ended.
func (p process) kill() error {
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	ended, err := p.ended(dies)
	if err == nil && !ended {
		err = fmt.Errorf("process %d has not ended %v after SIGKILL", p.pid, dies)
	}
	return err
}

// ended says whether the process ends within a time, or has.
func (p process) ended(within time.Duration) (bool, error) {
	for deadline := time.Now().Add(within); ; {
		left := max(0, time.Until(deadline))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if err == nil || !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}
