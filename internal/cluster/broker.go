package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/telemesh/telemesh/internal/manifest"
)

// Broker is a Broker of a cluster as it is reached from outside.
type Broker struct {
	URL    string
	Client *http.Client // without a timeout: some Brokers answer when all is delivered
}

// Close ends the connections that no request uses.
func (b *Broker) Close() { b.Client.CloseIdleConnections() }

var (
	brokers  = schema.GroupVersionResource{Group: "eventing.knative.dev", Version: "v1", Resource: "brokers"}
	triggers = schema.GroupVersionResource{Group: "eventing.knative.dev", Version: "v1", Resource: "triggers"}
)

// Broker opens the way to a Broker, through the API server. One that asks who posts
// is shown tokens of account.
func (c *Cluster) Broker(ctx context.Context, broker, account manifest.Ref) (*Broker, error) {
	object, err := c.Dynamic.Resource(brokers).Namespace(broker.Namespace).Get(ctx, broker.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Broker %s: %w", broker, err)
	}
	address := func(name string) string {
		text, _, _ := unstructured.NestedString(object.Object, "status", "address", name)
		return text
	}
	b := &Broker{URL: address("url")}
	if b.URL == "" {
		return nil, fmt.Errorf("no address of Broker %s: is it ready?", broker)
	}
	transport := &http.Transport{DialContext: c.Dial}
	if authority := address("CACerts"); authority != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(authority)) {
			return nil, fmt.Errorf("no certificates in status.address.CACerts of Broker %s", broker)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	b.Client = &http.Client{Transport: transport}
	if audience := address("audience"); audience != "" {
		shown := &bearer{Transport: transport, ask: func(ctx context.Context) (string, error) { return c.token(ctx, account, audience) }}
		// Whoever may not have one is told before anything is posted.
		if _, err := shown.current(ctx); err != nil {
			return nil, err
		}
		b.Client.Transport = shown
	}
	return b, nil
}

// ErrOtherEvents says that a Trigger is there already, for other events.
var ErrOtherEvents = errors.New("it is there, for other events")

// ApplyTrigger makes a Trigger what it is to be, as kubectl apply --server-side
// does, in the name of telemesh. One of that name with other filters stays as it is,
// which is ErrOtherEvents: who reads its events would lose them.
func (c *Cluster) ApplyTrigger(ctx context.Context, trigger *unstructured.Unstructured) error {
	all := c.Dynamic.Resource(triggers).Namespace(trigger.GetNamespace())
	there, err := all.Get(ctx, trigger.GetName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		err = nil
	case err == nil && !equality.Semantic.DeepEqual(filters(there), filters(trigger)):
		err = ErrOtherEvents
	}
	if err == nil {
		_, err = all.Apply(ctx, trigger.GetName(), trigger, metav1.ApplyOptions{FieldManager: "telemesh"})
	}
	if err != nil {
		return fmt.Errorf("apply Trigger %s/%s: %w", trigger.GetNamespace(), trigger.GetName(), err)
	}
	return nil
}

func filters(trigger *unstructured.Unstructured) []any {
	list, _, _ := unstructured.NestedSlice(trigger.Object, "spec", "filters")
	return list
}

// Subscribers gives where the Triggers of a namespace lead, by their names; empty:
// nowhere yet.
func (c *Cluster) Subscribers(ctx context.Context, namespace string) (map[string]string, error) {
	list, err := c.Dynamic.Resource(triggers).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Triggers of namespace %s: %w", namespace, err)
	}
	out := map[string]string{}
	for _, t := range list.Items {
		out[t.GetName()], _, _ = unstructured.NestedString(t.Object, "status", "subscriberUri")
	}
	return out, nil
}

// tokenLife is the shortest that Kubernetes gives.
const tokenLife = 10 * time.Minute

// token asks for a token of an account.
func (c *Cluster) token(ctx context.Context, account manifest.Ref, audience string) (string, error) {
	seconds := int64(tokenLife / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &seconds}}
	answer, err := c.Kubernetes.CoreV1().ServiceAccounts(account.Namespace).CreateToken(ctx, account.Name, request, metav1.CreateOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return "", fmt.Errorf("the Broker asks who posts, and you may not make tokens of ServiceAccount %s: %w", account, err)
	case err != nil:
		return "", fmt.Errorf("make token of ServiceAccount %s: %w", account, err)
	case answer.Status.Token == "":
		return "", fmt.Errorf("make token of ServiceAccount %s: the cluster gave an empty one", account)
	}
	return answer.Status.Token, nil
}

// bearer shows a token with each request, another one before it ends.
type bearer struct {
	*http.Transport
	ask func(context.Context) (string, error)

	mu    sync.Mutex
	token string
	asked time.Time
}

func (b *bearer) current(ctx context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.token != "" && time.Since(b.asked) < tokenLife/2 {
		return b.token, nil
	}
	asked := time.Now()
	token, err := b.ask(ctx)
	if err != nil {
		return "", err
	}
	b.token, b.asked = token, asked
	return token, nil
}

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := b.current(r.Context())
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	with := r.Clone(r.Context()) // a RoundTripper must not change its request
	with.Header.Set("Authorization", "Bearer "+token)
	return b.Transport.RoundTrip(with)
}
