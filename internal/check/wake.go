package check

import (
	"slices"
	"strings"
	"time"

	"knative.dev/serving/pkg/apis/autoscaling"

	"github.com/telemesh/telemesh/internal/address"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
)

// woken holds what a function wakes along with its events against what these lead
// to: one that is not named starts only when the event is there, one that is named
// and not reached starts for nothing.
func (c *checker) woken() {
	for _, w := range c.Workloads() {
		text, ok := w.Env["WAKE"]
		if !ok {
			continue
		}
		var want []string
		for _, ref := range c.Downstream(w) {
			want = append(want, "http://"+ref.Name+"."+ref.Namespace+address.Cluster)
			c.staysAwake(c.Service(ref), w)
		}
		got := manifest.List(text)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			do := "set it to " + strings.Join(want, ",")
			if len(want) == 0 {
				do = "remove it, or let a Trigger take what it makes"
			}
			c.find(w.Where, w.Object(), "wake-list", do, "WAKE does not name the Services that its events lead to")
		}
	}
}

// staysAwake: who wakes a Service does not do so again within function.Quiet.
func (c *checker) staysAwake(s *manifest.Service, by *manifest.Workload) {
	text, ok := s.Spec.Template.Annotations[autoscaling.WindowAnnotationKey]
	if !ok {
		return // a minute, unless the cluster says otherwise
	}
	if window, err := time.ParseDuration(text); err != nil || window <= function.Quiet {
		at := s.At("spec.template.metadata.annotations." + autoscaling.WindowAnnotationKey)
		c.find(at, s.Object(), "wake-window", "make it longer", "%s is %s; %s wakes it, and for %v does not wake it again", autoscaling.WindowAnnotationKey, text, by.Object(), function.Quiet)
	}
}
