package preflight

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/api/googleapi"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
)

// defaultWarehouse is where functions look for the warehouse if nobody says where
// it is. internal/warehouse/connect
const defaultWarehouse = "http://warehouse.platform.svc.cluster.local"

// place is where functions look for the warehouse.
type place struct {
	url        string
	namespaces []string
	configMap  string       // that says so; empty: nobody does
	service    manifest.Ref // where it is in the cluster; zero: elsewhere
	bigquery   *bigquery.Config
	err        error // the URL is none
}

// google says whether the place is BigQuery itself and no emulator.
func (p place) google() bool { return p.bigquery != nil && p.bigquery.Endpoint == "" }

// warehouses gives the places by what functions read as WAREHOUSE_URL. A namespace
// whose ConfigMap was not shown is in none.
func (c *Cluster) warehouses(set manifest.Set) []place {
	const variable = "WAREHOUSE_URL"
	found := map[string]*place{}
	for _, w := range workloads(set) {
		for _, env := range w.pod.Containers[0].Env {
			if env.Name != variable {
				continue
			}
			text, source := env.Value, ""
			if env.ValueFrom != nil && env.ValueFrom.ConfigMapKeyRef != nil {
				ref := env.ValueFrom.ConfigMapKeyRef
				data, err := c.configMap(w.Ref().Namespace, ref.Name)
				if err != nil {
					continue
				}
				if text = data[ref.Key]; text != "" {
					source = ref.Name
				}
			}
			if text == "" {
				text = defaultWarehouse
			}
			p := found[text]
			if p == nil {
				p = &place{url: text, configMap: source}
				p.parse()
				found[text] = p
			}
			if !slices.Contains(p.namespaces, w.Ref().Namespace) {
				p.namespaces = append(p.namespaces, w.Ref().Namespace)
			}
		}
	}
	var all []place
	for _, p := range found {
		slices.Sort(p.namespaces)
		all = append(all, *p)
	}
	slices.SortFunc(all, func(a, b place) int { return strings.Compare(a.url, b.url) })
	return all
}

func (p *place) parse() {
	u, err := url.Parse(p.url)
	switch {
	case err != nil:
		p.err = err
	case u.Scheme == "bigquery":
		config, err := bigquery.ParseURL(p.url)
		if p.err = err; err == nil {
			p.bigquery = &config
			p.service = address(config.Endpoint).Service
		}
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		// A port says nothing of which Service it is.
		p.service = manifest.TargetOf(&url.URL{Scheme: "http", Host: u.Hostname()}).Service
	default:
		p.err = errors.New("want http://HOST, https://HOST or bigquery://PROJECT?location=LOCATION")
	}
}

// Warehouse is what BigQuery answered to who runs this.
type Warehouse struct {
	Project string // empty: it was not asked
	Err     error  // it did not answer
	Query   error  // it runs no query
	Datasets,
	Missing, // datasets that are not there
	Denied, // datasets that are not shown
	Elsewhere []string // datasets in another location than that of the URL
}

// patience is how long BigQuery may take: its client tries again for as long as
// it is let.
const patience = 15 * time.Second

// AskBigQuery asks BigQuery for the datasets of the products, if it is the
// warehouse. Emulators are asked nothing: they are in the cluster.
func (c *Cluster) AskBigQuery(ctx context.Context, set manifest.Set, products []contract.Product) {
	places := c.warehouses(set)
	if at := slices.IndexFunc(places, place.google); at >= 0 {
		c.Warehouse = askBigQuery(ctx, *places[at].bigquery, products)
	}
}

func askBigQuery(ctx context.Context, config bigquery.Config, products []contract.Product) (w Warehouse) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w.Project = config.Project
	client, err := config.NewClient(ctx)
	if err != nil {
		w.Err = err
		return w
	}
	defer client.Close()
	for _, p := range products {
		w.Datasets = append(w.Datasets, p.Schema, p.Schema+contract.InternalSuffix)
	}
	type said struct {
		location string
		err      error
	}
	answers := make([]said, len(w.Datasets))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, name := range w.Datasets {
		group.Go(func() error {
			metadata, err := client.Dataset(name).Metadata(ctx)
			if answers[i].err = err; err == nil {
				answers[i].location = metadata.Location
			}
			return nil
		})
	}
	group.Go(func() error {
		query := client.Query("SELECT 1")
		query.DryRun = true
		_, w.Query = query.Run(ctx)
		return nil
	})
	group.Wait() // what went wrong is in the answers
	for i, a := range answers {
		name := w.Datasets[i]
		switch refusal := (*googleapi.Error)(nil); {
		case a.err == nil && config.Location != "" && !strings.EqualFold(a.location, config.Location):
			w.Elsewhere = append(w.Elsewhere, name+" in "+a.location)
		case a.err == nil:
		case errors.As(a.err, &refusal) && refusal.Code == http.StatusNotFound:
			w.Missing = append(w.Missing, name)
		case errors.As(a.err, &refusal) && refusal.Code == http.StatusForbidden:
			w.Denied = append(w.Denied, name)
		default:
			w.Err = a.err
		}
	}
	return w
}

