package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/httpstream/spdy"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
)

// apiServer is one of Kubernetes as far as this package asks it: it has objects by
// their paths, takes what is made, and forwards to ports.
type apiServer struct {
	objects map[string]any
	make    func(path string, asked runtime.Object) any // nil: nothing can be made
	ports   map[string]string                           // addresses, by path of a pod
	// before a connection to a pod is opened, and once it was closed; nil: nothing
	opening, closed func()
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if pod, is := strings.CutSuffix(r.URL.Path, "/portforward"); is {
		s.forward(w, r, s.ports[pod])
		return
	}
	answer, ok := s.objects[r.URL.Path]
	if r.Method == http.MethodPost && s.make != nil {
		body, err := io.ReadAll(r.Body)
		asked, _, decoding := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil) // JSON or protobuf
		if err := errors.Join(err, decoding); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer = s.make(r.URL.Path, asked)
		ok = answer != nil
	}
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		answer = map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"}
	}
	json.NewEncoder(w).Encode(answer)
}

// forward does as an API server that knows no websockets.
func (s *apiServer) forward(w http.ResponseWriter, r *http.Request, address string) {
	if r.Method != http.MethodPost {
		http.Error(w, "no websockets here", http.StatusBadRequest)
		return
	}
	if s.opening != nil {
		s.opening()
	}
	w.Header().Set(httpstream.HeaderProtocolVersion, portforward.PortForwardProtocolV1Name)
	tunnel := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, accepted <-chan struct{}) error {
		if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
			if address == "" {
				go func() {
					<-accepted
					io.WriteString(stream, "nothing listens\n")
					stream.Close()
				}()
			}
			return nil
		}
		if address == "" {
			return nil
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		go func() {
			<-accepted
			io.Copy(stream, conn)
			stream.Close()
		}()
		go func() {
			<-accepted
			io.Copy(conn, stream)
			conn.Close()
		}()
		return nil
	})
	if tunnel == nil {
		return
	}
	<-tunnel.CloseChan()
	if s.closed != nil {
		s.closed()
	}
}

func (s *apiServer) open(t *testing.T) *Cluster {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c, err := Open(config(t, server.URL), "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// behind is a Service of a pod.
func behind(namespace, service, pod string, port int) map[string]any {
	return map[string]any{
		"/api/v1/namespaces/" + namespace + "/services/" + service: map[string]any{"spec": map[string]any{"ports": []any{
			map[string]any{"name": "http", "port": port},
		}}},
		"/apis/discovery.k8s.io/v1/namespaces/" + namespace + "/endpointslices": map[string]any{"items": []any{map[string]any{
			"ports":     []any{map[string]any{"name": "http", "port": 8080}},
			"endpoints": []any{map[string]any{"targetRef": map[string]any{"kind": "Pod", "name": pod}}},
		}}},
	}
}

const service, pod = "first.iot.svc.cluster.local:80", "/api/v1/namespaces/iot/pods/first-0"

func TestDial(t *testing.T) {
	subscriber := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	defer subscriber.Close()
	closed := make(chan struct{})
	c := (&apiServer{
		objects: behind("iot", "first", "first-0", 80),
		ports:   map[string]string{pod: subscriber.Listener.Addr().String()},
		closed:  func() { close(closed) },
	}).open(t)
	client := &http.Client{Transport: &http.Transport{DialContext: c.Dial}}
	for _, text := range []string{"one", "two"} { // by one connection
		resp, err := client.Post("http://"+service, "text/plain", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != text || err != nil {
			t.Errorf("answered %q, %v, want %q", got, err, text)
		}
	}
	client.CloseIdleConnections()
	<-closed
}

func TestDialSaysWhatTheKubeletSays(t *testing.T) {
	c := (&apiServer{objects: behind("iot", "first", "first-0", 80)}).open(t)
	conn, err := c.Dial(t.Context(), "tcp", service)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "nothing listens") {
		t.Errorf("Read = %v, want what the kubelet says", err)
	}
}

// client-go upgrades connections without a context: an API server that does not
// answer would hold a command for ever.
func TestDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	goOn, closed := make(chan struct{}), make(chan struct{})
	c := (&apiServer{
		objects: behind("iot", "first", "first-0", 80),
		opening: func() { cancel(); <-goOn },
		closed:  func() { close(closed) },
	}).open(t)
	if conn, err := c.Dial(ctx, "tcp", service); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial = %v, %v, want that it was canceled", conn, err)
	}
	// One that comes too late is closed.
	close(goOn)
	<-closed
}
