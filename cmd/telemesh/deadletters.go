package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"

	"github.com/telemesh/telemesh/internal/local"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

// shown is a dead letter as it is shown, and on the wire between two telemesh
// processes.
type shown struct {
	ID       string          `json:"id"`
	At       string          `json:"at"`
	Broker   string          `json:"broker"`
	Trigger  string          `json:"trigger,omitempty"`
	Attempts int             `json:"attempts,omitempty"`
	Status   int             `json:"status"`
	By       string          `json:"by,omitempty"`
	Cause    string          `json:"cause"`
	Event    json.RawMessage `json:"event,omitempty"`
	Header   http.Header     `json:"header,omitempty"`
	Body     string          `json:"body,omitempty"`
	Outcomes []became        `json:"outcomes,omitempty"` // oldest first
}

// became is an outcome of a dead letter of the warehouse.
type became struct {
	At      string `json:"at"`
	Outcome string `json:"outcome"`
	By      string `json:"by,omitempty"` // that failed
	Status  int64  `json:"status,omitempty"`
	Cause   string `json:"cause,omitempty"`
}

func newShown(d local.DeadLetter) (shown, error) {
	out := shown{
		ID: d.ID, At: d.At.UTC().Format("2006-01-02T15:04:05Z"), Broker: d.Broker.String(),
		Attempts: d.Attempts, Status: d.Cause.Status, By: d.Cause.Destination, Cause: d.Cause.Text,
	}
	if d.Trigger.Name != "" {
		out.Trigger = d.Trigger.String()
	}
	if d.Request != nil {
		out.Header, out.Body = d.Request.Header, string(d.Request.Body)
	}
	if d.Event != nil {
		var err error
		if out.Event, err = json.Marshal(d.Event); err != nil {
			return out, fmt.Errorf("dead letter %s: %w", d.ID, err)
		}
	}
	return out, nil
}

// letters is what the embedded Broker of a folder keeps itself: requests that its
// ingress refused, and what no dead letter sink took. It is in this process or in
// the one that holds the folder.
type letters interface {
	list(ctx context.Context, each func(shown) error) error
	get(ctx context.Context, id string) (shown, error)
	redrive(ctx context.Context, id string) error
	discard(ctx context.Context, id string) error
	Close() error
}

func attachLetters(ctx context.Context, o *options) (letters, error) {
	if err := folderExists(o.data); err != nil {
		return nil, err
	}
	return patiently(ctx, func() (letters, error) {
		if client, err := dialFolder(ctx, o.data); err == nil {
			return remoteLetters{client}, nil
		}
		store, err := local.OpenDeadLetters(ctx, filepath.Join(o.data, "broker"), o.log())
		if err != nil {
			return nil, inUse(fmt.Errorf("open dead letters of %s: %w", o.data, err))
		}
		return localLetters{store}, nil
	})
}

type localLetters struct{ *local.DeadLetters }

func (l localLetters) list(ctx context.Context, each func(shown) error) error {
	for d, err := range l.List(ctx) {
		if err != nil {
			return err
		}
		out, err := newShown(d)
		if err != nil {
			return err
		}
		if err := each(out); err != nil {
			return err
		}
	}
	return nil
}

func (l localLetters) get(ctx context.Context, id string) (shown, error) {
	d, err := l.Get(ctx, id)
	if err != nil {
		return shown{}, err
	}
	return newShown(d)
}

func (l localLetters) redrive(ctx context.Context, id string) error { return l.Redrive(ctx, id) }

func (l localLetters) discard(ctx context.Context, id string) error { return l.Discard(ctx, id) }

// remoteLetters speaks with control of the process that holds the folder.
type remoteLetters struct{ client *http.Client }

func (r remoteLetters) Close() error { r.client.CloseIdleConnections(); return nil }

func (r remoteLetters) do(ctx context.Context, method, path string, each func(shown) error) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://telemesh/deadletters"+path, nil)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		said, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return errors.Join(errors.New(string(bytes.TrimSpace(said))), err)
	}
	for lines := json.NewDecoder(resp.Body); ; {
		var d shown
		if err := lines.Decode(&d); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := each(d); err != nil {
			return err
		}
	}
}

func (r remoteLetters) list(ctx context.Context, each func(shown) error) error {
	return r.do(ctx, http.MethodGet, "", each)
}

func (r remoteLetters) get(ctx context.Context, id string) (out shown, err error) {
	err = r.do(ctx, http.MethodGet, "/"+url.PathEscape(id), func(d shown) error { out = d; return nil })
	return out, err
}

func (r remoteLetters) redrive(ctx context.Context, id string) error {
	return r.do(ctx, http.MethodPost, "/"+url.PathEscape(id)+"/redrive", nil)
}

func (r remoteLetters) discard(ctx context.Context, id string) error {
	return r.do(ctx, http.MethodDelete, "/"+url.PathEscape(id), nil)
}

// control serves the other commands of the folder, over its socket.
func (in *instance) control() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/warehouse/", http.StripPrefix("/warehouse", remote.Handler(in.warehouse, "")))
	letters := localLetters{in.mesh.DeadLetters()}
	answer := func(w http.ResponseWriter, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		}
	}
	mux.Handle("POST /brokers/", http.StripPrefix("/brokers", in.mesh.Handler()))
	mux.HandleFunc("GET /idle", func(w http.ResponseWriter, r *http.Request) {
		answer(w, in.mesh.Idle(r.Context()))
	})
	mux.HandleFunc("GET /triggers", func(w http.ResponseWriter, r *http.Request) {
		answer(w, json.NewEncoder(w).Encode(leadsOf(in.config.Manifests)))
	})
	mux.HandleFunc("GET /sheets/placements", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, in.placementsSheet())
	})
	mux.HandleFunc("POST /sheets/read", func(w http.ResponseWriter, r *http.Request) {
		readings, err := in.readSheets(r.Context())
		if err == nil {
			err = json.NewEncoder(w).Encode(readings)
		}
		answer(w, err)
	})
	mux.HandleFunc("GET /deadletters", func(w http.ResponseWriter, r *http.Request) {
		out := json.NewEncoder(w)
		answer(w, letters.list(r.Context(), func(d shown) error { return out.Encode(d) }))
	})
	mux.HandleFunc("GET /deadletters/{id}", func(w http.ResponseWriter, r *http.Request) {
		d, err := letters.get(r.Context(), r.PathValue("id"))
		if err == nil {
			err = json.NewEncoder(w).Encode(d)
		}
		answer(w, err)
	})
	mux.HandleFunc("POST /deadletters/{id}/redrive", func(w http.ResponseWriter, r *http.Request) {
		answer(w, letters.redrive(r.Context(), r.PathValue("id")))
	})
	mux.HandleFunc("DELETE /deadletters/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, letters.discard(r.Context(), r.PathValue("id")))
	})
	return mux
}
