package local

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrInUse says that another process has the data folder open.
var ErrInUse = errors.New("another telemesh has it open")

const (
	// maxEvent bounds an event with its attributes: the largest message that
	// NATS takes.
	maxEvent = 64 << 20
	// maxPending must hold what the server sends one connection before it is
	// read: in the process that is a backlog, not a slow network.
	maxPending = 1 << 30
	apiTimeout = time.Minute // for what makes or asks about streams; the disk may be busy
)

// store is JetStream inside the process. Nothing listens on the network.
type store struct {
	dir    string
	log    *seldom // of what goes wrong with it
	lock   *os.File
	server *server.Server
	// Two connections, so that a large event on its way in does not hold up
	// deliveries and their acknowledgements.
	in, out     *nats.Conn
	publish, js jetstream.JetStream
}

func openStore(dir string, log *slog.Logger) (_ *store, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open data folder: %w", err)
	}
	s := &store{dir: dir, log: &seldom{log: log}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.lock, err = lock(filepath.Join(dir, "lock")); err != nil {
		return nil, fmt.Errorf("open data folder %s: %w", dir, err)
	}
	s.server, err = server.NewServer(&server.Options{
		ServerName:      "telemesh",
		DontListen:      true,
		JetStream:       true,
		StoreDir:        dir,
		MaxPayload:      maxEvent,
		MaxPending:      maxPending,
		WriteDeadline:   time.Minute,
		NoSigs:          true,
		NoSystemAccount: true,
	})
	if err != nil {
		return nil, fmt.Errorf("open data folder %s: %w", dir, err)
	}
	s.server.SetLoggerV2(natsLog{s.log}, false, false, false)
	s.server.Start()
	if !s.server.ReadyForConnections(apiTimeout) || !s.server.JetStreamEnabled() {
		return nil, fmt.Errorf("open data folder %s: the event store did not start: is the disk full or read-only?", dir)
	}
	connect := func(name string) (*nats.Conn, jetstream.JetStream, error) {
		nc, err := nats.Connect("", nats.InProcessServer(s.server), nats.Name(name),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
				s.log.tell(slog.LevelError, "event store", err, "connection", name)
			}))
		if err != nil {
			return nil, nil, fmt.Errorf("connect to the event store: %w", err)
		}
		// No limit on unanswered publications: the backlog bounds them.
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(math.MaxInt), jetstream.WithDefaultTimeout(apiTimeout))
		return nc, js, err
	}
	if s.in, s.publish, err = connect("in"); err != nil {
		return nil, err
	}
	if s.out, s.js, err = connect("out"); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *store) close() {
	for _, nc := range []*nats.Conn{s.in, s.out} {
		if nc != nil {
			nc.Close()
		}
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	if s.lock != nil {
		s.lock.Close() // releases it
	}
}

// errCodeStorage is JetStream's "insufficient storage resources available". It
// takes three quarters of what is free at its start for itself.
const errCodeStorage = 10047

// explain says of a lack of storage what to do about it.
func (s *store) explain(err error) error {
	if full, ok := errors.AsType[*jetstream.APIError](err); ok && full.ErrorCode == errCodeStorage {
		return fmt.Errorf("make room on the disk of %s and start again, what it holds stays: %w", s.dir, err)
	}
	return err
}

// natsLog passes on what the embedded server finds worth a warning.
type natsLog struct{ *seldom }

func (l natsLog) event(level slog.Level, f string, args ...any) {
	l.tell(level, "event store", fmt.Errorf(f, args...))
}

func (natsLog) Noticef(string, ...any) {}
func (natsLog) Debugf(string, ...any)  {}
func (natsLog) Tracef(string, ...any)  {}
func (l natsLog) Warnf(f string, args ...any) {
	// It warns of large payloads for the network's sake, and there is none.
	if !strings.HasPrefix(f, "Maximum payloads over") {
		l.event(slog.LevelWarn, f, args...)
	}
}
func (l natsLog) Errorf(f string, args ...any) { l.event(slog.LevelError, f, args...) }
func (l natsLog) Fatalf(f string, args ...any) { l.event(slog.LevelError, f, args...) }
