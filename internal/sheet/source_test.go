package sheet_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telemesh/telemesh/internal/sheet"
)

// write writes a file as of the bubble's clock.
func write(t *testing.T, path, text string) {
	t.Helper()
	err := os.WriteFile(path, []byte(text), 0o600)
	if err == nil {
		err = os.Chtimes(path, time.Now(), time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A file that is being written is read when it is not any more.
func TestReadFileBeingWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.csv")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		write(t, path, "a")
		go func() {
			time.Sleep(500 * time.Millisecond)
			write(t, path, "a,b")
		}()
		text, err := sheet.ReadFile(t.Context(), path)
		if took := time.Since(began); string(text) != "a,b" || err != nil || took < 1500*time.Millisecond {
			t.Errorf("ReadFile = %q, %v after %s, want all of it when it was still for a second", text, err, took)
		}
		// Nobody waits for one that is still.
		began = time.Now()
		if text, err := sheet.ReadFile(t.Context(), path); string(text) != "a,b" || err != nil || time.Since(began) > 0 {
			t.Errorf("ReadFile again = %q, %v after %s, want it at once", text, err, time.Since(began))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		write(t, path, "a")
		var writing sync.WaitGroup
		defer writing.Wait()
		writing.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(350 * time.Millisecond) // never at the second at which it is read
				write(t, path, "a")
			}
		})
		_, err := sheet.ReadFile(ctx, path)
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(sheet.Fault)) || !strings.Contains(err.Error(), path) {
			t.Errorf("ReadFile = %v, want an error that passes and names the file", err)
		}
	})
}

func TestReadFileThatIsNone(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "long.csv")
	if err := errors.Join(os.WriteFile(long, nil, 0o600), os.Truncate(long, sheet.MaxBytes+1)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:        dir + " is a directory: give the path of a file in it",
		os.DevNull: os.DevNull + " is no regular file",
		long:       "it has more than 8388608 bytes",
	} {
		_, err := sheet.ReadFile(t.Context(), path)
		if !errors.As(err, new(sheet.Fault)) || err.Error() != want {
			t.Errorf("ReadFile(%s) = %v, want the fault %q", path, err, want)
		}
	}
	gone := filepath.Join(dir, "gone.csv")
	if _, err := sheet.ReadFile(t.Context(), gone); !errors.As(err, new(sheet.Fault)) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile(%s) = %v, want a fault that it is not there", gone, err)
	}
}

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock shows a whole second
		for value, want := range map[string]time.Duration{
			"": 0, "7": 7 * time.Second, "soon": 0, "99999999999999999999": 0, "9999999999": 1 << 30 * time.Second,
			time.Now().Add(time.Minute).UTC().Format(http.TimeFormat): time.Minute,
		} {
			if got := sheet.RetryAfter(http.Header{"Retry-After": {value}}); got != want {
				t.Errorf("RetryAfter(%q) = %s, want %s", value, got, want)
			}
		}
	})
}
