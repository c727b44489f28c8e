package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/googleapi"
	"google.golang.org/grpc/codes"
	rpc "google.golang.org/grpc/status"
)

// Who may not do what the command asks for is told what to do about it.
func TestHintsOfGoogle(t *testing.T) {
	for _, test := range []struct {
		hints googleHints
		err   error
		says  string // empty: nothing
	}{
		{whoReads, errors.New("credentials: could not find default credentials"), "gcloud auth application-default login"},
		{whoReads, &googleapi.Error{Code: 404, Message: "Not found: Dataset p:event_log"}, "telemesh apply"},
		{whoReads, &bigquery.Error{Reason: "notFound"}, "telemesh apply"},
		{whoReads, &googleapi.Error{Code: 403}, "bigquery.jobUser"},
		{whoReads, &bigquery.Error{Reason: "accessDenied"}, "bigquery.jobUser"},
		{whoReads, &googleapi.Error{Code: 400, Message: "Syntax error"}, ""},
		{whoReads, &bigquery.Error{Reason: "invalidQuery"}, ""},
		{whoReads, hint(&googleapi.Error{Code: 404}, "something better"), "something better"},
		{whoReads, errors.New("reach the warehouse"), ""},
		{whoApplies, errors.New("credentials: could not find default credentials"), "gcloud auth application-default login"},
		{whoApplies, &googleapi.Error{Code: 401}, "enable the APIs"},
		{whoApplies, rpc.Error(codes.PermissionDenied, "API has not been used"), "enable the APIs"},
		{whoApplies, rpc.Error(codes.Unavailable, "later"), ""},
		{whoApplies, &googleapi.Error{Code: 400, Message: "IAM setPolicy failed for dataset"}, "make the service accounts first"},
		{whoApplies, &googleapi.Error{Code: 400, Message: "Invalid"}, ""},
	} {
		got := test.hints.add(fmt.Errorf("query: %w", test.err))
		h, _ := errors.AsType[hinted](got)
		if !errors.Is(got, test.err) || (h.hint == "") != (test.says == "") || !strings.Contains(h.hint, test.says) {
			t.Errorf("%v: hint %q, want %q", test.err, h.hint, test.says)
		}
	}
	if err := whoReads.add(nil); err != nil {
		t.Errorf("the hint of no error is %v", err)
	}
}
