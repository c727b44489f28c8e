package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// dialWithin bounds what the API server may take for a connection: http.Transport
// goes on with it when the request that it is for has ended.
const dialWithin = 30 * time.Second

// Dial connects to a Service by its address in the cluster,
// NAME.NAMESPACE.svc.cluster.local:PORT: through the API server, to a pod behind
// it that is ready. It is a DialContext of http.Transport; its connections know
// no deadlines.
func (c *Cluster) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialWithin, fmt.Errorf("no connection within %v", dialWithin))
	defer cancel()
	namespace, pod, port, err := c.podOf(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	conn, err := c.forward(ctx, namespace, pod, port)
	if err != nil {
		return nil, fmt.Errorf("connect to %s by pod %s/%s: %w", address, namespace, pod, err)
	}
	return conn, nil
}

// podOf finds a pod that is ready behind the address of a Service, and its port.
func (c *Cluster) podOf(ctx context.Context, address string) (namespace, pod string, port int32, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", "", 0, err
	}
	wanted, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return "", "", 0, fmt.Errorf("port %q: %w", text, err)
	}
	names := strings.Split(host, ".")
	if len(names) < 3 || names[2] != "svc" {
		return "", "", 0, errors.New("it is no address of a Service, NAME.NAMESPACE.svc.cluster.local")
	}
	namespace = names[1]
	service, err := c.Kubernetes.CoreV1().Services(namespace).Get(ctx, names[0], metav1.GetOptions{})
	if err != nil {
		return "", "", 0, err
	}
	var portName *string
	for i, p := range service.Spec.Ports {
		if p.Port == int32(wanted) {
			portName = &service.Spec.Ports[i].Name
		}
	}
	if portName == nil {
		return "", "", 0, fmt.Errorf("no port %d of Service %s/%s", wanted, namespace, names[0])
	}
	slices, err := c.Kubernetes.DiscoveryV1().EndpointSlices(namespace).List(ctx,
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + names[0]})
	if err != nil {
		return "", "", 0, err
	}
	for _, slice := range slices.Items {
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name == nil || *p.Name != *portName {
				continue
			}
			for _, e := range slice.Endpoints {
				if (e.Conditions.Ready == nil || *e.Conditions.Ready) && e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
					return namespace, e.TargetRef.Name, *p.Port, nil
				}
			}
		}
	}
	return "", "", 0, fmt.Errorf("no pod behind Service %s/%s is ready", namespace, names[0])
}

// forward opens a connection to a port of a pod.
func (c *Cluster) forward(ctx context.Context, namespace, pod string, port int32) (net.Conn, error) {
	type opened struct {
		conn *podConn
		err  error
	}
	done := make(chan opened, 1)
	go func() {
		conn, err := c.tunnel(namespace, pod, port)
		done <- opened{conn, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return nil, o.err
		}
		return o.conn, nil
	case <-ctx.Done():
		go func() {
			if o := <-done; o.err == nil { // nobody waits for it any more
				o.conn.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// tunnel opens a connection to a port of a pod, as kubectl port-forward does,
// without a port of this machine in between. It takes as long as the API server
// does: what client-go upgrades a connection with knows no context.
func (c *Cluster) tunnel(namespace, pod string, port int32) (*podConn, error) {
	url := c.Kubernetes.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.Config)
	if err != nil {
		return nil, err
	}
	overWebsocket, err := portforward.NewSPDYOverWebsocketDialer(url, c.Config)
	if err != nil {
		return nil, err
	}
	dialer := portforward.NewFallbackDialer(overWebsocket, spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url),
		func(err error) bool { return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err) })
	tunnel, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	header.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	header.Set(corev1.PortForwardRequestIDHeader, "0")
	header.Set(corev1.StreamType, corev1.StreamTypeError)
	faults, err := tunnel.CreateStream(header)
	if err != nil {
		return nil, errors.Join(err, tunnel.Close())
	}
	faults.Close() // nothing is written to it
	header.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := tunnel.CreateStream(header)
	if err != nil {
		return nil, errors.Join(err, tunnel.Close())
	}
	conn := &podConn{Stream: data, tunnel: tunnel, pod: pod}
	go conn.watch(faults)
	return conn, nil
}

// podConn is a connection to a port of a pod.
type podConn struct {
	httpstream.Stream
	tunnel httpstream.Connection
	pod    string

	mu    sync.Mutex
	fault error // what the kubelet says of the pod
}

// watch ends the connection when the kubelet cannot keep it.
func (c *podConn) watch(faults io.Reader) {
	said, err := io.ReadAll(faults)
	if err != nil || len(said) == 0 {
		return
	}
	c.mu.Lock()
	c.fault = fmt.Errorf("pod %s: %s", c.pod, strings.TrimSpace(string(said)))
	c.mu.Unlock()
	c.tunnel.Close()
}

func (c *podConn) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	return n, c.explain(err)
}

func (c *podConn) Write(b []byte) (int, error) {
	n, err := c.Stream.Write(b)
	return n, c.explain(err)
}

func (c *podConn) explain(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.fault != nil {
		return c.fault
	}
	return err
}

func (c *podConn) Close() error {
	return errors.Join(c.Stream.Reset(), c.tunnel.Close())
}

func (c *podConn) LocalAddr() net.Addr              { return podAddr("") }
func (c *podConn) RemoteAddr() net.Addr             { return podAddr(c.pod) }
func (c *podConn) SetDeadline(time.Time) error      { return nil }
func (c *podConn) SetReadDeadline(time.Time) error  { return nil }
func (c *podConn) SetWriteDeadline(time.Time) error { return nil }

type podAddr string

func (podAddr) Network() string  { return "pod" }
func (a podAddr) String() string { return string(a) }
