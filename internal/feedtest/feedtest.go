// Package feedtest is a feed by WebSocket for tests: a server that sends frames
// to whoever subscribes, and fails where it is told to.
//
// What a feed sends is a list: frames, and faults between them. A client gets the
// frames from the first one on, also one that connects again, unless Feed.From
// says otherwise. Each fault happens once, to the client that comes to it first.
package feedtest

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// Patience is how long a test waits for what has to happen, on a machine however busy.
const Patience = 2 * time.Minute

// Feed is how a server serves. The zero value sends to who has sent something.
type Feed struct {
	Address string // to listen on; empty: a free port of this machine
	Unasked bool   // frames come without a message from the client before
	// From gives the place of the first frame that a client gets, by its request
	// and the message it sent; nil: 0.
	From func(r *http.Request, asked string) int
}

// Serve is Feed{}.Serve.
func Serve(t testing.TB, frames ...[]byte) *Server { return Feed{}.Serve(t, frames...) }

// Serve serves until the end of the test.
func (f Feed) Serve(t testing.TB, frames ...[]byte) *Server {
	t.Helper()
	s := &Server{feed: f, changed: make(chan struct{})}
	s.Send(frames...)
	server := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	if f.Address != "" {
		listener, err := net.Listen("tcp", f.Address)
		if err != nil {
			t.Fatal(err)
		}
		server.Listener.Close()
		server.Listener = listener
	}
	ctx, stop := context.WithCancel(context.Background())
	s.ctx = ctx
	server.Start()
	s.URL = "ws" + strings.TrimPrefix(server.URL, "http")
	t.Cleanup(func() {
		stop()
		server.Close()
		s.serving.Wait()
	})
	return s
}

// Server is a feed. Its methods may be called from several goroutines.
type Server struct {
	URL string // ws://…

	feed    Feed
	ctx     context.Context
	serving sync.WaitGroup

	mu       sync.Mutex
	changed  chan struct{} // closed when anything below changes
	items    []item
	refusals []refusal
	State
}

// State is what a server has seen.
type State struct {
	Requests []*http.Request        // handshakes, also those refused
	Open     int                    // connections
	Received []string               // messages of the clients
	Sent     int                    // frames that the network has taken
	Pings    int                    // of the clients
	Closed   []websocket.StatusCode // how clients ended; -1: without saying so
}

// item is a frame or a fault.
type item struct {
	frame []byte
	fault func(*client) (ends bool)
}

type refusal struct {
	status     int
	retryAfter string
}

// Send appends frames: text, or binary where they are no UTF-8.
func (s *Server) Send(frames ...[]byte) {
	s.change(func() {
		for _, frame := range frames {
			s.items = append(s.items, item{frame: frame})
		}
	})
}

// Drop ends the connection without a word.
func (s *Server) Drop() { s.fault(func(c *client) bool { c.raw.Close(); return true }) }

// Close ends the connection with a close frame.
func (s *Server) Close(code websocket.StatusCode, reason string) {
	s.fault(func(c *client) bool { c.conn.Close(code, reason); return true })
}

// Garbage sends what is no frame.
func (s *Server) Garbage() {
	s.fault(func(c *client) bool { c.raw.Write([]byte("this is no frame")); return false })
}

// Silence sends nothing more; pings are answered.
func (s *Server) Silence() {
	s.fault(func(c *client) bool { <-c.ended; return true })
}

// Stall sends nothing more, and no answer to a ping.
func (s *Server) Stall() {
	s.fault(func(c *client) bool {
		c.server.mu.Lock()
		c.stalled = true
		c.server.mu.Unlock()
		<-c.ended
		return true
	})
}

func (s *Server) fault(do func(*client) bool) {
	s.change(func() { s.items = append(s.items, item{fault: do}) })
}

// Refuse answers the next handshake that is not refused yet with status, and with
// Retry-After unless that is empty.
func (s *Server) Refuse(status int, retryAfter string) {
	s.change(func() { s.refusals = append(s.refusals, refusal{status, retryAfter}) })
}

