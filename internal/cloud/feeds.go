package cloud

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/api/iterator"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/telemesh/telemesh/internal/contract"
)

// pushPath is where telemetry-ingest takes pushes.
const pushPath = "/v1/pubsub"

// wantFeeds says which topics and subscriptions there should be. Whether the
// messages of a topic are pushed or pulled is decided by planner.feeds.
func (p *Project) wantFeeds(w *wanted) {
	project := "projects/" + p.config.Project
	for _, product := range p.config.Products {
		labels := w.datasets[product.Schema].Labels
		topic := func(name string) string {
			name = project + "/topics/" + name
			w.topics[name] = &pubsubpb.Topic{Name: name, Labels: labels}
			return name
		}
		subscription := func(name, topic string, f *contract.Feed) *pubsubpb.Subscription {
			name = project + "/subscriptions/" + name
			w.subscriptions[name] = &pubsubpb.Subscription{
				Name: name, Topic: topic, Labels: labels,
				AckDeadlineSeconds:       int32(f.AckDeadline / time.Second),
				MessageRetentionDuration: durationpb.New(f.Retention),
				// Without a policy of its own a subscription goes that nobody reads for a month.
				ExpirationPolicy: &pubsubpb.ExpirationPolicy{},
			}
			return w.subscriptions[name]
		}
		for _, f := range product.Feeds {
			dead := topic(f.DeadLetterTopic)
			// What nobody is subscribed to is not kept.
			subscription(f.DeadLetterTopic, dead, &f)
			s := subscription(f.Subscription, topic(f.Topic), &f)
			s.DeadLetterPolicy = &pubsubpb.DeadLetterPolicy{DeadLetterTopic: dead, MaxDeliveryAttempts: int32(f.MaxDeliveries)}
			s.RetryPolicy = &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(f.MinBackoff), MaximumBackoff: durationpb.New(f.MaxBackoff)}
			if !f.Push {
				continue
			}
			s.PushConfig = &pubsubpb.PushConfig{PushEndpoint: p.config.PushEndpoint, AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
				OidcToken: &pubsubpb.PushConfig_OidcToken{
					ServiceAccountEmail: ServiceAccount(product.Name, p.config.Project), Audience: p.config.PushEndpoint}}}
		}
	}
}

// ParsePushEndpoint reads the URL of telemetry-ingest; without a path it gets
// the one that takes pushes.
func ParsePushEndpoint(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", err
	}
	if u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("push endpoint %q: want https://HOST/PATH", text)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = pushPath
	}
	return u.String(), nil
}

// readFeeds reads the topics and subscriptions of the project.
func (p *Project) readFeeds(ctx context.Context, s *state) error {
	if p.config.Pubsub == nil {
		return nil
	}
	project := "projects/" + p.config.Project
	topics := p.config.Pubsub.TopicAdminClient.ListTopics(ctx, &pubsubpb.ListTopicsRequest{Project: project})
	for {
		t, err := topics.Next()
		if errors.Is(err, iterator.Done) {
			break
		}
		if err != nil {
			return fmt.Errorf("list topics of %s: %w", project, err)
		}
		s.topics[t.Name] = t
	}
	subscriptions := p.config.Pubsub.SubscriptionAdminClient.ListSubscriptions(ctx, &pubsubpb.ListSubscriptionsRequest{Project: project})
	for {
		sub, err := subscriptions.Next()
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list subscriptions of %s: %w", project, err)
		}
		s.subscriptions[sub.Name] = sub
	}
}

