// Package etag serves an answer that clients keep and ask for again: by a
// strong ETag that names its state, plain or zipped.
package etag

import (
	"net/http"
	"strconv"
	"strings"
)

// Answer begins an answer whose state tag names, without quotes. zip says that
// it has to be zipped, as its header says by then. Where the client has it
// already it is told so, and nothing is left to write: done.
func Answer(w http.ResponseWriter, r *http.Request, tag string) (zip, done bool) {
	h := w.Header()
	h.Set("Cache-Control", "no-cache") // keep it, but ask
	h.Set("Vary", "Accept-Encoding")
	zip = acceptsGzip(r.Header.Values("Accept-Encoding"))
	// A strong tag names bytes: those of the two encodings differ.
	own := tag
	if zip {
		own += "-gzip"
	}
	h.Set("ETag", `"`+own+`"`)
	if Matches(r, tag) {
		w.WriteHeader(http.StatusNotModified)
		return zip, true
	}
	if zip {
		h.Set("Content-Encoding", "gzip")
	}
	return zip, false
}

// Matches says whether the client has the answer that tag names, in either
// encoding: who has the one needs not the other (RFC 9110, section 13.1.2: weak
// comparison).
func Matches(r *http.Request, tag string) bool {
	for _, value := range r.Header.Values("If-None-Match") {
		for one := range strings.SplitSeq(value, ",") {
			one = strings.TrimPrefix(strings.TrimSpace(one), "W/")
			if one == "*" || one == `"`+tag+`"` || one == `"`+tag+`-gzip"` {
				return true
			}
		}
	}
	return false
}

// acceptsGzip reads Accept-Encoding (RFC 9110, section 12.5.3), in which q=0
// refuses.
func acceptsGzip(values []string) bool {
	for _, value := range values {
		for one := range strings.SplitSeq(value, ",") {
			coding, parameters, _ := strings.Cut(strings.TrimSpace(one), ";")
			if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
				continue
			}
			q, ok := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(parameters, " ", "")), "q=")
			if !ok {
				return true
			}
			weight, err := strconv.ParseFloat(q, 64)
			return err == nil && weight > 0
		}
	}
	return false
}
