package tenancy

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unsafe"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/mesh"
)

// AppendLine appends an assignment as a line of JSON.
func AppendLine(b []byte, a *mesh.Assignment) []byte {
	b = append(b, `{"device_id":`...)
	b = appendText(b, a.DeviceID)
	if a.TenantID != "" {
		b = appendText(append(b, `,"tenant_id":`...), a.TenantID)
	}
	b = a.ValidFrom.AppendText(append(b, `,"valid_from":"`...))
	if a.ValidTo != nil {
		b = a.ValidTo.AppendText(append(b, `","valid_to":"`...))
	}
	b = strconv.AppendInt(append(b, `","version":`...), a.Version, 10)
	return append(b, "}\n"...)
}

func appendText(b []byte, s string) []byte {
	b, err := jsontext.AppendQuote(b, s)
	if err != nil { // invalid UTF-8, which no row of a warehouse has; it is replaced
		return b
	}
	return b
}

// maxLine is far beyond any assignment.
const maxLine = 1 << 20

// decode calls each with every line of r. What it is called with is its own
// until it returns only.
func decode(r io.Reader, each func(*mesh.Assignment) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		line := lines.Bytes()
		var a mesh.Assignment
		if !quick(unsafe.String(unsafe.SliceData(line), len(line)), &a) {
			a = mesh.Assignment{}
			if err := json.Unmarshal(line, &a); err != nil {
				return fmt.Errorf("assignment %d: %w", n, err)
			}
		}
		if err := each(&a); err != nil {
			return fmt.Errorf("assignment %d: %w", n, err)
		}
	}
	return lines.Err()
}

// quick reads the form that AppendLine writes, an order of magnitude faster
// than a general parser: a cold start reads millions of lines.
func quick(s string, a *mesh.Assignment) bool {
	var from, to, version string
	var ok bool
	if a.DeviceID, s, ok = member(s, `{"device_id":"`); !ok {
		return false
	}
	a.TenantID, s, _ = member(s, `,"tenant_id":"`)
	if from, s, ok = member(s, `,"valid_from":"`); !ok {
		return false
	}
	var err error
	if a.ValidFrom, err = mesh.ParseInstant(from); err != nil {
		return false
	}
	if to, s, ok = member(s, `,"valid_to":"`); ok {
		at, err := mesh.ParseInstant(to)
		if err != nil {
			return false
		}
		a.ValidTo = &at
	}
	if version, ok = strings.CutPrefix(s, `,"version":`); !ok {
		return false
	}
	if version, ok = strings.CutSuffix(version, "}"); !ok {
		return false
	}
	a.Version, err = strconv.ParseInt(version, 10, 64)
	return err == nil
}

// member reads a member that is a string without escapes; name ends with its
// opening quote. If it does not come next, rest is s.
func member(s, name string) (value, rest string, ok bool) {
	rest, ok = strings.CutPrefix(s, name)
	if !ok {
		return "", s, false
	}
	end := strings.IndexByte(rest, '"')
	if end < 0 || strings.IndexByte(rest[:end], '\\') >= 0 {
		return "", s, false
	}
	return rest[:end], rest[end+1:], true
}
