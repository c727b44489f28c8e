package cloud

import (
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// feeds is a project whose BigQuery is as wanted and whose Pub/Sub is a fake.
func feeds(t *testing.T) (*Project, *pstest.Server) {
	t.Helper()
	server := pstest.NewServer()
	t.Cleanup(func() { server.Close() })
	conn, err := grpc.NewClient(server.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	client, err := pubsub.NewClient(t.Context(), "acme", option.WithGRPCConn(conn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	p := project(t, nil)
	p.config.Pubsub = client
	return p, server
}

func planFeeds(t *testing.T, p *Project) *Plan {
	t.Helper()
	w, err := p.want()
	if err != nil {
		t.Fatal(err)
	}
	have := *w.state
	have.topics, have.subscriptions = map[string]*pubsubpb.Topic{}, map[string]*pubsubpb.Subscription{}
	if err := p.readFeeds(t.Context(), &have); err != nil {
		t.Fatal(err)
	}
	plan, err := p.compare(w, &have)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func applyFeeds(t *testing.T, p *Project) {
	t.Helper()
	if err := p.Apply(t.Context(), planFeeds(t, p), func(Step) {}); err != nil {
		t.Fatal(err)
	}
	if again := planFeeds(t, p); !again.Empty() {
		t.Fatalf("after apply there is left to do: %+v", again.Steps)
	}
}

func names(p *Plan) []string {
	var names []string
	for _, s := range p.Steps {
		for _, c := range s.Changes {
			name := string(c.Action) + " " + c.Kind + " " + c.Name
			for _, f := range c.Fields {
				if c.Action == Modify {
					name += ", " + f.Name + ": " + f.Old + " → " + f.New
				}
			}
			names = append(names, name)
		}
	}
	return names
}

func TestFeedsArePulled(t *testing.T) {
	p, server := feeds(t)
	want := []string{"create topic telemetry", "create topic telemetry-dead-letters", "create subscription pubsub-source", "create subscription telemetry-dead-letters"}
	plan := planFeeds(t, p)
	if diff := cmp.Diff(want, names(plan)); diff != "" {
		t.Errorf("first plan (-want +got):\n%s", diff)
	}
	if !strings.Contains(strings.Join(plan.Notes, "\n"), "subscription telemetry-ingest is not made") {
		t.Errorf("the notes %q do not say what is not made", plan.Notes)
	}
	applyFeeds(t, p)
	s, err := server.GServer.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: "projects/acme/subscriptions/pubsub-source"})
	if err != nil {
		t.Fatal(err)
	}
	if s.DeadLetterPolicy.GetDeadLetterTopic() != "projects/acme/topics/telemetry-dead-letters" || s.PushConfig.GetPushEndpoint() != "" ||
		s.ExpirationPolicy == nil || s.ExpirationPolicy.Ttl != nil || s.AckDeadlineSeconds != 60 || s.MessageRetentionDuration.AsDuration() != 168*time.Hour {
		t.Errorf("the subscription is %v", s)
	}
}

func TestFeedsArePushed(t *testing.T) {
	p, server := feeds(t)
	p.config.PushEndpoint = "https://ingest.example.org/v1/pubsub"
	applyFeeds(t, p)
	const name = "projects/acme/subscriptions/telemetry-ingest"
	get := func() *pubsubpb.Subscription {
		s, err := server.GServer.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: name})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if token := get().PushConfig.GetOidcToken(); token.GetServiceAccountEmail() != "iot-telemetry@acme.iam.gserviceaccount.com" || token.GetAudience() != p.config.PushEndpoint {
		t.Errorf("it is pushed with the token %v", token)
	}
	if _, err := server.GServer.GetSubscription(t.Context(), &pubsubpb.GetSubscriptionRequest{Subscription: "projects/acme/subscriptions/pubsub-source"}); err == nil {
		t.Error("messages are pulled as well as pushed: each would come twice")
	}

	// What somebody changed by hand is shown and mended.
	_, err := server.GServer.UpdateSubscription(t.Context(), &pubsubpb.UpdateSubscriptionRequest{
		Subscription: &pubsubpb.Subscription{Name: name, AckDeadlineSeconds: 10, Labels: map[string]string{managedBy: telemesh, "cost": "1"},
			PushConfig: &pubsubpb.PushConfig{PushEndpoint: "https://elsewhere.example"}, ExpirationPolicy: &pubsubpb.ExpirationPolicy{Ttl: durationpb.New(48 * time.Hour)}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"ack_deadline_seconds", "push_config", "expiration_policy", "labels"}}})
	if err != nil {
		t.Fatal(err)
	}
	drift := "change subscription telemetry-ingest, ack deadline: 10 s → 60 s, expires unread after: 2 days → never" +
		", pushed to: https://elsewhere.example → https://ingest.example.org/v1/pubsub" +
		", pushed as:  → iot-telemetry@acme.iam.gserviceaccount.com for https://ingest.example.org/v1/pubsub" +
		", label domain:  → iot, label owner:  → iot-team, label product:  → iot-telemetry, label version:  → 1-0-0"
	if diff := cmp.Diff([]string{drift}, names(planFeeds(t, p))); diff != "" {
		t.Errorf("drift (-want +got):\n%s", diff)
	}
	applyFeeds(t, p)
	if got := get().Labels["cost"]; got != "1" {
		t.Errorf("the label of somebody else is %q, want it left", got)
	}

	// Without the flag the endpoint stays.
	p.config.PushEndpoint = ""
	if plan := planFeeds(t, p); !plan.Empty() || len(plan.Left) > 0 {
		t.Errorf("without --push-endpoint the plan is %v, left %v", names(plan), plan.Left)
	}
}

// Who stops a subscription by taking its endpoint away loses no messages.
func TestStoppedPush(t *testing.T) {
	p, server := feeds(t)
	const endpoint = "https://ingest.example.org/v1/pubsub"
	p.config.PushEndpoint = endpoint
	applyFeeds(t, p)
	_, err := server.GServer.UpdateSubscription(t.Context(), &pubsubpb.UpdateSubscriptionRequest{
		Subscription: &pubsubpb.Subscription{Name: "projects/acme/subscriptions/telemetry-ingest", PushConfig: &pubsubpb.PushConfig{}},
		UpdateMask:   &fieldmaskpb.FieldMask{Paths: []string{"push_config"}}})
	if err != nil {
		t.Fatal(err)
	}
	// Nor are those of one that pulls lost, where it is there.
	if _, err := server.GServer.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: "projects/acme/subscriptions/pubsub-source",
		Topic: "projects/acme/topics/telemetry", Labels: map[string]string{managedBy: telemesh}}); err != nil {
		t.Fatal(err)
	}
	p.config.PushEndpoint, p.config.Destroy = "", true
	plan := planFeeds(t, p)
	if !plan.Empty() || len(plan.Left)+len(plan.Refused) > 0 {
		t.Errorf("the plan is %v, left %v, refused %v", names(plan), plan.Left, plan.Refused)
	}
	if !strings.Contains(strings.Join(plan.Notes, "\n"), "subscription telemetry-ingest is left, with the messages that wait in it") {
		t.Errorf("the notes %q do not name it", plan.Notes)
	}
	p.config.PushEndpoint, p.config.Destroy = endpoint, false
	if got := names(planFeeds(t, p)); len(got) != 1 || !strings.Contains(got[0], "pushed to:  → "+endpoint) {
		t.Errorf("with the endpoint the plan is %q", got)
	}
}

