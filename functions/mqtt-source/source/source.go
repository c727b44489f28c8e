// Package source brings what devices publish by MQTT to the broker.
//
// It subscribes MQTT_TOPICS of the MQTT broker at MQTT_URL and makes
// telemetry.received events of what comes, filled as telemetry-ingest fills
// them. A message is acknowledged when the broker has accepted the event that
// holds it, and not before; until then it is handed over again and again,
// whatever the broker answers. A refusal for good, such as of an event too long
// or of a source without the right, is tried again as well and said in the log:
// the source stands still until somebody sees to it, and loses nothing. At most
// 1,000 messages, or four events full of them, and 32 MiB of them are in flight,
// and at most 500 are unacknowledged: then the source reads no more. A PUBLISH of
// more than 512 KiB is dropped by the MQTT broker, which is told so.
//
// MQTT_TOPICS are topic filters, separated by commas. A level {name} matches as
// + does and becomes the attribute of that name; {device_id} is the device. What
// follows a ? are attributes of all messages of the filter, among them format,
// the format of their payload:
//
//	site/{building}/{device_id}/up?format=senml-json,zigbee2mqtt/+
//
// Of several filters that match a topic, the first one says the attributes. Of
// filters of which one covers another only the wider is subscribed; filters
// that overlap in part bring a message twice where the MQTT broker sends one for
// each subscription.
//
// Attributes of a message are its topic, its user properties (the first 32, of
// at most 256 bytes), and retain where the MQTT broker had kept it. The user
// property id is the message's id; without it the id is a hash of source, topic
// and payload.
//
// The session is that of MQTT_CLIENT_ID and is kept for a week after the
// connection ends: what is published meanwhile with QoS 1 or 2 comes then. With
// MQTT_SHARE, several sources of different client ids share the messages. Not
// those of Sparkplug B: its births tell what the data after them mean, so that
// one source has to see all, and a filter has to let all messages of a node pass
// (spBv1.0/GROUP/+/NODE/#). A source that has not seen a birth, or misses one of
// the messages that a node numbers, asks the node for it; with each connection
// it begins anew.
//
// What MQTT does not keep from coming twice: a message without a time takes the
// time at which it is received. One that the MQTT broker sends again, since it
// has seen no acknowledgement, is known again by its packet id and content, and
// is the same reading, as long as the same process receives it. After the end
// of a process, at most those in flight come again as other readings. An orderly
// end hands them over, again and again for 20 s, and leaves none that the broker
// accepts in this time; of what it does not accept, QoS 0 is lost. A message with
// a time of its own is the same reading however often it comes. With QoS 0, MQTT
// itself may lose messages, and brings none twice; so it is where the MQTT broker
// grants no more, which the log says.
package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session"
	"github.com/eclipse/paho.golang/paho/session/state"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/handover"
)

const name = "mqtt-source"

// Config is the function's environment.
type Config struct {
	URL      string `envconfig:"MQTT_URL" required:"true"` // tcp, mqtt, ssl, mqtts, ws or wss
	ClientID string `envconfig:"MQTT_CLIENT_ID" default:"telemesh"`
	Username string `envconfig:"MQTT_USERNAME"`
	Password string `envconfig:"MQTT_PASSWORD"`
	Share    string `envconfig:"MQTT_SHARE"` // the group that shares the messages
	IntakeConfig
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	s, err := New(cfg, ports)
	if err != nil {
		return nil, err
	}
	return &function.Function{Run: s.Run}, nil
}

// Source is a session with an MQTT broker.
type Source struct {
	cfg    Config
	server *url.URL // without credentials
	intake *Intake
	log    *slog.Logger
	acks   acks
	conn   atomic.Pointer[autopaho.ConnectionManager]
}

