package source

import (
	"net/http"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/telemesh/telemesh/internal/handover"
)

// metrics is what a source tells of itself.
type metrics struct {
	registry *prometheus.Registry

	frames, bytes, passedOver, accepted, failed, connections prometheus.Counter

	ended     *prometheus.CounterVec // by cause
	connected prometheus.Gauge
	lag       prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "websocket_source_" + name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "websocket_source_" + name, Help: help})
		m.registry.MustRegister(g)
		return g
	}
	m.frames = counter("frames_total", "Frames read.")
	m.bytes = counter("frame_bytes_total", "Bytes of the frames read.")
	m.passedOver = counter("frames_passed_over_total", "Frames that WEBSOCKET_ONLY leaves out, or without a type or source.")
	m.accepted = counter("events_accepted_total", "Events that the broker has accepted, those that another carries counted each.")
	m.failed = counter("posts_failed_total", "Requests to the broker that were not accepted; what they held is sent again.")
	m.connections = counter("connections_total", "Connections made; all but the first are reconnects.")
	m.connected = gauge("connected", "1 while there is a connection.")
	m.lag = gauge("lag_seconds", "From the time of an event to its acceptance by the broker, of the one accepted last.")
	m.ended = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "websocket_source_connections_ended_total",
		Help: "Connections that ended, or were not made, by their cause: a close code, the status of a refusal, dropped, silent, unanswered, unreachable."}, []string{"cause"})
	m.registry.MustRegister(m.ended, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watch tells what is in flight.
func (m *metrics) watch(flight *handover.Handover[event.Event]) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "websocket_source_buffer_frames", Help: "Frames read that the broker has not accepted yet."},
			func() float64 { n, _ := flight.Waiting(); return float64(n) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "websocket_source_buffer_bytes", Help: "Bytes of them."},
			func() float64 { _, n := flight.Waiting(); return float64(n) }))
}

// handler serves /metrics, and is well.
func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	return mux
}