func TestFeedsThatNoProductNames(t *testing.T) {
	p, _ := feeds(t)
	applyFeeds(t, p)
	for i := range p.config.Products {
		p.config.Products[i].Feeds = nil
	}
	w, err := p.want()
	if err != nil {
		t.Fatal(err)
	}
	if len(w.topics) > 0 {
		t.Fatalf("topics are wanted: %v", w.topics)
	}
	plan := planFeeds(t, p)
	if len(plan.Left) != 4 {
		t.Errorf("left: %v, want two topics and two subscriptions", plan.Left)
	}
	p.config.Destroy = true
	var destroyed []string
	for _, name := range names(planFeeds(t, p)) {
		if strings.HasPrefix(name, "destroy") {
			destroyed = append(destroyed, name)
		}
	}
	want := []string{"destroy subscription pubsub-source", "destroy subscription telemetry-dead-letters", "destroy topic telemetry", "destroy topic telemetry-dead-letters"}
	if diff := cmp.Diff(want, destroyed); diff != "" {
		t.Errorf("with Destroy (-want +got):\n%s", diff)
	}
}

// What others made under a name of ours is not taken over.
func TestFeedsOfOthers(t *testing.T) {
	p, server := feeds(t)
	if _, err := server.GServer.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/acme/topics/telemetry"}); err != nil {
		t.Fatal(err)
	}
	plan := planFeeds(t, p)
	if len(plan.Refused) != 1 || !strings.Contains(plan.Refused[0], "topic telemetry is there and has no label managed-by=telemesh") {
		t.Errorf("refused: %q", plan.Refused)
	}
	if err := p.Apply(t.Context(), plan, func(Step) {}); err == nil {
		t.Error("a plan that is refused was applied")
	}
}

func TestParsePushEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"https://a.example": "https://a.example/v1/pubsub", "https://a.example/": "https://a.example/v1/pubsub", "https://a.example/x": "https://a.example/x",
		"http://a.example": "", "a.example": "", "https:///x": "", "https://a.example/?q": "", "://": "",
	} {
		if got, err := ParsePushEndpoint(text); got != want || (err == nil) != (want != "") {
			t.Errorf("ParsePushEndpoint(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
}