// warehouse says where functions look for the warehouse, and whether it is there.
func (j *judge) warehouse() {
	const check = "warehouse"
	places := j.c.warehouses(j.set)
	if len(places) > 1 {
		var said []string
		for _, p := range places {
			said = append(said, strings.Join(p.namespaces, ", ")+" at "+p.url)
		}
		j.say(Failing, check, nil, "the namespaces look for the warehouse in different places: "+strings.Join(said, "; "), "kubectl create configmap warehouse -n NAMESPACE --from-literal='url=…' in each namespace, the same URL")
	}
	for _, p := range places {
		object := []string(nil)
		if p.configMap != "" {
			for _, n := range p.namespaces {
				object = append(object, label(kindConfigMap, n, p.configMap))
			}
		}
		switch {
		case p.err != nil:
			j.say(Failing, check, object, fmt.Sprintf("its URL %q is none: %v; no function that names it starts", p.url, p.err), "")
		case p.google():
			j.bigQuery(p)
			j.identities()
		case p.service != (manifest.Ref{}):
			j.inCluster(p)
		default:
			j.say(Unknown, check, object, "the warehouse is at "+p.url+", outside of the cluster: whether pods reach it cannot be seen from here", "")
		}
	}
}

// inCluster judges a warehouse that is a Service of the cluster.
func (j *judge) inCluster(p place) {
	const check = "warehouse"
	object := []string{label(kindService, p.service.Namespace, p.service.Name)}
	u, err := j.c.get(kindService, p.service.Namespace, p.service.Name)
	if err != nil {
		return
	}
	if u == nil {
		says, do := "not there, where ConfigMap "+p.configMap+" says that the warehouse is: sinks and output ports find none", ""
		if p.configMap == "" {
			says = "not there, and no ConfigMap says that the warehouse is elsewhere: sinks and output ports find none"
			do = "run `telemesh warehouse` and let that Service lead to it, or in each namespace: kubectl create configmap warehouse -n NAMESPACE --from-literal='url=bigquery://PROJECT?location=EU'"
		}
		j.say(Missing, check, object, says, do)
		return
	}
	service, err := as[corev1.Service](u)
	if err != nil {
		return
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		j.say(Unknown, check, object, "leads the functions to "+service.Spec.ExternalName+": whether pods reach it cannot be seen from here", "")
		return
	}
	slicesOf, shown := j.c.list(kindEndpointSlice, p.service.Namespace)
	if !shown {
		return
	}
	ready := 0
	for _, u := range slicesOf {
		s, err := as[discoveryv1.EndpointSlice](u)
		if err != nil || s.Labels[discoveryv1.LabelServiceName] != p.service.Name {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready += len(e.Addresses)
			}
		}
	}
	if ready == 0 {
		j.say(Missing, check, object, "has no endpoint that is ready: sinks and output ports find no warehouse",
			fmt.Sprintf("kubectl get endpointslices -n %s -l %s=%s", p.service.Namespace, discoveryv1.LabelServiceName, p.service.Name))
		return
	}
	what := "the warehouse"
	if p.bigquery != nil {
		what = "an emulator of BigQuery"
	}
	j.say(OK, check, object, what+", with "+counted(ready, "endpoint"), "")
}

// bigQuery says what BigQuery answered.
func (j *judge) bigQuery(p place) {
	const (
		check = "bigquery"
		whose = "; this is what you reach from this machine, and says nothing of the pods"
	)
	w := j.c.Warehouse
	switch {
	case w.Project == "":
		j.say(Unknown, check, nil, "BigQuery was not asked for the datasets", "")
		return
	case w.Err != nil:
		j.say(Unknown, check, nil, "BigQuery of project "+w.Project+" gave no answer: "+w.Err.Error()+whose, "gcloud auth application-default login")
		return
	}
	if w.Missing != nil {
		j.say(Missing, check, nil, fmt.Sprintf("project %s has no dataset %s", w.Project, several(w.Missing, shownObjects)), "telemesh apply --project "+w.Project)
	}
	if w.Elsewhere != nil {
		j.say(Failing, check, nil, fmt.Sprintf("WAREHOUSE_URL says location %s, and there is %s: queries find nothing there", p.bigquery.Location, several(w.Elsewhere, shownObjects)), "")
	}
	if w.Denied != nil {
		j.say(Unknown, check, nil, fmt.Sprintf("you may not see dataset %s of project %s", several(w.Denied, shownObjects), w.Project), "")
	}
	if w.Query != nil {
		j.say(Unknown, check, nil, "a dry run of a query in project "+w.Project+" is refused: "+w.Query.Error(), "")
	}
	if w.Missing == nil && w.Elsewhere == nil && w.Denied == nil && w.Query == nil {
		j.say(OK, check, nil, fmt.Sprintf("project %s has all %s%s", w.Project, counted(len(w.Datasets), "dataset"), whose), "")
	}
}

// googleAccount is the annotation by which GKE knows who a pod is to Google.
const googleAccount = "iam.gke.io/gcp-service-account"

// identities judges who the functions are to BigQuery.
func (j *judge) identities() {
	const do = "docs/deploy-bigquery.md#who-the-functions-are: each takes the annotation " + googleAccount + ", and of its product's account the role roles/iam.workloadIdentityUser"
	var without []string
	labelled := 0
	for _, a := range j.set.Accounts {
		u, err := j.c.get(kindAccount, a.Namespace, a.Name)
		if err != nil || u == nil || u.GetLabels()[manifest.Product] == "" {
			continue
		}
		labelled++
		if u.GetAnnotations()[googleAccount] == "" {
			without = append(without, label(kindAccount, a.Namespace, a.Name))
		}
	}
	if without == nil {
		if labelled > 0 {
			j.say(OK, "bigquery", nil, counted(labelled, "ServiceAccount")+" annotated with accounts of Google; whether Google lets them be these (roles/iam.workloadIdentityUser) cannot be seen from here", "")
		}
		return
	}
	if strings.Contains(j.c.Version.GitVersion, "-gke.") {
		j.say(Missing, "bigquery", without, "stands for no account of Google: its pods are nobody to BigQuery", do)
		return
	}
	j.say(Warning, "bigquery", without, "stands for no account of Google, as it has to on GKE. How pods show BigQuery elsewhere who they are cannot be seen from here", do)
}
