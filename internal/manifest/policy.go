package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"knative.dev/eventing/pkg/apis/eventing/v1alpha1"
	"knative.dev/pkg/apis"
)

// EventPolicy is an eventing.knative.dev EventPolicy: who may post to Brokers.
type EventPolicy struct {
	Where
	v1alpha1.EventPolicy
}

// NetworkPolicy is a networking.k8s.io NetworkPolicy: who may connect to pods.
type NetworkPolicy struct {
	Where
	networkingv1.NetworkPolicy
}

// Ref is the policy's name.
func (p *EventPolicy) Ref() Ref { return Ref{p.Namespace, p.Name} }

// Ref is the policy's name.
func (p *NetworkPolicy) Ref() Ref { return Ref{p.Namespace, p.Name} }

// validate checks what a cluster would refuse a NetworkPolicy for that is written
// wrong most easily; its validation is in no library.
func (p *NetworkPolicy) validate() *apis.FieldError {
	errs := selects(&p.Spec.PodSelector, "spec.podSelector")
	for i, t := range p.Spec.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			errs = errs.Also(apis.ErrInvalidValue(t, fmt.Sprintf("spec.policyTypes[%d]", i)))
		}
	}
	if len(p.Spec.Egress) > 0 && !slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
		errs = errs.Also(apis.ErrGeneric("policyTypes lacks Egress, without which egress says nothing", "spec.policyTypes"))
	}
	for i, rule := range p.Spec.Ingress {
		field := fmt.Sprintf("spec.ingress[%d]", i)
		errs = errs.Also(peers(rule.From, field+".from")).Also(ports(rule.Ports, field+".ports"))
	}
	for i, rule := range p.Spec.Egress {
		field := fmt.Sprintf("spec.egress[%d]", i)
		errs = errs.Also(peers(rule.To, field+".to")).Also(ports(rule.Ports, field+".ports"))
	}
	return errs
}

func selects(s *metav1.LabelSelector, field string) *apis.FieldError {
	if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
		return apis.ErrInvalidValue(err.Error(), field)
	}
	return nil
}

func peers(all []networkingv1.NetworkPolicyPeer, field string) (errs *apis.FieldError) {
	for i, peer := range all {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case peer.IPBlock != nil && (peer.PodSelector != nil || peer.NamespaceSelector != nil):
			errs = errs.Also(apis.ErrMultipleOneOf(at+".ipBlock", at+".podSelector"))
		case peer.IPBlock != nil:
			for _, cidr := range append([]string{peer.IPBlock.CIDR}, peer.IPBlock.Except...) {
				if _, err := netip.ParsePrefix(cidr); err != nil {
					errs = errs.Also(apis.ErrInvalidValue(err.Error(), at+".ipBlock"))
				}
			}
		case peer.PodSelector == nil && peer.NamespaceSelector == nil:
			errs = errs.Also(apis.ErrMissingOneOf(at+".podSelector", at+".namespaceSelector", at+".ipBlock"))
		}
		if peer.PodSelector != nil {
			errs = errs.Also(selects(peer.PodSelector, at+".podSelector"))
		}
		if peer.NamespaceSelector != nil {
			errs = errs.Also(selects(peer.NamespaceSelector, at+".namespaceSelector"))
		}
	}
	return errs
}

func ports(all []networkingv1.NetworkPolicyPort, field string) (errs *apis.FieldError) {
	for i, port := range all {
		at := fmt.Sprintf("%s[%d]", field, i)
		if p := port.Protocol; p != nil && !slices.Contains([]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}, *p) {
			errs = errs.Also(apis.ErrInvalidValue(*p, at+".protocol"))
		}
		if p := port.Port; p != nil {
			faults := validation.IsValidPortNum(int(p.IntVal))
			if p.Type == intstr.String {
				faults = validation.IsValidPortName(p.StrVal)
			}
			for _, fault := range faults {
				errs = errs.Also(apis.ErrInvalidValue(p.String()+": "+fault, at+".port"))
			}
		}
	}
	return errs
}

// Admits says whether a policy lets an account in.
func (p *EventPolicy) Admits(account Ref) bool {
	return slices.ContainsFunc(p.Spec.From, func(from v1alpha1.EventPolicySpecFrom) bool {
		if from.Sub == nil {
			return false
		}
		prefix, any := strings.CutSuffix(*from.Sub, "*")
		return *from.Sub == Subject(account) || any && strings.HasPrefix(Subject(account), prefix)
	})
}

// Over says whether a policy is about a Broker. One with a selector may be.
func (p *EventPolicy) Over(b *Broker) bool {
	if p.Namespace != b.Namespace {
		return false
	}
	return len(p.Spec.To) == 0 || slices.ContainsFunc(p.Spec.To, func(to v1alpha1.EventPolicySpecTo) bool {
		if to.Ref != nil {
			return to.Ref.Kind == "Broker" && to.Ref.Name == b.Name
		}
		selector, err := metav1.LabelSelectorAsSelector(to.Selector.LabelSelector)
		return err == nil && to.Selector.Kind == "Broker" && selector.Matches(labels.Set(b.Labels))
	})
}
