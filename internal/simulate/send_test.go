package simulate

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// endpoint is an ingest endpoint at the wire: it answers with the statuses in
// turn, and 202 after them.
type endpoint struct {
	statuses []int
	began    time.Time
	got      []string // "SECONDS BODIES" of what was accepted
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	status := http.StatusAccepted
	if len(e.statuses) > 0 {
		status, e.statuses = e.statuses[0], e.statuses[1:]
	}
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	if status == http.StatusAccepted {
		e.got = append(e.got, time.Since(e.began).String()+" "+strings.ReplaceAll(string(body), "\n", " "))
	}
	resp := &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader("said so\n"))}
	if status == http.StatusServiceUnavailable {
		resp.Header.Set("Retry-After", "2")
	}
	return resp, nil
}

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// sent are messages a, b, … sent at those seconds after noon.
func sent(seconds ...int) iter.Seq[Sent] {
	return func(yield func(Sent) bool) {
		for i, s := range seconds {
			if !yield(Sent{At: noon.Add(time.Duration(s) * time.Second), Body: []byte{'a' + byte(i)}}) {
				return
			}
		}
	}
}

func TestSender(t *testing.T) {
	for _, c := range []struct {
		name     string
		sender   Sender
		seconds  []int
		statuses []int
		want     []string // what was accepted, and when
		next     []int    // where to go on after each, in seconds
	}{
		{"as fast as possible", Sender{Batch: 2}, []int{0, 10, 10, 20, 3000}, nil,
			[]string{"0s a b ", "0s c d ", "0s e "}, []int{10, 3000, 3000}},
		{"paced", Sender{Speed: 10}, []int{0, 10, 10, 50}, nil,
			[]string{"0s a ", "1s b c ", "5s d "}, []int{10, 50, 50}},
		{"backlog, then live", Sender{Speed: 1, Live: noon.Add(100 * time.Second)}, []int{0, 50, 100, 103, 109}, nil,
			[]string{"0s a b c ", "3s d ", "9s e "}, []int{103, 109, 109}},
		{"an endpoint that is not there yet", Sender{Speed: 1}, []int{0, 1, 2, 10}, []int{0, 404, 502, 503},
			// 0.1, 0.2 and 0.4 s of backoff, then the 2 s it asks for; what fell due meanwhile goes at once.
			[]string{"2.7s a ", "2.7s b c ", "10s d "}, []int{1, 10, 10}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &endpoint{statuses: c.statuses, began: time.Now()}
				s := c.sender
				s.URL, s.Client = "http://ingest", &http.Client{Transport: e}
				var next []int
				messages := 0
				s.Acknowledged = func(at time.Time, n int) error {
					next = append(next, int(at.Sub(noon)/time.Second))
					messages += n
					return nil
				}
				if err := s.Run(t.Context(), sent(c.seconds...)); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, e.got); diff != "" {
					t.Errorf("accepted (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(c.next, next); diff != "" || messages != len(c.seconds) {
					t.Errorf("%d messages acknowledged, positions (-want +got):\n%s", messages, diff)
				}
			})
		})
	}
}

func TestSenderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &endpoint{statuses: []int{http.StatusBadRequest}}
		s := Sender{URL: "http://ingest", Client: &http.Client{Transport: e}}
		err := s.Run(t.Context(), sent(0, 1))
		if want := "send 2 messages to http://ingest: refused: Bad Request: said so"; err == nil || err.Error() != want {
			t.Errorf("Run = %v, want %s", err, want)
		}

		full := errors.New("disk full")
		s.Acknowledged = func(time.Time, int) error { return full }
		if err := s.Run(t.Context(), sent(0, 1)); !errors.Is(err, full) {
			t.Errorf("Run = %v, want the error of Acknowledged", err)
		}

		// Between messages, and while waiting for the endpoint.
		for _, statuses := range [][]int{nil, slices.Repeat([]int{0}, 100)} {
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			s := Sender{URL: "http://ingest", Client: &http.Client{Transport: &endpoint{statuses: statuses}}, Speed: 1}
			began := time.Now()
			if err := s.Run(ctx, sent(0, 60)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 7*time.Second {
				t.Errorf("Run = %v after %s, want the end of the context after 7s", err, time.Since(began))
			}
			cancel()
		}
	})
}

// A sender that is started again at the position it had sends all messages,
// those of the position's own instant twice at most.
func TestSenderGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := New(Sample())
		if err != nil {
			t.Fatal(err)
		}
		until := f.Start.Add(12 * time.Hour)
		e := &endpoint{}
		position, stop := f.Start, errors.New("stop")
		for runs := 0; ; runs++ {
			requests := 0
			s := Sender{URL: "http://ingest", Client: &http.Client{Transport: e}, Batch: 100, Acknowledged: func(next time.Time, _ int) error {
				position = next
				if requests++; requests == 7 {
					return stop
				}
				return nil
			}}
			err := s.Run(t.Context(), f.Messages(position, until))
			if err == nil {
				break
			}
			if !errors.Is(err, stop) || runs > 10 {
				t.Fatalf("run %d: %v", runs, err)
			}
		}
		var got []string
		for _, request := range e.got {
			got = append(got, strings.Split(request[strings.Index(request, "{"):len(request)-1], "} {")...)
		}
		want := 0
		for range f.Messages(f.Start, until) {
			want++
		}
		if len(got) < want || len(got) > want+10 {
			t.Errorf("%d messages accepted, want %d and a few twice", len(got), want)
		}
	})
}
