// Package label tells what rules say of records (package classify): of events of a type
// that a rule reads it makes events of the type that the rule emits, whose label and
// severity are attributes by which a Trigger filters.
//
// One image runs with the rules of any Service: CLASSIFY names rules of config/classify,
// CLASSIFY_RULES holds rules of one's own as YAML. One of these takes the place of one of
// the same name.
//
// A record that has no level, because it lacks what a rule reads, is a permanent error
// that names it, the rule and the part of it: the others of its event are told before. So
// is an event of a type that no rule reads, and one whose data are not JSON. A warehouse
// that is away, where a rule reads what was before, is a passing one. An event that
// comes again makes the same events again.
package label

import (
	"context"
	"errors"
	"fmt"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/classify"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
)

// Config is the function's environment.
type Config struct {
	connect.Config          // of rules that have a history
	Names          []string `envconfig:"CLASSIFY"`       // rules of config/classify
	Rules          string   `envconfig:"CLASSIFY_RULES"` // rules of one's own, documents of YAML
	Sink           string   `envconfig:"K_SINK"`         // the Broker's ingress
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	rules, err := classify.Load(cfg.Names, cfg.Rules)
	if err != nil {
		return nil, err
	}
	var w warehouse.Warehouse
	for _, rule := range rules {
		if rule.History == nil || w != nil {
			continue
		}
		if w, err = cfg.Open(ports.Warehouse, ports.Client); err != nil {
			return nil, fmt.Errorf("rule %s reads %s: %w", rule.Name, rule.History.Table, err)
		}
	}
	return &function.Function{Handler: New(rules, w, func(ctx context.Context, e event.Event) error {
		if cfg.Sink == "" {
			return errors.New("K_SINK is empty: set it to the Broker's ingress")
		}
		return function.Post(ctx, ports.Client, cfg.Sink, e)
	})}, nil
}

// New makes the handler. What it makes beside an error it posts itself.
func New(rules []*classify.Rule, w warehouse.Warehouse, post func(context.Context, event.Event) error) function.Handler {
	of := map[string][]*classify.Classifier{}
	for _, rule := range rules {
		of[rule.Reads] = append(of[rule.Reads], classify.New(rule, w))
	}
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		if of[in.Type()] == nil {
			return nil, mesh.Permanentf("no rule here reads %s: the trigger has to filter on what the rule reads", in.Type())
		}
		var out []event.Event
		var failed error
		for _, c := range of[in.Type()] {
			made, err := c.Classify(ctx, in)
			if err != nil && !mesh.IsPermanent(err) {
				return nil, err
			}
			out, failed = append(out, made...), errors.Join(failed, err)
		}
		if failed == nil {
			return out, nil
		}
		for _, e := range out {
			if err := post(ctx, e); err != nil {
				return nil, err
			}
		}
		return nil, fmt.Errorf("classify %s: %w", in.ID(), failed)
	}
}
