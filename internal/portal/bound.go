package portal

import (
	"cmp"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/telemesh/telemesh/internal/access"
)

// bound is how much of what lasts one user may have at a time, of this process: each
// keeps a connection, and asks the warehouse, which all others wait for.
type bound struct {
	most  int
	what  string        // so many of it, and what to do
	after time.Duration // to try again

	mu   sync.Mutex
	open map[string]int // by user
}

// The streams of a user are of the tabs that they have open; the files they wait for.
const (
	mostStreams = 12
	mostExports = 3
)

func streamBound() *bound {
	return &bound{most: mostStreams, what: "%d pages that follow what comes are open already: close one", after: 30 * time.Second, open: map[string]int{}}
}

func exportBound() *bound {
	return &bound{most: mostExports, what: "%d files are being downloaded already: wait until one is complete", after: 10 * time.Second, open: map[string]int{}}
}

// of serves a route within the bound.
func (b *bound) of(serve func(http.ResponseWriter, *http.Request, access.Viewer) error) func(http.ResponseWriter, *http.Request, access.Viewer) error {
	return func(w http.ResponseWriter, r *http.Request, v access.Viewer) error {
		leave, err := b.enter(v)
		if err != nil {
			return err
		}
		defer leave()
		return serve(w, r, v)
	}
}

// enter counts one more; leave ends it.
func (b *bound) enter(v access.Viewer) (leave func(), err error) {
	user := cmp.Or(v.ID, v.Name)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open[user] >= b.most {
		return nil, &exceeded{fmt.Sprintf(b.what, b.most), b.after}
	}
	b.open[user]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.open[user]--; b.open[user] == 0 {
			delete(b.open, user)
		}
	}, nil
}

// exceeded is that a user has as much of something as one may have at a time.
type exceeded struct {
	text  string
	after time.Duration
}

func (e *exceeded) Error() string { return e.text }
