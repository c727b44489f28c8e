package sheet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Tick is the type of a PingSource's events, which wake the functions that read
// sheets.
// https://knative.dev/docs/eventing/sources/ping-source/
const Tick = "dev.knative.sources.ping"

// Ticks takes the ticks that wake a function, one after the other.
type Ticks struct {
	mu         sync.Mutex
	source, id string // of the last one
	events     []event.Event
}

// Take answers a tick with what do gives. One that is delivered again, because
// its answer may not have been accepted, is answered with the same events. Any
// other event is a permanent error.
func (t *Ticks) Take(in event.Event, function string, do func() ([]event.Event, error)) ([]event.Event, error) {
	if in.Type() != Tick {
		return nil, mesh.Permanentf("%s cannot take an event of type %q: its trigger has to filter on %s", function, in.Type(), Tick)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.source == in.Source() && t.id == in.ID() {
		return t.events, nil
	}
	events, err := do()
	if err != nil {
		return nil, err
	}
	t.source, t.id, t.events = in.Source(), in.ID(), events
	return events, nil
}

// Fault is an error that lasts until somebody does something about the sheet,
// its permissions or the configuration: a finding about the sheet as a whole.
// Any other error in reading one passes.
type Fault struct{ Err error }

// Faultf is a Fault of fmt.Errorf(format, args...).
func Faultf(format string, args ...any) error { return Fault{Err: fmt.Errorf(format, args...)} }

func (f Fault) Error() string { return f.Err.Error() }
func (f Fault) Unwrap() error { return f.Err }

// MaxBytes bounds what is read of a file or an answer: some 100,000 rows.
const MaxBytes = 8 << 20

// ReadAll reads all there is, if it is not more than MaxBytes.
func ReadAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err == nil && len(text) > MaxBytes {
		err = Faultf("it has more than %d bytes", MaxBytes)
	}
	return text, err
}

// stillFor is how long nobody has written to a file that is taken as it is.
const stillFor = time.Second

// ReadFile reads a file when nobody is writing it: one that is half written would
// look as if the rest of its rows had been taken out. It waits until ctx ends.
func ReadFile(ctx context.Context, path string) ([]byte, error) {
	for {
		text, still, err := readFile(path)
		if err != nil || still {
			return text, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s is being written: %w", path, ctx.Err())
		case <-time.After(stillFor):
		}
	}
}

// readFile reads a file; still says whether it stayed as it was meanwhile, and
// for a while before.
func readFile(path string) (text []byte, still bool, err error) {
	// A pipe that nobody writes to would be waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, false, Fault{Err: err}
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	switch {
	case before.IsDir():
		return nil, false, Faultf("%s is a directory: give the path of a file in it", path)
	case !before.Mode().IsRegular():
		return nil, false, Faultf("%s is no regular file", path)
	}
	if text, err = ReadAll(f); err != nil {
		return nil, false, err
	}
	after, err := os.Stat(path) // another file may have taken its place
	if err != nil {
		return nil, false, nil
	}
	// A time to come is that of another clock.
	age := time.Since(after.ModTime())
	still = os.SameFile(before, after) && before.Size() == after.Size() && before.ModTime().Equal(after.ModTime()) && (age < 0 || age >= stillFor)
	return text, still, nil
}

// Ends says whether an answer tells where it ends: by its length, in chunks, or
// in a frame. One that does not ends with the connection, also where that is
// lost.
func Ends(resp *http.Response) bool {
	return resp.ContentLength >= 0 || len(resp.TransferEncoding) > 0 || resp.Uncompressed || resp.ProtoMajor >= 2
}

// RetryAfter reads the header, seconds or a date (RFC 9110, section 10.2.3); 0 if
// there is none.
func RetryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(seconds, 1<<30)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return time.Until(at)
	}
	return 0
}

// WithoutURL takes the address off an error, which may hold a password.
func WithoutURL(err error) error {
	if at := (*url.Error)(nil); errors.As(err, &at) {
		return at.Err
	}
	return err
}
