package mqtt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/storage"
	"github.com/mochi-mqtt/server/v2/packets"
)

// sessions keeps in a file which sessions there are. A client whose session is
// gone forgets what it has not seen acknowledged (MQTT 5, section 3.2.2.1.1);
// one that finds it sends again.
type sessions struct {
	mochi.HookBase
	path string
	log  *slog.Logger

	file sync.Mutex // who writes it

	mu    sync.Mutex
	known map[string]session
	next  chan struct{} // closed when what has changed is written; nil: nothing has
	last  time.Time     // when it was written
}

// writeInterval is how often the file is written at most: thousands of clients
// may connect at once, and each write is of all sessions.
const writeInterval = 100 * time.Millisecond

// session is one that outlives its connection.
type session struct {
	ID      string                 `json:"id"`
	Version byte                   `json:"version"`
	Expiry  uint32                 `json:"expiry,omitempty"` // in seconds; MQTT 5
	Filters []packets.Subscription `json:"filters,omitempty"`
}

func openSessions(path string, log *slog.Logger) (*sessions, error) {
	s := &sessions{path: path, log: log, known: map[string]session{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read MQTT sessions: %w", err)
	}
	var all []session
	if err := json.Unmarshal(text, &all); err != nil {
		// Clients that connect again learn that their sessions are gone. That is
		// less than nobody being able to connect.
		log.Warn("MQTT sessions lost, the file is put aside", "file", path+".broken", "error", err)
		if err := os.Rename(path, path+".broken"); err != nil {
			return nil, fmt.Errorf("put MQTT sessions aside: %w", err)
		}
		return s, nil
	}
	for _, one := range all {
		s.known[one.ID] = one
	}
	return s, nil
}

func (s *sessions) ID() string { return "sessions" }

func (s *sessions) Provides(b byte) bool {
	return bytes.IndexByte([]byte{mochi.StoredClients, mochi.StoredSubscriptions, mochi.OnSessionEstablish, mochi.OnSubscribed,
		mochi.OnUnsubscribed, mochi.OnDisconnect, mochi.OnClientExpired}, b) >= 0
}

func (s *sessions) StoredClients() (out []storage.Client, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.known {
		out = append(out, storage.Client{
			ID: one.ID, T: storage.ClientKey, Listener: listenerID, ProtocolVersion: one.Version,
			Properties: storage.ClientProperties{SessionExpiryInterval: one.Expiry, SessionExpiryIntervalFlag: one.Expiry > 0},
		})
	}
	return out, nil
}

func (s *sessions) StoredSubscriptions() (out []storage.Subscription, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.known {
		for _, f := range one.Filters {
			out = append(out, storage.Subscription{
				T: storage.SubscriptionKey, Client: one.ID, Filter: f.Filter, Identifier: f.Identifier,
				RetainHandling: f.RetainHandling, Qos: f.Qos, RetainAsPublished: f.RetainAsPublished, NoLocal: f.NoLocal,
			})
		}
	}
	return out, nil
}

// OnSessionEstablish is called before the client is told whether its session is
// there. It waits for the file: a client that was told of a new session, or that
// its old one has ended, must find it so after a kill.
func (s *sessions) OnSessionEstablish(client *mochi.Client, p packets.Packet) {
	s.change(client, func(before session) []packets.Subscription {
		if p.Connect.Clean {
			return nil
		}
		return before.Filters
	})
}

// OnSubscribed is called before the client is told that it is subscribed, and
// waits for the file.
func (s *sessions) OnSubscribed(client *mochi.Client, _ packets.Packet, _ []byte) {
	s.change(client, func(session) []packets.Subscription { return filters(client) })
}

// OnUnsubscribed is also called for a connection whose session another one takes
// over: that is no change.
func (s *sessions) OnUnsubscribed(client *mochi.Client, _ packets.Packet) {
	if !client.Closed() {
		s.change(client, func(session) []packets.Subscription { return filters(client) })
	}
}

func (s *sessions) OnDisconnect(client *mochi.Client, _ error, expire bool) {
	if expire && !client.IsTakenOver() {
		s.forget(client.ID) // it is told nothing of it, and need not wait
	}
}

func (s *sessions) OnClientExpired(client *mochi.Client) { s.forget(client.ID) }

func filters(client *mochi.Client) []packets.Subscription {
	all := client.State.Subscriptions.GetAll()
	var out []packets.Subscription
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[name])
	}
	return out
}

// change takes the session of a client as it is now, if it outlives the
// connection, and returns when it is in the file.
func (s *sessions) change(client *mochi.Client, filters func(before session) []packets.Subscription) {
	p := &client.Properties
	var written <-chan struct{}
	if p.ProtocolVersion == 5 && p.Props.SessionExpiryInterval == 0 || p.ProtocolVersion < 5 && p.Clean {
		written = s.forget(client.ID)
	} else {
		s.mu.Lock()
		before, ok := s.known[client.ID]
		now := session{client.ID, p.ProtocolVersion, p.Props.SessionExpiryInterval, filters(before)}
		if !ok || !reflect.DeepEqual(before, now) {
			s.known[client.ID] = now
			written = s.changed()
		}
		s.mu.Unlock()
	}
	if written != nil {
		<-written
	}
}

// forget gives what is closed when the session is out of the file; nil: there
// was none.
func (s *sessions) forget(id string) (written <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.known[id]; !ok {
		return nil
	}
	delete(s.known, id)
	return s.changed()
}

// changed is called with s.mu held. All changes until the next write are in it.
func (s *sessions) changed() <-chan struct{} {
	if s.next == nil {
		s.next = make(chan struct{})
		time.AfterFunc(time.Until(s.last.Add(writeInterval)), s.write)
	}
	return s.next
}

// write writes what has changed. A file that cannot be written costs a client
// its session at the next start, and no message now.
func (s *sessions) write() {
	s.file.Lock()
	defer s.file.Unlock()
	s.mu.Lock()
	next, all := s.next, slices.Collect(maps.Values(s.known))
	if next != nil {
		s.next, s.last = nil, time.Now()
	}
	s.mu.Unlock()
	if next == nil { // the end was before
		return
	}
	defer close(next)
	text, err := json.Marshal(all)
	if err == nil {
		err = replace(s.path, text)
	}
	if err != nil {
		s.log.Warn("MQTT sessions not kept", "error", err)
	}
}

// replace puts text in the place of what is in a file. The new file is on the
// disk before it has the name: after a power cut there is the old one or the new
// one, and none that is empty.
func replace(path string, text []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
