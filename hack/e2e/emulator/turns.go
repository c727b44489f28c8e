package emulator

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
)

// turns has what writes go through the emulator one by one: a row that is
// appended while a script runs may wait for ever for a lock that waits for it.
// Queries go side by side.
type turns struct{ sync.RWMutex }

func (turns *turns) handler(emulator http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			fail(w, http.StatusBadRequest, "invalid", err.Error())
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		var lock sync.Locker = turns
		if strings.HasSuffix(r.URL.Path, "/queries") && reads(body) {
			lock = turns.RLocker()
		}
		lock.Lock()
		defer lock.Unlock()
		emulator.ServeHTTP(w, r)
	})
}

// reads says whether the body of jobs.query is a query.
func reads(body []byte) bool {
	var request struct {
		Query string `json:"query"`
	}
	if json.Unmarshal(body, &request) != nil {
		return false
	}
	sql := strings.ToUpper(strings.TrimSpace(request.Query))
	return strings.HasPrefix(sql, "SELECT") || strings.HasPrefix(sql, "WITH")
}
