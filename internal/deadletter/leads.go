package deadletter

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/address"
	"github.com/telemesh/telemesh/internal/topology"
)

// Leads is where Triggers lead now, by namespace and name; empty: nowhere.
type Leads map[string]map[string]string

// LeadsOf says it of a mesh.
func LeadsOf(m topology.Mesh) Leads {
	out := Leads{}
	for _, t := range m.Triggers {
		if out[t.Namespace] == nil {
			out[t.Namespace] = map[string]string{}
		}
		out[t.Namespace][t.Name] = t.Address
	}
	return out
}

var errNamespace = errors.New("who delivered the letter did not say of which namespace it is: there is no Broker to ask")

// Of gives the address that the event of a letter goes to: where its Trigger leads
// now, which another subscriber than the one that failed may stand at (moved).
// The address that the letter names is not taken by itself: a sender can choose it.
func (all Leads) Of(l *Letter) (subscriber string, moved bool, err error) {
	if l.Namespace == "" {
		return "", false, errNamespace
	}
	const yourself = "post the event to it yourself, and discard the letter"
	triggers := all[l.Namespace]
	if l.Trigger == "" {
		if l.Destination == "" {
			return "", false, fmt.Errorf("the letter names neither its Trigger nor the subscriber that failed: if you know whom to deliver to, %s", yourself)
		}
		var names []string
		for name, leadsTo := range triggers {
			if sameAddress(leadsTo, l.Destination) {
				names, subscriber = append(names, name), leadsTo
			}
		}
		if len(names) == 1 {
			return subscriber, false, nil
		}
		if len(names) == 0 {
			return "", false, fmt.Errorf("the letter does not name its Trigger, and none of namespace %s leads to %s: if you know whom to deliver to, %s", l.Namespace, l.Destination, yourself)
		}
		slices.Sort(names)
		return "", false, fmt.Errorf("the letter does not name its Trigger, and several lead to %s (%s): if you know whom to deliver to, %s", l.Destination, strings.Join(names, ", "), yourself)
	}
	subscriber, is := triggers[l.Trigger]
	switch {
	case !is:
		return "", false, fmt.Errorf("there is no Trigger %s/%s any more: make it again, or discard the letter", l.Namespace, l.Trigger)
	case subscriber == "":
		return "", false, fmt.Errorf("no address of the subscriber of Trigger %s/%s: is it ready?", l.Namespace, l.Trigger)
	}
	return subscriber, l.Destination != "" && !sameAddress(subscriber, l.Destination) && !repliedTo(l), nil
}

// repliedTo says whether what failed is the Broker, which did not take what the
// subscriber replied.
func repliedTo(l *Letter) bool {
	u, err := url.Parse(l.Destination)
	if err != nil {
		return false
	}
	namespace, name, is := address.Broker(u)
	return is && namespace == l.Namespace && name == l.Namespace
}

// sameAddress says whether two addresses are of the same subscriber. A Broker has
// one at each ingress.
func sameAddress(a, b string) bool {
	u, err := url.Parse(a)
	v, failed := url.Parse(b)
	if err != nil || failed != nil {
		return a == b
	}
	if namespace, name, is := address.Broker(u); is {
		other, called, too := address.Broker(v)
		return too && namespace == other && name == called
	}
	return strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/")
}
