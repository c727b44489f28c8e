// Package mqtt is the MQTT broker of a mesh on one machine: a Zigbee2MQTT or a
// bridge of that machine is pointed at it and at nothing else.
//
// A PUBLISH that matches MQTT_TOPICS becomes a message as if mqtt-source had
// received it, by the same code. It is acknowledged once the mesh has accepted
// the event that holds it durably: what a client has seen acknowledged survives
// a kill of the process. A PUBLISH that the mesh does not accept yet waits for
// it, and with it all that its client sends after; a client that gives up and
// connects again sends it again. That is the same reading as long as the process
// lives, also without a time in it; after a kill a message without a time may be
// another one. A client that begins each connection with a clean session sends
// nothing again, and loses what it has not seen acknowledged.
//
// Messages are routed to whoever subscribes, too, with QoS 0. Sessions and their
// filters are kept in a file, retained messages in memory.
//
// Nobody has to say who he is: the broker is for addresses that only this
// machine reaches.
package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/telemesh/telemesh/functions/mqtt-source/source"
	"github.com/telemesh/telemesh/internal/function"
)

// maxLinger is at most what a message waits for others. A client's packets are
// read one after the other, so that each of its messages waits alone.
const maxLinger = time.Millisecond

// sourceURI is the source of the messages: the same for every address.
const sourceURI = "mqtt://localhost/"

// drainTime is what the mesh may take, at the end, to accept what was received.
const drainTime = 10 * time.Second

// listenerID is what mochi knows the listener by.
const listenerID = "mqtt"

// Start gives the start of a source that is an MQTT broker on listener and keeps
// its sessions in a file. Its environment is that of mqtt-source.
func Start(listener net.Listener, file string) function.Start {
	return startDraining(listener, file, drainTime)
}

func startDraining(listener net.Listener, file string, drainTime time.Duration) function.Start {
	return func(ports function.Ports) (*function.Function, error) {
		cfg, err := function.Config[source.IntakeConfig]()
		if err != nil {
			return nil, err
		}
		cfg.Linger = min(cfg.Linger, maxLinger)
		kept, err := openSessions(file, ports.Log)
		if err != nil {
			return nil, err
		}
		capabilities := mochi.NewDefaultServerCapabilities()
		capabilities.MaximumPacketSize = source.MaxPacket
		capabilities.MaximumSessionExpiryInterval = maxSession
		capabilities.MaximumClientWritesPending = maxPending
		// An acknowledgement that repeats the properties of its message is none
		// (MQTT 5, section 3.4.2.2).
		capabilities.Compatibilities.NoInheritedPropertiesOnAck = true
		// What it logs are packets, with the data of devices in them.
		server := mochi.New(&mochi.Options{Capabilities: capabilities, Logger: slog.New(slog.DiscardHandler), InlineClient: true})
		intake, err := source.NewIntake(cfg, sourceURI, ports, func(topic string, payload []byte) {
			go func() {
				if err := server.Publish(topic, payload, false, 0); err != nil {
					ports.Log.Warn("node not asked for its births", "error", err)
				}
			}()
		})
		if err != nil {
			return nil, err
		}
		h := newHook(intake)
		if err := errors.Join(server.AddHook(new(auth.AllowHook), nil), server.AddHook(h, nil),
			server.AddHook(kept, nil), server.AddListener(listeners.NewNet(listenerID, listener))); err != nil {
			return nil, fmt.Errorf("make MQTT broker: %w", err)
		}
		return &function.Function{Run: func(ctx context.Context) error {
			if err := server.Serve(); err != nil {
				return fmt.Errorf("serve MQTT on %s: %w", listener.Addr(), err)
			}
			<-ctx.Done()
			draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
			defer cancel()
			// First what is in flight is accepted and acknowledged, as far as there
			// is time.
			err := intake.Close(draining)
			h.idle(draining)
			err = errors.Join(err, closed(server))
			kept.write()
			return err
		}}, nil
	}
}

