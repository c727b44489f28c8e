// Package databasetest gives tests databases: files of SQLite, and a PostgreSQL
// that it starts once for all tests of a package, where it is installed.
package databasetest

import (
	"bytes"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // PostgreSQL
)

// Each runs a test on an empty database of each kind, by its address. Where there
// is no PostgreSQL it says so, and runs the test on SQLite alone.
func Each(t *testing.T, test func(t *testing.T, address string)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) { test(t, "sqlite:"+filepath.Join(t.TempDir(), "portal.db")) })
	t.Run("PostgreSQL", func(t *testing.T) {
		started.Do(start)
		if started.why != "" {
			t.Skip(started.why)
		}
		test(t, Another(t, started.address))
	})
}

// Another gives an empty database of the kind of one that Each gave.
func Another(t *testing.T, address string) string {
	t.Helper()
	if strings.HasPrefix(address, "sqlite:") {
		return "sqlite:" + filepath.Join(t.TempDir(), "portal.db")
	}
	db, err := sql.Open("pgx", started.address)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	started.Lock()
	started.databases++
	name := "test" + strconv.Itoa(started.databases)
	started.Unlock()
	if _, err := db.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatalf("make a database: %v", err)
	}
	u, err := url.Parse(started.address)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

var started struct {
	sync.Once
	sync.Mutex
	address   string
	why       string // it does not run
	databases int
	cmd       *exec.Cmd
	dir       string
}

// Main runs the tests of a package, and ends the PostgreSQL that they started.
func Main(m *testing.M) {
	code := m.Run()
	if started.cmd != nil {
		started.cmd.Process.Signal(syscall.SIGQUIT) // at once: nothing of it is kept
		started.cmd.Wait()
	}
	if started.dir != "" {
		os.RemoveAll(started.dir)
	}
	os.Exit(code)
}

// start starts PostgreSQL on a socket in a folder of its own.
func start() {
	bin, err := programs()
	if err != nil {
		started.why = err.Error()
		return
	}
	fail := func(err error) { started.why = fmt.Sprintf("PostgreSQL does not start: %v", err) }
	// Not in a test's folder, which would end with that test. A socket's path must
	// be short.
	if started.dir, err = os.MkdirTemp("/tmp", "telemesh-pg"); err != nil {
		fail(err)
		return
	}
	attributes, err := unprivileged(started.dir)
	if err != nil {
		fail(err)
		return
	}
	data := filepath.Join(started.dir, "data")
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = started.dir, attributes
		return cmd
	}
	if out, err := command("initdb", "-D", data, "-U", "telemesh", "-A", "trust", "-E", "UTF8", "--locale=C", "-N").CombinedOutput(); err != nil {
		fail(fmt.Errorf("initdb: %w: %s", err, out))
		return
	}
	// Durability is not what tests are about.
	var log bytes.Buffer
	cmd := command("postgres", "-D", data, "-k", started.dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		fail(err)
		return
	}
	started.cmd = cmd
	started.address = "postgres://telemesh@/postgres?" + url.Values{"host": {started.dir}}.Encode()
	db, err := sql.Open("pgx", started.address)
	if err != nil {
		fail(err)
		return
	}
	defer db.Close()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if err = db.Ping(); err == nil {
			return
		}
		if time.Since(began) > 30*time.Second {
			fail(fmt.Errorf("%w: %s", err, &log))
			return
		}
	}
}

// programs gives the folder of PostgreSQL's programs: on the path, or where Debian
// has them.
func programs() (string, error) {
	if path, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(path), nil
	}
	all, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(all) == 0 {
		return "", fmt.Errorf("PostgreSQL is not installed: on Debian and Ubuntu, apt-get install postgresql")
	}
	slices.Sort(all)
	return filepath.Dir(all[len(all)-1]), nil
}

// unprivileged has a command run as the user postgres where this is root, as
// which PostgreSQL refuses to run, and gives that user the folder.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
	attributes := &syscall.SysProcAttr{}
	if os.Getuid() != 0 {
		return attributes, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attributes, os.Chown(dir, uid, gid)
}
