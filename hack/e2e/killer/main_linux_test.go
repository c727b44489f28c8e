package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test is a process that serves requests, if this is set.
const serving = "KILLER_TEST_SERVES"

func TestMain(m *testing.M) {
	if os.Getenv(serving) == "" {
		os.Exit(m.Run())
	}
	// What /held asks for is answered when the process has ended.
	http.HandleFunc("/held", func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Println("held")
		select {}
	})
	http.HandleFunc("/", func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		fmt.Println(listener.Addr())
		err = http.Serve(listener, nil)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestKillAmidRequest(t *testing.T) {
	for name, kept := range map[string]bool{"on a new connection": false, "on one that had others": true} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), serving+"=1")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill() })
			var address, said string
			if _, err := fmt.Fscanln(out, &address); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			p := process{cmd.Process.Pid, fd}
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: !kept}}
			defer client.CloseIdleConnections()
			post := func(path string) error {
				resp, err := client.Post("http://"+address+path, "text/plain", strings.NewReader(strings.Repeat("x", 10*probe)))
				if err == nil {
					err = resp.Body.Close()
				}
				return err
			}
			never := func(when string) {
				t.Helper()
				if n, err := p.killAmidRequest(50 * time.Millisecond); err == nil || n != 0 {
					t.Fatalf("%s: killed amid %d requests, want none and an error", when, n)
				}
			}

			never("before the first request")
			if err := post("/"); err != nil {
				t.Fatal(err)
			}
			never("after an answer")
			held := make(chan error, 1)
			go func() { held <- post("/held") }()
			if _, err := fmt.Fscanln(out, &said); err != nil || said != "held" {
				t.Fatalf("the process says %q, %v, want that it holds a request", said, err)
			}
			if n, err := p.killAmidRequest(time.Minute); n != 1 || err != nil {
				t.Errorf("killed amid %d requests, %v, want 1", n, err)
			}
			if err := <-held; err == nil {
				t.Error("the request was answered")
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Errorf("the process ended with %v, want SIGKILL", err)
			}
		})
	}
}

// A process may end between the signal and the look at it, and be a zombie as long
// as nobody waits for it.
func TestEndedProcess(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run", "^$")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	p := process{cmd.Process.Pid, fd}
	if ended, err := p.ended(time.Minute); err != nil || !ended {
		t.Fatalf("ended = %t, %v, want true", ended, err)
	}
	start := time.Now()
	if n, err := p.killAmidRequest(time.Minute); n != 0 || err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("a zombie: killed amid %d requests, %v, want an error that it has ended", n, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if n, err := p.killAmidRequest(time.Minute); n != 0 || !errors.Is(err, unix.ESRCH) {
		t.Errorf("a process that is no more: killed amid %d requests, %v, want %v", n, err, unix.ESRCH)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("it took %v to see that a process had ended", d)
	}
}

func TestFindWantsAnID(t *testing.T) {
	for _, id := range []string{"", "c", strings.Repeat("0", 64)} {
		if p, err := find(id); err == nil {
			t.Errorf("find(%q) = %v, want an error", id, p)
		}
	}
}
