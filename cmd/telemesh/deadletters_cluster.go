package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/telemesh/telemesh/internal/cluster"
)

// clusterBrokers is how the Brokers of a cluster are reached from outside: at an
// address, or through the cluster's API server.
type clusterBrokers struct {
	address             string // of their ingress; empty: through the cluster
	kubeconfig, context string

	cluster *cluster.Cluster // once it was asked
	brokers map[string]*clusterBroker
}

func (c *clusterBrokers) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.address, "brokers", "", "with --warehouse: address of the Brokers' ingress, as http://localhost:8080 of a port-forward (default: through the cluster)")
	cmd.Flags().StringVar(&c.kubeconfig, "kubeconfig", "", "with --warehouse: file that names the cluster (default: KUBECONFIG, or ~/.kube/config)")
	cmd.Flags().StringVar(&c.context, "context", "", "with --warehouse: context of the kubeconfig (default: its current one)")
}

// post hands an event over to the Broker of a namespace, which has its name.
func (c *clusterBrokers) post(ctx context.Context, namespace string, e event.Event) error {
	if c.address != "" {
		u, err := url.Parse(c.address)
		if err != nil || u.Host == "" {
			return hint(fmt.Errorf("--brokers %q is no address", c.address), "for example --brokers http://localhost:8080")
		}
		return postPatiently(ctx, http.DefaultClient, u.JoinPath(namespace, namespace).String(), e)
	}
	b, err := c.broker(ctx, namespace)
	if err != nil {
		return hint(err, "--kubeconfig and --context name the cluster; or give --brokers the address of the Brokers' ingress")
	}
	return postPatiently(ctx, b.client, b.url, e)
}

// clusterBroker is a Broker of a cluster that is reached through its API server.
type clusterBroker struct {
	url    string
	client *http.Client
}

var brokerResource = schema.GroupVersionResource{Group: "eventing.knative.dev", Version: "v1", Resource: "brokers"}

func (c *clusterBrokers) broker(ctx context.Context, namespace string) (*clusterBroker, error) {
	if b := c.brokers[namespace]; b != nil {
		return b, nil
	}
	var err error
	if c.cluster == nil {
		if c.cluster, err = cluster.Open(c.kubeconfig, c.context); err != nil {
			return nil, err
		}
	}
	object, err := c.cluster.Dynamic.Resource(brokerResource).Namespace(namespace).Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Broker %s/%s: %w", namespace, namespace, err)
	}
	status := func(name string) string {
		text, _, _ := unstructured.NestedString(object.Object, "status", "address", name)
		return text
	}
	b := &clusterBroker{url: status("url")}
	if b.url == "" {
		return nil, fmt.Errorf("no address of Broker %s/%s: is it ready?", namespace, namespace)
	}
	transport := &http.Transport{DialContext: c.cluster.Dial}
	if authority := status("CACerts"); authority != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(authority)) {
			return nil, fmt.Errorf("no certificates in status.address.CACerts of Broker %s/%s", namespace, namespace)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	b.client = &http.Client{Transport: transport, Timeout: time.Minute}
	if audience := status("audience"); audience != "" {
		token, err := c.token(ctx, audience)
		if err != nil {
			return nil, err
		}
		b.client.Transport = bearer{transport, token}
	}
	if c.brokers == nil {
		c.brokers = map[string]*clusterBroker{}
	}
	c.brokers[namespace] = b
	return b, nil
}

// The account that Brokers let in for this: it posts there anyway.
const sinkNamespace, sinkAccount = "platform", "dead-letter-sink"

// token is one of dead-letter-sink, by which a Broker that asks who posts lets the
// request in.
func (c *clusterBrokers) token(ctx context.Context, audience string) (string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}}}
	answer, err := c.cluster.Kubernetes.CoreV1().ServiceAccounts(sinkNamespace).CreateToken(ctx, sinkAccount, request, metav1.CreateOptions{})
	if apierrors.IsForbidden(err) {
		return "", fmt.Errorf("the Brokers ask who posts, and you may not make tokens of ServiceAccount %s/%s: %w", sinkNamespace, sinkAccount, err)
	}
	if err != nil {
		return "", fmt.Errorf("token of ServiceAccount %s/%s: %w", sinkNamespace, sinkAccount, err)
	}
	if answer.Status.Token == "" {
		return "", errors.New("the cluster gave an empty token")
	}
	return answer.Status.Token, nil
}

// bearer shows a token with each request.
type bearer struct {
	next  http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	with := r.Clone(r.Context())
	with.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(with)
}