// Await waits until what the server has seen is as ok wants it, and gives it.
func (s *Server) Await(t testing.TB, what string, ok func(State) bool) State {
	t.Helper()
	limit := time.NewTimer(Patience)
	defer limit.Stop()
	for {
		s.mu.Lock()
		state, changed := s.State, s.changed
		s.mu.Unlock()
		if ok(state) {
			return state
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("%s: not within %s; %d handshakes, %d open, received %q, sent %d frames, closed %v",
				what, Patience, len(state.Requests), state.Open, state.Received, state.Sent, state.Closed)
		}
	}
}

// Now gives what the server has seen.
func (s *Server) Now() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.State
}

func (s *Server) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// client is one that is connected.
type client struct {
	server  *Server
	conn    *websocket.Conn
	raw     net.Conn
	stalled bool
	ended   chan struct{} // closed when nothing more is read
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	var refused refusal
	s.serving.Add(1)
	defer s.serving.Done()
	s.change(func() {
		s.Requests = append(s.Requests, r)
		if len(s.refusals) > 0 {
			refused, s.refusals = s.refusals[0], s.refusals[1:]
		}
	})
	if refused.status != 0 {
		if refused.retryAfter != "" {
			w.Header().Set("Retry-After", refused.retryAfter)
		}
		http.Error(w, "not now", refused.status)
		return
	}
	c := &client{server: s, ended: make(chan struct{})}
	h := &hijacker{w, c}
	var err error
	c.conn, err = websocket.Accept(h, r, &websocket.AcceptOptions{InsecureSkipVerify: true, OnPingReceived: func(context.Context, []byte) bool {
		s.change(func() { s.Pings++ })
		s.mu.Lock()
		defer s.mu.Unlock()
		return !c.stalled
	}})
	if err != nil {
		return
	}
	defer c.conn.CloseNow()
	s.change(func() { s.Open++ })
	asked := make(chan string, 1)
	go c.read(asked)
	from := 0
	if message, ok := c.ask(asked); !ok {
		return
	} else if s.feed.From != nil {
		from = s.feed.From(r, message)
	}
	c.send(from)
	select { // who ends is read to its end
	case <-c.ended:
	case <-s.ctx.Done():
	}
}

// read takes what the client sends; the first message goes to asked.
func (c *client) read(asked chan<- string) {
	defer close(c.ended)
	for {
		_, message, err := c.conn.Read(c.server.ctx)
		if err != nil {
			c.server.change(func() {
				c.server.Open--
				c.server.Closed = append(c.server.Closed, websocket.CloseStatus(err))
			})
			return
		}
		c.server.change(func() { c.server.Received = append(c.server.Received, string(message)) })
		select {
		case asked <- string(message):
		default:
		}
	}
}

// ask waits for what the client wants.
func (c *client) ask(asked <-chan string) (message string, ok bool) {
	if c.server.feed.Unasked {
		return "", true
	}
	select {
	case message = <-asked:
		return message, true
	case <-c.ended:
		return "", false
	}
}

// send sends from a place on, until the client or the server ends.
func (c *client) send(from int) {
	s := c.server
	for at := from; ; {
		s.mu.Lock()
		changed := s.changed
		var next *item
		var fault func(*client) bool
		if at < len(s.items) {
			next = &s.items[at]
			fault, next.fault = next.fault, nil
		}
		s.mu.Unlock()
		switch {
		case next == nil:
			select {
			case <-changed:
			case <-c.ended:
				return
			}
			continue
		case fault != nil:
			if fault(c) {
				return
			}
		case next.frame != nil:
			kind := websocket.MessageText
			if !utf8.Valid(next.frame) {
				kind = websocket.MessageBinary
			}
			if c.conn.Write(s.ctx, kind, next.frame) != nil {
				return
			}
			s.change(func() { s.Sent++ })
		}
		at++
	}
}

// hijacker keeps the connection that websocket takes.
type hijacker struct {
	http.ResponseWriter
	client *client
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := h.ResponseWriter.(http.Hijacker).Hijack()
	h.client.raw = conn
	return conn, rw, err
}
