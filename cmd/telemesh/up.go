package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mqtt"
)

func upCommand() *cobra.Command {
	var (
		o                                         options
		s                                         sheets
		simulated                                 bool
		ingestOn, brokerOn, mqttOn, displayOn, on string
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the whole mesh on this machine",
		Long: `Runs the brokers, triggers and functions of the manifests in this process until
it is interrupted, and says where to look. Started again on the same folder, it
goes on where it was, also after a kill.

Devices publish to its MQTT broker. Messages of another one are fetched by the
source mqtt-source, once it knows the address; other sources likewise.

The sheets (--placements, --actions, --customers) are read when it starts, and every
minute after: what is edited is taken then, or at once by ` + "`telemesh sheets read`" + `,
and what cannot be taken is told by ` + "`telemesh sheets errors`" + `. Each is a
file, an address (https://…), or, of placements and actions, a sheet of Google
(google-sheets:ID/Sheet), whose credentials --set sheet-source.GOOGLE_APPLICATION_CREDENTIALS
names; a CRM's token is set by --set customer-source.CRM_TOKEN.`,
		Example: `  telemesh up --simulate --demo
  telemesh up --placements placements.csv --actions actions.csv --customers customers.csv
  curl -d '{"device_id": "desk-1", "metrics": {"co2": 812}}' localhost:8082
  mosquitto_pub -t desk-1/co2 -m 812
  telemesh up --placements google-sheets:ID/Placements --customers https://crm.example.com/customers
  telemesh up --manifests examples/transactions --data transactions-data
  telemesh up --mqtt '' --set mqtt-source.MQTT_URL=mqtts://USER:PASSWORD@HOST --set mqtt-source.MQTT_TOPICS=zigbee2mqtt/+`,
		Args: arguments(cobra.NoArgs, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := cmd.Context()
			if err := onlyHere(mqttOn); err != nil {
				return err
			}
			if simulated && s.placements+s.actions+s.customers != "" {
				return hint(errors.New("--simulate brings placements, actions and customers of its own, which sheets would delete"),
					"leave out either --simulate or --placements, --actions and --customers")
			}
			if o.portal, err = portalURL(on, o.demo); err != nil {
				return err
			}
			o.links = linksTo(on)
			in, err := o.open(ctx, s)
			if err != nil {
				if ctx.Err() != nil {
					return nil // interrupted
				}
				return err
			}
			defer func() { err = errors.Join(err, in.close()) }()
			out := cmd.OutOrStdout()
			if in.config.Manifests.Service(ingestService) == nil {
				ingestOn = "" // nothing takes messages
			}
			ingest := &server{}
			if ingestOn != "" {
				if ingest, err = serveOn(ingestOn, in.mesh.Service(ingestService.Namespace, ingestService.Name)); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, ingest.stop()) }()
			}
			broker, err := serveOn(brokerOn, in.mesh.Handler())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, broker.stop()) }()
			in.mesh.Listens(urlOf(ingest), urlOf(broker))
			published, err := in.takeMQTT(mqttOn)
			if err != nil {
				return err
			}
			display := &server{}
			if ref, ok := in.display(); ok && displayOn != "" {
				if display, err = serveOn(displayOn, endWith(ctx, in.mesh.Service(ref.Namespace, ref.Name))); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, display.stop()) }()
			}
			if err := in.mesh.StartSources(); err != nil {
				return err
			}
			page := &server{}
			if in.config.Manifests.Service(portalService) != nil {
				if page, err = serveOn(on, in.mesh.Service(portalService.Namespace, portalService.Name)); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, page.stop()) }()
				fmt.Fprintf(out, "portal   http://%s/\n", page.address)
				if onlyHere(on) != nil {
					fmt.Fprintln(out, "warning  others reach the portal, and by plain http: who is on the way reads passwords and cookies; put https before it")
				}
				if err := in.welcome(ctx, out, "http://"+page.address, o.demo, simulated); err != nil {
					return err
				}
			}
			data, err := filepath.Abs(o.data)
			if err != nil {
				return err
			}
			if display.address != "" {
				fmt.Fprintf(out, "display  http://%s/                    events as they come\n", display.address)
				if onlyHere(displayOn) != nil {
					fmt.Fprintln(out, "warning  others reach the display, which asks nobody who he is")
				}
			}
			if ingestOn != "" {
				fmt.Fprintf(out, "ingest   http://%s/                    POST device messages\n", ingest.address)
			}
			fmt.Fprintf(out, "brokers  http://%s/NAMESPACE/BROKER    POST CloudEvents: %s\n", broker.address, in.brokers())
			if published != "" {
				fmt.Fprintf(out, "mqtt     mqtt://%s                    publish device messages\n", published)
			}
			if len(in.sheetPings()) > 0 {
				fmt.Fprintln(out, "sheets   read again every minute, or now by `telemesh sheets read`; what is wrong with them: `telemesh sheets errors`")
			}
			fmt.Fprintf(out, "data     %s\n", data)

			ended := make(chan error, 1)
			if simulated {
				fmt.Fprintf(out, "a simulated fleet sends: the past %d weeks at once, then as time goes on\n", simulatedDays/7)
				go func() { ended <- in.simulate(ctx) }()
			}
			select {
			case err = <-ended:
			case err = <-page.ended:
			case err = <-ingest.ended:
			case err = <-broker.ended:
			case err = <-display.ended:
			case <-ctx.Done():
				if simulated {
					err = <-ended
				}
				fmt.Fprintln(out, "stopping")
			}
			if errors.Is(err, context.Canceled) {
				return nil // interrupted, as it should be
			}
			return err
		},
	}
	o.flags(cmd)
	s.flags(cmd)
	cmd.Flags().BoolVar(&simulated, "simulate", false, "let a simulated fleet send")
	cmd.Flags().BoolVar(&o.demo, "demo", false, "let whoever uses this machine enter the portal without a password, as ready users")
	cmd.Flags().StringVar(&on, "portal", "127.0.0.1:8080", "address of the portal")
	cmd.Flags().StringVar(&brokerOn, "brokers", "127.0.0.1:8081", "address of the brokers' ingress")
	cmd.Flags().StringVar(&ingestOn, "ingest", "127.0.0.1:8082", "address of the ingest endpoint")
	cmd.Flags().StringVar(&displayOn, "display", "127.0.0.1:8083", "address of the page that shows events, where the manifests have a Service of function display; empty: none")
	cmd.Flags().StringVar(&mqttOn, "mqtt", "127.0.0.1:1883", "address of the MQTT broker, which only this machine may reach; empty: none")
	return cmd
}

