package function

import (
	"net/http"
	"strings"
)

// KeptHeader gives what of a request's header may be kept with a message that
// was not accepted: the attributes of its CloudEvent, its content type and what
// sent it. All else may hold a secret: Authorization, Cookie, the API keys of
// any vendor.
func KeptHeader(h http.Header) http.Header {
	kept := http.Header{}
	for name, values := range h {
		if strings.HasPrefix(name, "Ce-") || name == "Content-Type" || name == "User-Agent" {
			kept[name] = values
		}
	}
	return kept
}
