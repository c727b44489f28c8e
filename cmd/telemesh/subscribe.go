package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/cluster"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/scaffold"
	"github.com/telemesh/telemesh/internal/topology"
)

// subscriber is what telemesh subscribe is told.
type subscriber struct {
	dir, name, trigger, namespace, tenant, project, member string
	apply                                                  bool
	kubeconfig, context                                    string
}

func subscribeCommand() *cobra.Command {
	var s subscriber
	cmd := &cobra.Command{
		Use:   "subscribe PORT",
		Short: "Become a consumer of an output port: a Trigger for events, a grant for SQL",
		Long: `Prints what makes you a consumer of an output port, and records you in the
descriptor of its product: name, day and version of the port. From then on telemesh
check tells who would lose what by a change.

For events it is a Trigger that wakes the Service --as. --apply writes it into
triggers/ of the folder, or with --kubeconfig or --context applies it to a cluster.
For a table or a view it is the grant that opens the port in BigQuery to --as, for
you to run there: which rows it shows is said to telemesh apply (--access). On one
machine everybody reads all.`,
		Example: `  telemesh subscribe dev.telemesh.telemetry.enriched.v1 --as alarm --apply
  telemesh subscribe iot_analytics.co2_evolution --as energy-report --member user:ann@example.org`,
		Args: arguments(cobra.ExactArgs(1), "the name of an output port: a table, a view or the type of events"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.subscribe(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args[0])
		},
	}
	dirFlag(cmd, &s.dir)
	flags := cmd.Flags()
	flags.StringVar(&s.name, "as", "", "who reads: of events the Service that they wake")
	flags.StringVar(&s.trigger, "trigger", "", "of events: name of the Trigger (default: --as); a Service that reads several ports has one for each")
	flags.StringVar(&s.namespace, "namespace", "", "of events: namespace of the Service (default: where the folder has it, or that of the Broker)")
	flags.StringVar(&s.tenant, "tenant", "", "of events that say whose they are: those of this tenant alone")
	flags.StringVar(&s.project, "project", "", "of SQL: Google Cloud project of the port")
	flags.StringVar(&s.member, "member", "", "of SQL: who is let in, as user:ann@example.org (default: the service account --as of the project)")
	flags.BoolVar(&s.apply, "apply", false, "of events: write the Trigger into the folder, or apply it to the cluster of --kubeconfig or --context")
	flags.StringVar(&s.kubeconfig, "kubeconfig", "", "with --apply: file that names a cluster")
	flags.StringVar(&s.context, "context", "", "with --apply: context of the kubeconfig")
	return cmd
}

// memberName is who a grant may be to.
// https://cloud.google.com/bigquery/docs/reference/standard-sql/data-control-language#user_list
var memberName = regexp.MustCompile(`^((user|group|serviceAccount|domain):[^\s"\\]+|(principal|principalSet)://[^\s"\\]+|specialGroup:[A-Za-z]+)$`)

func (s *subscriber) subscribe(ctx context.Context, out, errs io.Writer, name string) error {
	if err := scaffold.CheckName("--as", s.name); err != nil {
		return hint(err, "--as names who reads: of events the Service that they wake")
	}
	if err := scaffold.CheckName("--trigger", cmp.Or(s.trigger, s.name)); err != nil {
		return err
	}
	if s.member != "" && !memberName.MatchString(s.member) {
		return hint(fmt.Errorf("--member %q: want what it is and its name", s.member), "for example user:ann@example.org, group:…, serviceAccount:… or domain:…")
	}
	all, err := readProducts(filepath.Join(s.dir, "products"))
	if err != nil {
		return hint(err, "--dir names the folder of the mesh: with brokers/, triggers/, config/ and products/")
	}
	set, err := loadManifests(s.dir)
	if err != nil {
		return err
	}
	mesh, err := set.Topology()
	if err != nil {
		return err
	}
	c, err := catalog.New(all, mesh)
	if err != nil {
		return err
	}
	port := c.Port(name)
	if port == nil {
		var names []string
		for _, p := range c.Products {
			for _, port := range p.Ports {
				names = append(names, port.Name)
			}
		}
		return hint(fmt.Errorf("there is no output port %s", name), "there are %s", strings.Join(names, ", "))
	}
	if s.tenant != "" && port.Kind == catalog.Event && port.Port.Tenant == "" {
		return hint(fmt.Errorf("--tenant: events of %s do not say whose they are: all of them would come", port.Name), "leave out --tenant; a tenantAttribute in the descriptor names the attribute that says it")
	}
	text, err := s.text(port, set)
	if err != nil {
		return err
	}
	fmt.Fprint(out, text)
	written := ""
	switch toCluster := s.kubeconfig+s.context != ""; {
	case !s.apply:
	case port.Kind != catalog.Event:
		return hint(errors.New("--apply is of events: a grant is run in BigQuery"), "leave out --apply, and run what is printed, for example by `bq query --use_legacy_sql=false`")
	case toCluster:
		if err := s.toCluster(ctx, text); err != nil {
			return err
		}
	default:
		written = text
	}
	report, err := scaffold.Subscribe(s.dir, port.Product.Name, port.Name, cmp.Or(s.trigger, s.name),
		contract.Reader{Name: s.name, Since: time.Now().UTC().Format(time.DateOnly), Version: port.Version}, written)
	if written != "" {
		err = hint(err, "a Service that reads several ports has a Trigger for each: --trigger names it")
	}
	if service := s.service(port, set); port.Kind == catalog.Event && set.Service(manifest.Ref(service)) == nil {
		report.Next = append(report.Next, fmt.Sprintf("make Service %s: until it is there what the Trigger brings becomes dead letters", service))
	}
	return listWritten(errs, s.dir, report, err)
}

// text is what makes the subscriber a consumer.
func (s *subscriber) text(port *catalog.Port, set manifest.Set) (string, error) {
	if port.Kind != catalog.Event {
		member := s.member
		if member == "" {
			project := s.project
			if project == "" {
				project = "PROJECT"
			}
			member = "serviceAccount:" + s.name + "@" + project + ".iam.gserviceaccount.com"
		}
		return port.Grant(s.project, member), nil
	}
	if len(port.Brokers) == 0 {
		return "", hint(fmt.Errorf("no Broker has events of type %s", port.Name), "see `telemesh check --manifests %s`", s.dir)
	}
	// Where several have them, the first is the one that they are made on.
	return port.Subscription(cmp.Or(s.trigger, s.name), port.Brokers[0], s.tenant, s.service(port, set)), nil
}

// service is who is woken by events.
func (s *subscriber) service(port *catalog.Port, set manifest.Set) topology.Ref {
	namespace := s.namespace
	if at := slices.IndexFunc(set.Services, func(one *manifest.Service) bool { return one.Ref().Name == s.name }); namespace == "" && at >= 0 {
		namespace = set.Services[at].Ref().Namespace
	}
	if namespace == "" && len(port.Brokers) > 0 {
		namespace = port.Brokers[0].Namespace
	}
	return topology.Ref{Namespace: namespace, Name: s.name}
}

func (s *subscriber) toCluster(ctx context.Context, text string) error {
	var trigger unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &trigger.Object); err != nil {
		return err
	}
	c, err := cluster.Open(s.kubeconfig, s.context)
	if err != nil {
		return hint(err, otherwise)
	}
	err = c.ApplyTrigger(ctx, &trigger)
	if errors.Is(err, cluster.ErrOtherEvents) {
		return hint(err, "--trigger names another one; or delete it")
	}
	return hint(err, "the account of the kubeconfig has to be allowed to patch triggers of namespace %s", trigger.GetNamespace())
}
