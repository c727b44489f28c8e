package remote

import (
	"bufio"
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// Handler serves w. With a token, requests without "Authorization: Bearer
// TOKEN" are refused; without one, anybody who can connect may read and write.
func Handler(w warehouse.Warehouse, token string) http.Handler {
	s := server{w}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /apply", s.apply)
	mux.HandleFunc("POST /append", s.append)
	mux.HandleFunc("POST /query", s.query)
	if token == "" {
		return mux
	}
	want := []byte("Bearer " + token)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			rw.Header().Set("WWW-Authenticate", "Bearer")
			answer(rw, http.StatusUnauthorized, end{Error: "the warehouse wants a bearer token, or another one"})
			return
		}
		mux.ServeHTTP(rw, r)
	})
}

type server struct{ warehouse warehouse.Warehouse }

func (s server) apply(rw http.ResponseWriter, r *http.Request) {
	var products []contract.Product
	if err := json.NewDecoder(http.MaxBytesReader(rw, r.Body, maxQuery)).Decode(&products); err != nil {
		fail(rw, mesh.Permanentf("apply: %w", err))
		return
	}
	if err := s.warehouse.Apply(r.Context(), products); err != nil {
		fail(rw, err)
		return
	}
	rw.WriteHeader(http.StatusNoContent)
}

func (s server) append(rw http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	if r.ContentLength > 0 {
		body.Grow(int(min(r.ContentLength, maxAppend)))
	}
	if _, err := body.ReadFrom(http.MaxBytesReader(rw, r.Body, maxAppend)); err != nil {
		fail(rw, err)
		return
	}
	batch, err := decodeBatch(body.Bytes())
	var version int64
	if err == nil {
		version, err = s.warehouse.Append(r.Context(), *batch)
	}
	a := appended{Version: version}
	if err != nil {
		a.end = endOf(err)
		if rejected, ok := errors.AsType[warehouse.Rejected](err); ok {
			for _, row := range rejected {
				a.Rejected = append(a.Rejected, rejectedRow{row.Row, row.Err.Error()})
			}
		}
	}
	answer(rw, status(rw, err), a)
}

func (s server) query(rw http.ResponseWriter, r *http.Request) {
	sql, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxQuery))
	if err != nil {
		fail(rw, mesh.Permanentf("query: %w", err))
		return
	}
	rows, err := s.warehouse.Query(r.Context(), string(sql))
	if err != nil {
		fail(rw, err)
		return
	}
	rw.Header().Set("Content-Type", ndjson)
	out := bufio.NewWriterSize(rw, 64<<10)
	last := end{Rows: new(int)}
	lines := json.NewEncoder(out)
	// The client sees an error of these writes as an answer without end.
	defer func() {
		lines.Encode(last)
		out.Flush()
	}()
	if lines.Encode(columns{rows.Columns}) != nil || r.URL.Query().Get("columns") == "only" {
		return
	}
	var line []byte
	for row, err := range rows.All {
		if err == nil {
			line, err = appendAnswer(line[:0], row)
		}
		if err != nil {
			last = endOf(err)
			return
		}
		if _, err := out.Write(line); err != nil {
			return
		}
		*last.Rows++
	}
}

func endOf(err error) end { return end{Error: err.Error(), Permanent: mesh.IsPermanent(err)} }

func fail(rw http.ResponseWriter, err error) { answer(rw, status(rw, err), endOf(err)) }

func status(rw http.ResponseWriter, err error) int {
	switch {
	case err == nil:
		return http.StatusOK
	case mesh.IsPermanent(err):
		return http.StatusBadRequest
	}
	rw.Header().Set("Retry-After", "1")
	return http.StatusServiceUnavailable
}

func answer(rw http.ResponseWriter, status int, body any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	json.NewEncoder(rw).Encode(body)
}
