package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/internal/cluster"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
)

// clusterBrokers is how the Brokers of a cluster are reached from outside: at an
// address, or through the cluster's API server. It is used from several goroutines.
type clusterBrokers struct {
	address             string // of their ingress; empty: through the cluster
	kubeconfig, context string
	manifests           string // that the mesh was deployed from; of an address

	mu      sync.Mutex
	cluster *cluster.Cluster // once it was asked
	brokers map[string]*cluster.Broker
}

func (c *clusterBrokers) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.address, "brokers", "", "with --warehouse: address of an ingress whose Brokers ask nobody for a token, as http://localhost:8080 of a port-forward (default: through the cluster)")
	cmd.Flags().StringVar(&c.kubeconfig, "kubeconfig", "", "with --warehouse: file that names the cluster (default: KUBECONFIG, or ~/.kube/config)")
	cmd.Flags().StringVar(&c.context, "context", "", "with --warehouse: context of the kubeconfig (default: its current one)")
}

// poster is the account that Brokers let in for this: it posts there anyway.
var poster = manifest.Ref{Namespace: "platform", Name: "dead-letter-sink"}

const otherwise = "--kubeconfig and --context name the cluster and who asks it; Brokers that ask nobody are reached at --brokers, too"

// post hands an event over to the Broker of a namespace, which has its name.
func (c *clusterBrokers) post(ctx context.Context, namespace string, e event.Event) error {
	broker := manifest.Ref{Namespace: namespace, Name: namespace}
	if c.address != "" {
		u, err := c.ingress()
		if err != nil {
			return err
		}
		err = function.PostPatiently(ctx, http.DefaultClient, u.JoinPath(namespace, namespace).String(), e)
		if function.IsRefused(err) {
			return hint(fmt.Errorf("post to Broker %s: status %d: it asks who posts, and --brokers shows it nobody", broker, function.Status(err)),
				"leave --brokers out: through the cluster it is shown ServiceAccount %s", poster)
		}
		return err
	}
	b, err := c.open(ctx, broker)
	if err != nil {
		return hint(err, otherwise)
	}
	err = function.PostPatiently(ctx, b.Client, b.URL, e)
	if function.IsRefused(err) {
		return hint(fmt.Errorf("post to Broker %s: status %d: it does not let ServiceAccount %s post %s", broker, function.Status(err), poster, e.Type()),
			"an EventPolicy of that Broker lets it, as those in config/overlays/secure do")
	}
	return err
}

func (c *clusterBrokers) ingress() (*url.URL, error) {
	u, err := url.Parse(c.address)
	if err != nil || u.Host == "" {
		return nil, hint(fmt.Errorf("--brokers %q is no address", c.address), "for example --brokers http://localhost:8080")
	}
	return u, nil
}

// leads gives where the Triggers of namespaces lead: as the cluster says, or where
// that is not asked, the manifests.
func (c *clusterBrokers) leads(ctx context.Context, namespaces []string) (deadletter.Leads, error) {
	if c.address != "" {
		if _, err := c.ingress(); err != nil {
			return nil, err
		}
		set, err := loadManifests(c.manifests)
		return leadsOf(set), err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.connect(); err != nil {
		return nil, hint(err, otherwise)
	}
	out := deadletter.Leads{}
	for _, namespace := range namespaces {
		var err error
		if out[namespace], err = c.cluster.Subscribers(ctx, namespace); err != nil {
			return nil, hint(err, otherwise)
		}
	}
	return out, nil
}

func (c *clusterBrokers) connect() (err error) {
	if c.cluster == nil {
		c.cluster, err = cluster.Open(c.kubeconfig, c.context)
	}
	return err
}

func (c *clusterBrokers) open(ctx context.Context, broker manifest.Ref) (*cluster.Broker, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.brokers[broker.Namespace]; b != nil {
		return b, nil
	}
	if err := c.connect(); err != nil {
		return nil, err
	}
	b, err := c.cluster.Broker(ctx, broker, poster)
	if err != nil {
		return nil, err
	}
	if c.brokers == nil {
		c.brokers = map[string]*cluster.Broker{}
	}
	c.brokers[broker.Namespace] = b
	return b, nil
}

func (c *clusterBrokers) close() {
	for _, b := range c.brokers {
		b.Close()
	}
}
