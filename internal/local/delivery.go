package local

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/rickb777/date/period"
	duckv1 "knative.dev/eventing/pkg/apis/duck/v1"

	"github.com/telemesh/telemesh/internal/manifest"
)

// delivery is a DeliverySpec with its texts read.
// knative.dev/eventing/pkg/kncloudevents/retries.go
type delivery struct {
	retry         int
	exponential   bool
	delay         time.Duration
	timeout       time.Duration // of an attempt; 0: the subscriber's
	retryAfterMax time.Duration // 0: Retry-After is not heeded
	structured    bool
	sink          *manifest.Target // nil: none
}

// bounded is ctx with the timeout.
func (d delivery) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d.timeout)
}

func newDelivery(spec duckv1.DeliverySpec, namespace string) (delivery, error) {
	var d delivery
	duration := func(field string, text *string) (time.Duration, error) {
		if text == nil {
			return 0, nil
		}
		p, err := period.Parse(*text)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", field, err)
		}
		return p.DurationApprox(), nil
	}
	var err error
	if d.timeout, err = duration("timeout", spec.Timeout); err != nil {
		return d, err
	}
	if d.retryAfterMax, err = duration("retryAfterMax", spec.RetryAfterMax); err != nil {
		return d, err
	}
	if spec.Retry != nil {
		d.retry = int(*spec.Retry)
	}
	if spec.BackoffPolicy != nil { // without it Knative does not wait
		d.exponential = *spec.BackoffPolicy == duckv1.BackoffPolicyExponential
		if d.delay, err = duration("backoffDelay", spec.BackoffDelay); err != nil {
			return d, err
		}
	}
	d.structured = spec.Format != nil && *spec.Format == duckv1.DeliveryFormatJson
	if spec.DeadLetterSink != nil {
		target, err := manifest.Resolve(*spec.DeadLetterSink, namespace)
		if err != nil {
			return d, fmt.Errorf("deadLetterSink: %w", err)
		}
		d.sink = &target
	}
	return d, nil
}

// backoff is how long to wait after the failed attempt n, counted from 0.
func (d delivery) backoff(n int, r result) time.Duration {
	var wait time.Duration
	if d.exponential {
		// 2^n of anything overflows in the end.
		wait = time.Duration(min(float64(d.delay)*math.Exp2(float64(n)), float64(math.MaxInt64/2)))
	} else {
		wait = d.delay * time.Duration(n)
	}
	return max(wait, min(r.retryAfter, d.retryAfterMax))
}

// retryAfter reads the header of a 429 or 503.
func retryAfter(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	text := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return time.Until(at)
	}
	return 0
}
