// Package cluster opens a Kubernetes cluster as kubectl does, for commands that
// look at one or speak with what runs in it from outside.
package cluster

import (
	"fmt"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is a cluster, and who asks it.
type Cluster struct {
	Context    string // of the kubeconfig; empty: the process runs in the cluster
	Config     *rest.Config
	Kubernetes kubernetes.Interface
	Dynamic    dynamic.Interface
}

// Open reads how to reach a cluster: from kubeconfig, or if that is empty from
// the files that KUBECONFIG names, else ~/.kube/config, else from the pod that the
// process runs in. context is one of the kubeconfig; empty: its current one. It
// does not connect.
func Open(kubeconfig, context string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context})
	config, err := loaded.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	// A command asks many things at once; those of client-go are for controllers.
	config.QPS, config.Burst = 50, 100
	c := &Cluster{Context: context, Config: config}
	if raw, err := loaded.RawConfig(); err == nil && context == "" {
		c.Context = raw.CurrentContext
	}
	if c.Kubernetes, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("open cluster %s: %w", config.Host, err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("open cluster %s: %w", config.Host, err)
	}
	return c, nil
}
