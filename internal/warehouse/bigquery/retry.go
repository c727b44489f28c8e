package bigquery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/bigquery/storage/apiv1/storagepb"
	"google.golang.org/api/googleapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// patience bounds how long a request is tried again: then the broker has the
	// event again, which keeps it longer than a process lives.
	patience = 45 * time.Second
	// answerWithin is how long one try may take. It is far beyond what is seen,
	// since what was not answered is sent again and stored twice.
	answerWithin = 20 * time.Second
	minPause     = 100 * time.Millisecond
	maxPause     = 8 * time.Second
)

// pause waits before the next try, from nothing up to a time that doubles: so
// those who failed together do not come back together.
func pause(ctx context.Context, attempt int) error {
	timer := time.NewTimer(rand.N(min(maxPause, minPause<<min(attempt, 10))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reasons of the REST API that a retry can cure.
//
// https://cloud.google.com/bigquery/docs/error-messages
var passingReasons = []string{"backendError", "internalError", "jobBackendError", "jobInternalError", "jobRateLimitExceeded",
	"rateLimitExceeded", "tableUnavailable"}

// conflicts are what BigQuery says of a transaction or a statement that others
// got ahead of; there is no reason of its own for it.
//
// https://cloud.google.com/bigquery/docs/transactions#transaction_concurrency
// https://cloud.google.com/bigquery/docs/data-manipulation-language#dml_statement_conflicts
var conflicts = []string{"aborted due to concurrent update", "Could not serialize access to table"}

// passes says whether the same request may succeed if it is sent again at once.
// An answer that was lost is such a case: what it acknowledged is then done
// twice, and whoever asks here must be able to bear it.
func passes(err error) bool {
	for _, text := range conflicts {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	if e, ok := errors.AsType[*bigquery.Error](err); ok {
		return slices.Contains(passingReasons, e.Reason)
	}
	if e, ok := errors.AsType[*googleapi.Error](err); ok {
		return e.Code == http.StatusTooManyRequests || e.Code >= 500 ||
			slices.ContainsFunc(e.Errors, func(item googleapi.ErrorItem) bool { return slices.Contains(passingReasons, item.Reason) })
	}
	if s, ok := status.FromError(err); ok {
		switch s.Code() {
		case codes.Unavailable, codes.Aborted, codes.Internal, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled:
			return true
		}
		return false
	}
	// A connection that broke, or that this process gave up.
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// storageCode is what the Storage Write API says beside the code of an error.
func storageCode(err error) storagepb.StorageError_StorageErrorCode {
	s, _ := status.FromError(err)
	for _, detail := range s.Details() {
		if e, ok := detail.(*storagepb.StorageError); ok {
			return e.GetCode()
		}
	}
	return storagepb.StorageError_STORAGE_ERROR_CODE_UNSPECIFIED
}

// hint says what to do about an error, if it is known. None of these errors is
// permanent: another version of the table may take the rows as they are.
func hint(err error) error {
	code := status.Code(err)
	if e, ok := errors.AsType[*googleapi.Error](err); ok {
		switch e.Code {
		case http.StatusNotFound:
			code = codes.NotFound
		case http.StatusForbidden:
			code = codes.PermissionDenied
		}
	}
	switch storage := storageCode(err); {
	case storage == storagepb.StorageError_SCHEMA_MISMATCH_EXTRA_FIELDS:
		return fmt.Errorf("the table lacks a column of its contract; telemesh apply adds it: %w", err)
	case storage == storagepb.StorageError_TABLE_NOT_FOUND, storage == storagepb.StorageError_STREAM_NOT_FOUND, code == codes.NotFound:
		return fmt.Errorf("the table is not there; telemesh apply makes it: %w", err)
	case code == codes.PermissionDenied:
		return fmt.Errorf("the service account may not do this; telemesh apply gives it its roles: %w", err)
	}
	return err
}