// New makes a source.
func New(cfg Config, ports function.Ports) (*Source, error) {
	server, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("MQTT_URL is no URL") // the error quotes it, with the password
	}
	if user := server.User; user != nil {
		password, _ := user.Password()
		cfg.Username, cfg.Password = cmp.Or(cfg.Username, user.Username()), cmp.Or(cfg.Password, password)
		server.User = nil
	}
	port, ok := defaultPorts[strings.ToLower(server.Scheme)]
	if !ok || server.Hostname() == "" {
		return nil, fmt.Errorf("MQTT_URL %s: want tcp://, mqtt://, ssl://, mqtts://, ws:// or wss:// and a host", server)
	}
	if server.Port() == "" {
		server.Host = net.JoinHostPort(server.Hostname(), port)
	}
	if strings.ContainsAny(cfg.Share, "/+#") {
		return nil, fmt.Errorf("MQTT_SHARE %q: a group has no /, + or #", cfg.Share)
	}
	s := &Source{cfg: cfg, server: server, log: ports.Log.With("server", server.String())}
	if s.intake, err = NewIntake(cfg.IntakeConfig, "mqtt://"+server.Host+"/", ports, s.ask); err != nil {
		return nil, err
	}
	return s, nil
}

var defaultPorts = map[string]string{"tcp": "1883", "mqtt": "1883", "ssl": "8883", "mqtts": "8883", "ws": "80", "wss": "443"}

const (
	// sessionExpiry, in seconds: a source that is away for a weekend misses
	// nothing.
	sessionExpiry = 7 * 24 * 3600
	keepAlive     = 30 // seconds
	// MaxPacket, in bytes. The event of one message of this size is still below
	// the 1 MB that Kafka takes at most, its payload in base64.
	MaxPacket = 512 << 10
	// ackInterval is how often paho sends acknowledgements; so long a message
	// takes up room in vain.
	ackInterval = 5 * time.Millisecond
	// drainTime is what the end may take, of the 30 s that a function has.
	drainTime = 20 * time.Second
	// disconnectTime is what saying so may take: also when the broker has used up
	// drainTime.
	disconnectTime = 2 * time.Second
)

// Run keeps the session until ctx is done, and then until the broker has
// accepted what was received, or drainTime has passed: that is an error.
func (s *Source) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	receiveMaximum, maxPacket := uint16(s.cfg.inFlight()), uint32(MaxPacket)
	life := context.WithoutCancel(ctx) // of the connection: acknowledgements come after the end
	conn, err := autopaho.NewConnection(life, autopaho.ClientConfig{
		ServerUrls:            []*url.URL{s.server},
		ConnectUsername:       s.cfg.Username,
		ConnectPassword:       []byte(s.cfg.Password),
		KeepAlive:             keepAlive,
		SessionExpiryInterval: sessionExpiry,
		ReconnectBackoff:      reconnect,
		ConnectPacketBuilder: func(c *paho.Connect, _ *url.URL) (*paho.Connect, error) {
			c.Properties.ReceiveMaximum, c.Properties.MaximumPacketSize = &receiveMaximum, &maxPacket
			// Causes come along; some MQTT brokers leave out user properties, too,
			// where nobody asks for them.
			c.Properties.RequestProblemInfo = true
			s.intake.Missed() // before a message can come by this connection
			return c, nil
		},
		OnConnectionUp: func(conn *autopaho.ConnectionManager, ack *paho.Connack) {
			s.conn.Store(conn)
			s.log.Info("connected", "session.present", ack.SessionPresent)
			go s.subscribe(ctx, conn, failed)
		},
		OnConnectError: func(err error) { s.log.Warn("not connected, it is tried again", "error", err) },
		ClientConfig: paho.ClientConfig{
			ClientID:                   s.cfg.ClientID,
			Session:                    &sessionOf{state.NewInMemory(), &s.acks},
			EnableManualAcknowledgment: true,
			SendAcksInterval:           ackInterval,
			OnPublishReceived:          []func(paho.PublishReceived) (bool, error){s.received},
			OnClientError:              func(err error) { s.log.Warn("connection lost", "error", err) },
			OnServerDisconnect: func(d *paho.Disconnect) {
				s.log.Warn("disconnected by the server", "reason", d.ReasonCode)
			},
		},
	})
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.server, err)
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	draining, cancel := context.WithTimeout(life, drainTime)
	defer cancel()
	err = errors.Join(err, s.intake.Close(draining))
	s.acks.wait()
	ending, cancel := context.WithTimeout(life, disconnectTime)
	defer cancel()
	return errors.Join(err, conn.Disconnect(ending))
}

