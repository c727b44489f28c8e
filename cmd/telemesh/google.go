package main

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/googleapi"
	"google.golang.org/grpc/codes"
	rpc "google.golang.org/grpc/status"
)

// projectID is an id of a project, with that of its domain where it has one.
var projectID = regexp.MustCompile(`^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$`)

func checkProject(id string) error {
	if !projectID.MatchString(id) {
		return hint(fmt.Errorf("%q is no id of a Google Cloud project", id), "--project takes the id, such as acme-air; not the name, and not the number")
	}
	return nil
}

// googleHints say what to do where Google refuses what a command asks for, or
// does not have it.
type googleHints struct{ refused, missing string }

var (
	whoReads = googleHints{
		refused: "the account needs the role bigquery.jobUser of the project and has to be let into the dataset",
		missing: "`telemesh apply` makes the datasets, tables and views; are project and location the right ones?",
	}
	whoApplies = googleHints{
		refused: "enable the APIs and give the account that applies its roles: docs/deploy-bigquery.md has the commands",
		missing: "is there such a project, and did nobody else change it meanwhile?",
	}
)

// of says what to do about an error of Google's clients, empty if nothing is
// known.
func (h googleHints) of(err error) string {
	if err == nil {
		return ""
	}
	// The client's error has no type.
	if strings.Contains(err.Error(), "could not find default credentials") {
		return "`gcloud auth application-default login` gives your own, or GOOGLE_APPLICATION_CREDENTIALS names a file of them"
	}
	// A request of REST is refused with a status of HTTP, one of gRPC with one of
	// its own, a job with a reason.
	answer, _ := errors.AsType[*googleapi.Error](err)
	job, _ := errors.AsType[*bigquery.Error](err)
	is := func(code int, called codes.Code, reason string) bool {
		return answer != nil && answer.Code == code || rpc.Code(err) == called || job != nil && job.Reason == reason
	}
	switch {
	case is(http.StatusNotFound, codes.NotFound, "notFound"):
		return h.missing
	case is(http.StatusForbidden, codes.PermissionDenied, "accessDenied"), is(http.StatusUnauthorized, codes.Unauthenticated, "authError"):
		return h.refused
	case answer != nil && answer.Code == http.StatusBadRequest && strings.Contains(answer.Message, "IAM"):
		return "who is given access has to exist, so make the service accounts first: docs/deploy-bigquery.md has the commands"
	}
	return ""
}

// add gives an error its hint, if it has none.
func (h googleHints) add(err error) error {
	text := h.of(err)
	if text == "" || errors.As(err, new(hinted)) {
		return err
	}
	return hint(err, "%s", text)
}