// feeds compares topics and subscriptions.
func (l *planner) feeds() {
	if l.config.Pubsub == nil {
		l.note("PUBSUB_EMULATOR_HOST is not set beside an emulator of BigQuery: topics and subscriptions stay as they are")
		return
	}
	l.choose()
	for _, name := range slices.Sorted(maps.Keys(l.want.topics)) {
		l.topic(l.want.topics[name], l.have.topics[name])
	}
	for _, name := range slices.Sorted(maps.Keys(l.want.subscriptions)) {
		l.subscription(l.want.subscriptions[name], l.have.subscriptions[name])
	}
	for _, name := range slices.Sorted(maps.Keys(l.have.subscriptions)) {
		if l.want.subscriptions[name] == nil && !l.want.untouched[name] && l.have.subscriptions[name].Labels[managedBy] == telemesh {
			l.destroy(func(ctx context.Context) error {
				err := l.config.Pubsub.SubscriptionAdminClient.DeleteSubscription(ctx, &pubsubpb.DeleteSubscriptionRequest{Subscription: name})
				return noneLeft(err)
			}, Change{Action: Destroy, Kind: "subscription", Name: path.Base(name)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.have.topics)) {
		if l.want.topics[name] == nil && l.have.topics[name].Labels[managedBy] == telemesh {
			l.destroy(func(ctx context.Context) error {
				return noneLeft(l.config.Pubsub.TopicAdminClient.DeleteTopic(ctx, &pubsubpb.DeleteTopicRequest{Topic: name}))
			}, Change{Action: Destroy, Kind: "topic", Name: path.Base(name)})
		}
	}
}

func noneLeft(err error) error {
	if status.Code(err) == codes.NotFound {
		return nil
	}
	return err
}

// choose takes of the subscriptions of a topic those that push, where it is
// known whereto, else those that pull: each brings every message. One that was
// set to pull by hand, which stops it, has messages that wait: without the
// endpoint it is left, and pushes.
func (l *planner) choose() {
	push, stopped := map[string]bool{}, map[string]bool{} // topics
	for _, name := range slices.Sorted(maps.Keys(l.want.subscriptions)) {
		want, have := l.want.subscriptions[name], l.have.subscriptions[name]
		if want.PushConfig == nil {
			continue
		}
		if l.config.PushEndpoint == "" {
			switch {
			case have == nil:
				l.note("subscription %s is not made: it pushes, and --push-endpoint does not say where to", path.Base(name))
				delete(l.want.subscriptions, name)
				continue
			case have.PushConfig.GetPushEndpoint() == "":
				l.note("subscription %s is left, with the messages that wait in it: it should push, but pulls, and --push-endpoint does not say where to", path.Base(name))
				delete(l.want.subscriptions, name)
				l.want.untouched[name], stopped[want.Topic] = true, true
			default:
				want.PushConfig.PushEndpoint = have.PushConfig.PushEndpoint
				want.PushConfig.GetOidcToken().Audience = have.PushConfig.GetOidcToken().GetAudience()
			}
		}
		push[want.Topic] = true
	}
	for name, want := range l.want.subscriptions {
		if want.PushConfig == nil && push[want.Topic] {
			delete(l.want.subscriptions, name)
			l.want.untouched[name] = stopped[want.Topic]
		}
	}
}

func (l *planner) topic(want, have *pubsubpb.Topic) {
	admin := l.config.Pubsub.TopicAdminClient
	name := path.Base(want.Name)
	if have == nil {
		l.step(Feed, func(ctx context.Context) error {
			_, err := admin.CreateTopic(ctx, want)
			return err
		}, Change{Action: Create, Kind: "topic", Name: name})
		return
	}
	if have.Labels[managedBy] != telemesh {
		l.refuse("topic %s is there and has no label %s=%s: it may be somebody else's. If it is not: gcloud pubsub topics update %s --update-labels=%s=%s --project=%s",
			name, managedBy, telemesh, name, managedBy, telemesh, l.config.Project)
		return
	}
	if fields := labelFields(nil, have.Labels, want.Labels); len(fields) > 0 {
		l.step(Feed, func(ctx context.Context) error {
			_, err := admin.UpdateTopic(ctx, &pubsubpb.UpdateTopicRequest{
				Topic:      &pubsubpb.Topic{Name: want.Name, Labels: merged(have.Labels, want.Labels)},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}},
			})
			return err
		}, Change{Action: Modify, Kind: "topic", Name: name, Fields: fields})
	}
}

func merged(have, want map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, have)
	maps.Copy(all, want)
	return all
}