// ingestService takes the messages of devices.
var ingestService = manifest.Ref{Namespace: "iot", Name: "telemetry-ingest"}

// display is the Service that shows events; false: there is none.
func (in *instance) display() (manifest.Ref, bool) {
	services := in.config.Manifests.Services
	at := slices.IndexFunc(services, func(s *manifest.Service) bool { return s.Function() == "display" })
	if at < 0 {
		return manifest.Ref{}, false
	}
	return services[at].Ref(), true
}

// endWith ends requests with ctx: a page that is watched has one that does not end by
// itself.
func endWith(ctx context.Context, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		both, cancel := context.WithCancel(r.Context())
		defer context.AfterFunc(ctx, cancel)()
		defer cancel()
		handler.ServeHTTP(w, r.WithContext(both))
	})
}

// urlOf is where a server is reached; empty: it does not run.
func urlOf(s *server) string {
	if s.address == "" {
		return ""
	}
	return "http://" + s.address + "/"
}

// brokers names the Brokers of the mesh.
func (in *instance) brokers() string {
	var names []string
	for _, b := range in.config.Manifests.Brokers {
		names = append(names, b.Ref().String())
	}
	return strings.Join(names, ", ")
}

// portalURL is where people reach the portal that listens on address. A demo is
// for this machine alone.
func portalURL(address string, demo bool) (string, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", hint(fmt.Errorf("--portal %q: %w", address, err), "--portal takes HOST:PORT")
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if ip := net.ParseIP(host); demo && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", hint(fmt.Errorf("--demo lets everybody in without a password, and others could reach --portal %s", address),
			"leave out --demo, and make users by the link that is printed; or use an address of 127.0.0.1")
	}
	return (&url.URL{Scheme: "http", Host: hostInURL(host)}).String(), nil
}

// linksTo is where people of this machine reach the portal that listens on address;
// empty: its port is not known yet.
func linksTo(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// hostInURL is a host as addresses have it: one of IPv6 in brackets.
func hostInURL(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// onlyHere refuses an address that others reach: the MQTT broker asks nobody who
// he is.
func onlyHere(address string) error {
	if address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return hint(fmt.Errorf("--mqtt %q: %w", address, err), "--mqtt takes HOST:PORT, or '' for no MQTT broker")
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return hint(fmt.Errorf("--mqtt %s: others could reach it, and it asks nobody who he is", address),
			"use an address of 127.0.0.1, and for devices elsewhere an MQTT broker with passwords, whose messages --set mqtt-source.MQTT_URL=mqtts://USER:PASSWORD@HOST fetches")
	}
	return nil
}

// takeMQTT starts the MQTT broker on address, in the environment of mqtt-source,
// and gives the address it has.
func (in *instance) takeMQTT(address string) (string, error) {
	at := slices.IndexFunc(in.config.Manifests.Deployments, func(d *manifest.Deployment) bool { return d.Function() == "mqtt-source" })
	if address == "" || at < 0 {
		return "", nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", hint(fmt.Errorf("start the MQTT broker: %w", err),
			"name another address with --mqtt, or '' for none; --set mqtt-source.MQTT_URL=mqtt://%s fetches the messages of the one that is there", address)
	}
	if err := in.mesh.StartSource(in.config.Manifests.Deployments[at], mqtt.Start(listener, filepath.Join(in.dir, "mqtt-sessions.json"))); err != nil {
		return "", errors.Join(err, listener.Close())
	}
	return listener.Addr().String(), nil
}
