package ingest

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// request is what came with one request.
type request struct {
	header   http.Header
	body     []byte
	reserved int64 // of Server.memory
	now      mesh.Instant
	push     bool              // by Pub/Sub
	format   string            // empty: not named
	fixed    bool              // the endpoint names the format
	deviceID string            // empty: not named
	said     map[string]string // attributes of every message
	keep     map[string]string // made by kept
}

// What may be said of messages by a query is repeated by each.
const (
	maxParameters     = 32
	maxParameterBytes = 256 // of a name and of a value
)

// query reads what the query says of the messages.
func (in *request) query(raw string) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	if len(values) > maxParameters {
		return fmt.Errorf("query: %d parameters, at most %d are accepted", len(values), maxParameters)
	}
	var said mesh.Message
	for name, given := range values {
		switch value := given[0]; {
		case len(name) > maxParameterBytes:
			return fmt.Errorf("query: a parameter's name has %d bytes, at most %d are accepted", len(name), maxParameterBytes)
		case name == "" || !utf8.ValidString(name):
			return fmt.Errorf("query: %q is no name of a parameter", name)
		case len(given) > 1:
			return fmt.Errorf("query: %s is given %d times", name, len(given))
		case len(value) > maxParameterBytes:
			return fmt.Errorf("query: the value of %s has %d bytes, at most %d are accepted", name, len(value), maxParameterBytes)
		case !utf8.ValidString(value):
			return fmt.Errorf("query: the value of %s is not UTF-8", name)
		case name == "access_token": // it would be kept with the messages, and stands in the logs of proxies already
			return errors.New("query: a token belongs in the header Authorization, and this one should not be used any more")
		case name == "format" && in.fixed && in.format != value:
			return fmt.Errorf("query: the format is %s at this endpoint, not %q", in.format, value)
		default:
			said.Describe(name, value)
		}
	}
	if said.Format != "" {
		in.format = said.Format
	}
	in.deviceID, in.said = said.DeviceID, said.Attributes
	if in.said == nil {
		in.said = map[string]string{}
	}
	return nil
}

// describe says of m what the request says, unless m tells it itself. The
// sender is always the request's.
func (in *request) describe(m *mesh.Message) {
	if m.Format == "" || in.fixed {
		m.Format = in.format
	}
	if m.DeviceID == "" {
		m.DeviceID = in.deviceID
	}
	switch {
	case len(in.said) == 0:
	case m.Attributes == nil:
		m.Attributes = in.said // never written to again: the messages of a request share it
	default:
		own := m.Attributes
		m.Attributes = maps.Clone(in.said)
		maps.Copy(m.Attributes, own)
	}
}

// kept is what is kept of the request with what is refused of it.
func (in *request) kept() map[string]string {
	if in.keep == nil {
		in.keep = map[string]string{}
		for name, values := range function.KeptHeader(in.header) {
			// A long one would be repeated by every refusal of a batch.
			if value := values[0]; len(value) <= mesh.MaxIdentity {
				in.keep[name] = value
			}
		}
		maps.Copy(in.keep, in.said)
	}
	return in.keep
}

// readBody reads a body of at most so many bytes, as unpacked.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, *problem) {
	tooLarge := &problem{status: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("body over %d bytes: send it in parts, or raise MAX_BODY_BYTES", most)}
	var body io.Reader = r.Body
	switch encoding := strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ","))); encoding {
	case "", "identity":
		body = http.MaxBytesReader(w, r.Body, most)
	case "gzip", "x-gzip": // the same, RFC 9110 section 8.4.1.3
		// What cannot be compressed grows by less than this. Without a bound one
		// could send for ever what unpacks to nothing.
		packed := http.MaxBytesReader(w, r.Body, most+most/256+1024)
		unpacked, err := gzip.NewReader(packed)
		if err != nil {
			return nil, &problem{status: http.StatusBadRequest, text: fmt.Sprintf("unpack body: %v", err)}
		}
		body = io.LimitReader(unpacked, most+1)
	default:
		return nil, &problem{http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Encoding %q: send the body as it is, or with gzip", encoding), [2]string{"Accept-Encoding", "gzip"}}
	}
	data, err := io.ReadAll(body)
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over) || int64(len(data)) > most:
		return nil, tooLarge
	case err != nil:
		return nil, &problem{status: http.StatusBadRequest, text: fmt.Sprintf("read body: %v", err)}
	}
	return data, nil
}