func (l *planner) subscription(want, have *pubsubpb.Subscription) {
	admin := l.config.Pubsub.SubscriptionAdminClient
	name := path.Base(want.Name)
	if have == nil {
		l.step(Feed, func(ctx context.Context) error {
			_, err := admin.CreateSubscription(ctx, want)
			return err
		}, Change{Action: Create, Kind: "subscription", Name: name, Fields: []Field{{Name: "topic", New: path.Base(want.Topic)}}})
		return
	}
	switch {
	case have.Labels[managedBy] != telemesh:
		l.refuse("subscription %s is there and has no label %s=%s: it may be somebody else's. If it is not: gcloud pubsub subscriptions update %s --update-labels=%s=%s --project=%s",
			name, managedBy, telemesh, name, managedBy, telemesh, l.config.Project)
		return
	case have.Topic != want.Topic:
		l.refuse("subscription %s is of topic %s and not of %s, which Pub/Sub cannot change: delete it, with the messages that wait in it: gcloud pubsub subscriptions delete %s --project=%s",
			name, path.Base(have.Topic), path.Base(want.Topic), name, l.config.Project)
		return
	}
	update := &pubsubpb.Subscription{
		Name: want.Name, Labels: merged(have.Labels, want.Labels), AckDeadlineSeconds: want.AckDeadlineSeconds, MessageRetentionDuration: want.MessageRetentionDuration,
		ExpirationPolicy: want.ExpirationPolicy, DeadLetterPolicy: want.DeadLetterPolicy, RetryPolicy: want.RetryPolicy, PushConfig: want.PushConfig,
	}
	if update.PushConfig == nil {
		update.PushConfig = &pubsubpb.PushConfig{} // pull
	}
	var fields []Field
	mask := &fieldmaskpb.FieldMask{}
	for _, property := range subscriptionProperties {
		if old, now := property.text(have), property.text(want); old != now {
			fields = append(fields, Field{property.name, old, now})
			mask.Paths = append(mask.Paths, property.path)
		}
	}
	if labels := labelFields(nil, have.Labels, want.Labels); len(labels) > 0 {
		fields = append(fields, labels...)
		mask.Paths = append(mask.Paths, "labels")
	}
	if len(fields) == 0 {
		return
	}
	mask.Paths = slices.Compact(mask.Paths)
	l.step(Feed, func(ctx context.Context) error {
		_, err := admin.UpdateSubscription(ctx, &pubsubpb.UpdateSubscriptionRequest{Subscription: update, UpdateMask: mask})
		return err
	}, Change{Action: Modify, Kind: "subscription", Name: name, Fields: fields})
}

// subscriptionProperties are what of a subscription is compared, beside labels.
var subscriptionProperties = []struct {
	name, path string
	text       func(*pubsubpb.Subscription) string
}{
	{"ack deadline", "ack_deadline_seconds", func(s *pubsubpb.Subscription) string { return fmt.Sprintf("%d s", s.AckDeadlineSeconds) }},
	{"messages kept", "message_retention_duration", func(s *pubsubpb.Subscription) string { return kept(s.MessageRetentionDuration.AsDuration()) }},
	{"expires unread after", "expiration_policy", func(s *pubsubpb.Subscription) string {
		switch {
		case s.ExpirationPolicy == nil:
			return "31 days" // what Pub/Sub does without a policy
		case s.ExpirationPolicy.Ttl == nil:
			return "never"
		}
		return kept(s.ExpirationPolicy.Ttl.AsDuration())
	}},
	{"dead letters", "dead_letter_policy", func(s *pubsubpb.Subscription) string {
		if s.DeadLetterPolicy == nil {
			return ""
		}
		return fmt.Sprintf("to %s after %d deliveries", path.Base(s.DeadLetterPolicy.DeadLetterTopic), s.DeadLetterPolicy.MaxDeliveryAttempts)
	}},
	{"delivered again", "retry_policy", func(s *pubsubpb.Subscription) string {
		if s.RetryPolicy == nil {
			return ""
		}
		return fmt.Sprintf("after %s to %s", s.RetryPolicy.MinimumBackoff.AsDuration(), s.RetryPolicy.MaximumBackoff.AsDuration())
	}},
	{"pushed to", "push_config", func(s *pubsubpb.Subscription) string { return s.PushConfig.GetPushEndpoint() }},
	{"pushed as", "push_config", func(s *pubsubpb.Subscription) string {
		token := s.PushConfig.GetOidcToken()
		if token == nil {
			return ""
		}
		return token.ServiceAccountEmail + " for " + token.Audience
	}},
}