// reconnect is what attempt n waits for. The first one waits too: two sources of
// one client id would otherwise throw each other out without end.
func reconnect(n int) time.Duration {
	return min(100*time.Millisecond<<min(n, 10), 30*time.Second)
}

// subscribe tells a new connection what is wanted: also where the session knows,
// since MQTT_TOPICS may have changed. What the MQTT broker refuses ends the
// source, which would look well and receive nothing.
func (s *Source) subscribe(ctx context.Context, conn *autopaho.ConnectionManager, failed chan<- error) {
	request := &paho.Subscribe{}
	for _, filter := range s.intake.topics.subscribed() {
		if s.cfg.Share != "" {
			filter = "$share/" + s.cfg.Share + "/" + filter
		}
		// Retained messages come with a new subscription, not with each
		// connection; what the source publishes itself does not, as far as MQTT
		// allows it (section 3.8.3.1).
		request.Subscriptions = append(request.Subscriptions, paho.SubscribeOptions{Topic: filter, QoS: 1, RetainHandling: 1, NoLocal: s.cfg.Share == ""})
	}
	for n := 0; ctx.Err() == nil; n++ {
		ack, err := conn.Subscribe(ctx, request)
		switch {
		case err == nil:
			for i, granted := range ack.Reasons {
				if granted < request.Subscriptions[i].QoS {
					s.log.Warn("messages may be lost: the MQTT broker grants less than was asked for",
						"filter", request.Subscriptions[i].Topic, "qos", granted, "asked", request.Subscriptions[i].QoS)
				}
			}
			return
		case errors.Is(err, paho.ErrInvalidArguments) || ack != nil && slices.ContainsFunc(ack.Reasons, final):
			select {
			case failed <- fmt.Errorf("subscribe %s at %s: %w", s.cfg.Topics, s.server, err):
			default: // it ends already
			}
			return
		case errors.Is(err, autopaho.ConnectionDownError) || errors.Is(err, session.ErrNoConnection) || errors.Is(err, paho.ErrConnectionLost):
			return // the next connection subscribes
		}
		if ctx.Err() == nil {
			s.log.Warn("not subscribed, it is tried again", "error", err)
		}
		select {
		case <-time.After(handover.Backoff(n)):
		case <-ctx.Done():
		}
	}
}

// final says whether a SUBACK means that the subscription will never be granted
// (MQTT 5, section 3.9.3): not authorized, no valid filter, no shared
// subscriptions, no identifiers, no wildcards. Others pass: mochi, for one, says
// that a packet id is in use while one of its own messages has it.
func final(reason byte) bool {
	return slices.Contains([]byte{0x87, 0x8f, 0x9e, 0xa1, 0xa2}, reason)
}

// ask publishes to a Sparkplug node. One that is not reached is asked again when
// its next message comes.
func (s *Source) ask(topic string, payload []byte) {
	conn := s.conn.Load()
	go func() {
		if _, err := conn.Publish(context.Background(), &paho.Publish{Topic: topic, Payload: payload}); err != nil {
			s.log.Warn("node not asked for its births", "error", err)
		}
	}()
}

// received takes one PUBLISH; paho calls it for one after the other.
func (s *Source) received(r paho.PublishReceived) (bool, error) {
	p := Publish{
		Session: s.cfg.ClientID, PacketID: r.Packet.PacketID, Duplicate: r.Packet.Duplicate(), Retained: r.Packet.Retain,
		Topic: r.Packet.Topic, ContentType: r.Packet.Properties.ContentType, Payload: r.Packet.Payload,
	}
	for _, property := range r.Packet.Properties.User {
		p.Properties = append(p.Properties, [2]string{property.Key, property.Value})
	}
	s.intake.Take(p, func(err error) {
		// paho keeps the order of acknowledgements that MQTT asks for (section
		// 4.6). Of a connection that has ended it takes none: then the message
		// comes again.
		if err == nil && p.PacketID != 0 && r.Client.Ack(r.Packet) == nil {
			s.acks.due()
		}
	})
	return true, nil
}