// closeTime is what the end of all connections may take. mochi waits for ever for
// a client that comes at that moment, or goes:
// https://github.com/mochi-mqtt/server/issues/488.
const closeTime = 2 * time.Second

func closed(server *mochi.Server) error {
	done := make(chan error, 1)
	go func() { done <- server.Close() }()
	select {
	case err := <-done:
		return err
	case <-time.After(closeTime):
		return errors.New("close the MQTT broker: some connections have not ended")
	}
}

// maxSession, in seconds, is how long the session of a client that is away is kept.
const maxSession = 24 * 3600

// maxPending is how many packets may wait for a client that does not read: room
// for them is made for each connection.
const maxPending = 256

// hook takes what is published to the mesh.
type hook struct {
	mochi.HookBase
	intake *source.Intake

	mu       sync.Mutex
	answered *sync.Cond
	busy     map[*mochi.Client]bool // by whose PUBLISH is between OnPublish and its acknowledgement
}

func newHook(intake *source.Intake) *hook {
	h := &hook{intake: intake, busy: map[*mochi.Client]bool{}}
	h.answered = sync.NewCond(&h.mu)
	return h
}

func (h *hook) ID() string { return "mesh" }

func (h *hook) Provides(b byte) bool {
	return bytes.IndexByte([]byte{mochi.OnPublish, mochi.OnPacketProcessed, mochi.OnWillSent, mochi.OnSubscribe}, b) >= 0
}

// idle waits until what was accepted is acknowledged, or until ctx ends.
func (h *hook) idle(ctx context.Context) {
	defer context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.answered.Broadcast()
	})()
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.busy) > 0 && ctx.Err() == nil {
		h.answered.Wait()
	}
}

// OnPublish returns when the mesh has accepted what is published. mochi
// acknowledges it then and not before, see Server.processPublish. Without an
// acknowledgement a client has to send it again once it is connected again; one
// that says no would be the end of it.
func (h *hook) OnPublish(client *mochi.Client, p packets.Packet) (packets.Packet, error) {
	if client.Net.Inline { // the mesh's own
		return p, nil
	}
	h.mu.Lock()
	h.busy[client] = true
	h.mu.Unlock()
	done := make(chan error, 1)
	h.intake.Take(publish(client, &p), func(err error) { done <- err })
	if err := <-done; err != nil {
		client.Stop(err)
		return p, packets.ErrRejectPacket
	}
	return p, nil
}

// OnPacketProcessed is called when a packet is answered.
func (h *hook) OnPacketProcessed(client *mochi.Client, p packets.Packet, _ error) {
	if p.FixedHeader.Type == packets.Publish {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.busy, client)
		h.answered.Broadcast()
	}
}

// OnSubscribe grants QoS 0 and no more. With another one mochi keeps what is on
// its way to the subscriber, and reads it under two read locks of which one holds
// the other (Inflight.NextImmediate): a device that publishes between them would
// wait for ever.
func (h *hook) OnSubscribe(_ *mochi.Client, p packets.Packet) packets.Packet {
	p.Filters = slices.Clone(p.Filters)
	for i := range p.Filters {
		p.Filters[i].Qos = 0
	}
	return p
}

// OnWillSent takes the last will of a client: for it, too, it is a message of a
// device. Nobody waits for an acknowledgement.
func (h *hook) OnWillSent(client *mochi.Client, p packets.Packet) {
	will := publish(client, &p)
	will.PacketID = 0
	h.intake.Take(will, func(error) {})
}

func publish(client *mochi.Client, p *packets.Packet) source.Publish {
	out := source.Publish{
		Session: client.ID, PacketID: p.PacketID, Duplicate: p.FixedHeader.Dup,
		Topic: p.TopicName, ContentType: p.Properties.ContentType, Payload: p.Payload,
	}
	for _, property := range p.Properties.User {
		out.Properties = append(out.Properties, [2]string{property.Key, property.Val})
	}
	return out
}
