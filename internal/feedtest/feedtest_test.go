package feedtest_test

import (
	"context"
	"net/http"
	"strconv"
	"testing"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/feedtest"
)

// dial connects and, unless it is empty, sends a message.
func dial(t *testing.T, url, message string) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	if message != "" {
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	return conn
}

// read gives n frames.
func read(t *testing.T, conn *websocket.Conn, n int) (frames []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), feedtest.Patience)
	defer cancel()
	for range n {
		_, frame, err := conn.Read(ctx)
		if err != nil {
			t.Fatalf("after %q: %v", frames, err)
		}
		frames = append(frames, string(frame))
	}
	return frames
}

func TestFeed(t *testing.T) {
	s := feedtest.Serve(t, []byte("a"), []byte("b\xff"))
	conn := dial(t, s.URL+"/inv", "subscribe")
	if diff := cmp.Diff([]string{"a", "b\xff"}, read(t, conn, 2)); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	s.Close(websocket.StatusTryAgainLater, "later")
	if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusTryAgainLater {
		t.Errorf("Read = %v, want status 1013", err)
	}
	s.Send([]byte("c"))
	s.Drop()
	again := dial(t, s.URL, "subscribe")
	read(t, again, 3) // the close is over
	if _, _, err := again.Read(t.Context()); err == nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("Read = %v, want the end of the connection", err)
	}
	state := s.Await(t, "both ended", func(s feedtest.State) bool { return s.Open == 0 })
	if diff := cmp.Diff([]string{"subscribe", "subscribe"}, state.Received); diff != "" || state.Sent != 5 || state.Requests[0].URL.Path != "/inv" {
		t.Errorf("%d frames sent, path %s, received (-want +got):\n%s", state.Sent, state.Requests[0].URL.Path, diff)
	}
}

func TestFeedFails(t *testing.T) {
	s := feedtest.Feed{Unasked: true}.Serve(t)
	s.Refuse(http.StatusTooManyRequests, "7")
	if _, resp, err := websocket.Dial(t.Context(), s.URL, nil); err == nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "7" {
		t.Errorf("Dial = %v, %v, want a refusal", resp, err)
	}
	s.Garbage()
	if _, _, err := dial(t, s.URL, "").Read(t.Context()); err == nil {
		t.Error("garbage was read as a frame")
	}
	s.Silence()
	silent := dial(t, s.URL, "")
	reading := silent.CloseRead(t.Context())
	if err := silent.Ping(t.Context()); err != nil {
		t.Errorf("Ping = %v, want an answer of who is silent", err)
	}
	silent.Close(websocket.StatusNormalClosure, "")
	<-reading.Done()
	s.Stall()
	stalled := dial(t, s.URL, "")
	stalled.CloseRead(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		s.Await(t, "the ping", func(s feedtest.State) bool { return s.Pings == 2 })
	}()
	if err := stalled.Ping(ctx); err == nil {
		t.Error("who stalls has answered a ping")
	}
	stalled.CloseNow()
	s.Await(t, "all ended", func(s feedtest.State) bool { return s.Open == 0 && len(s.Closed) == 3 })
}

func TestFeedFrom(t *testing.T) {
	feed := feedtest.Feed{From: func(r *http.Request, asked string) int {
		n, _ := strconv.Atoi(r.URL.Query().Get("after") + asked)
		return n
	}}
	s := feed.Serve(t, []byte("0"), []byte("1"), []byte("2"))
	if diff := cmp.Diff([]string{"2"}, read(t, dial(t, s.URL+"?after=0", "2"), 1)); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}
