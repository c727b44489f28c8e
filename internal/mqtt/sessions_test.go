package mqtt

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Clients that connect at once share a write, and each finds its session in the
// file before it is told of it; one that has ended its session does not.
func TestSessionsAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "sessions.json")
		kept, err := openSessions(path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		inFile := func(id string) bool {
			t.Helper()
			now, err := openSessions(path, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			_, ok := now.known[id]
			return ok
		}
		connect := func(id string, clean bool) {
			t.Helper()
			client := &mochi.Client{ID: id, Properties: mochi.ClientProperties{ProtocolVersion: 4, Clean: clean}}
			kept.OnSessionEstablish(client, packets.Packet{Connect: packets.ConnectParams{Clean: clean}})
			if inFile(id) == clean {
				t.Errorf("%s, clean %v: in the file %v when it is told", id, clean, !clean)
			}
		}
		begin := time.Now()
		connect("first", false)
		if took := time.Since(begin); took != 0 {
			t.Errorf("the first waits %s, want no time", took)
		}
		first, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() { connect(fmt.Sprint(i), false) })
		}
		synctest.Wait()
		if now, err := os.Stat(path); err != nil || !os.SameFile(first, now) {
			t.Errorf("the file is written again within %s (%v)", writeInterval, err)
		}
		all.Wait()
		if took := time.Since(begin); took != writeInterval {
			t.Errorf("100 clients wait %s, want %s", took, writeInterval)
		}
		connect("7", true)
		connect("8", false) // is known, and waits for nothing
		if took := time.Since(begin); took != 2*writeInterval {
			t.Errorf("the end of one session took until %s, want %s", took, 2*writeInterval)
		}

		// What nobody waits for is written at the end.
		kept.OnDisconnect(&mochi.Client{ID: "9"}, nil, true)
		if !inFile("9") {
			t.Error("the file is written again at once")
		}
		kept.write()
		if inFile("9") {
			t.Error("the end does not write what has changed")
		}
	})
}
