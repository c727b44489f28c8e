package ingest

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"mime"
	"slices"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/jsonsplit"
	"github.com/telemesh/telemesh/internal/mesh"
)

const (
	// maxParts, messages of a request, bounds what a small body of very many may
	// take in memory.
	maxParts = 100_000
	// partBytes is how much of a body of lines makes one message: little of it is
	// lost with a line that cannot be read, and little is said of each line.
	partBytes = 16 << 10
)

var errTooMany = fmt.Errorf("more than %d messages in one request: send them in parts", maxParts)

// split makes messages of a request. They are received one after the other, a
// microsecond apart: those that tell no time take this one, and must not all
// say something of the same instant. The error is that of a body of more than
// 100,000 messages.
func (in *request) split() ([]mesh.Message, []refusal, error) {
	contentType := in.header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		mediaType = contentType
	}
	switch {
	case in.push:
		return in.fromPush()
	case mediaType == event.ApplicationCloudEventsBatchJSON:
		return in.fromBatch()
	case mediaType != event.ApplicationCloudEventsJSON && strings.HasPrefix(mediaType, "application/cloudevents"):
		return nil, []refusal{in.refuse(in.body, 0, fmt.Errorf("read CloudEvent: the event format %s is not known: send JSON", mediaType))}, nil
	case mediaType == event.ApplicationCloudEventsJSON || in.header.Get("Ce-Specversion") != "":
		m, err := in.fromEvent(mediaType)
		if err != nil {
			return nil, []refusal{in.refuse(in.body, 0, err)}, nil
		}
		in.describe(&m)
		return []mesh.Message{m}, nil, nil
	}
	parts, mediaType := in.parts(mediaType)
	if len(parts) > maxParts {
		return nil, nil, errTooMany
	}
	messages := make([]mesh.Message, len(parts))
	for i, part := range parts {
		messages[i] = newMessage(part, mediaType, in.now+mesh.Instant(i))
		in.describe(&messages[i])
	}
	return messages, nil, nil
}

// parts gives what of the body is a message each, and the media type of them.
// JSON needs none further on: it is what a message is by default.
func (in *request) parts(mediaType string) ([][]byte, string) {
	switch mediaType {
	case "application/x-www-form-urlencoded": // curl -d says it, of anything
		mediaType = ""
	default:
		mediaType = mesh.MediaType(mediaType)
	}
	switch {
	case in.format == "line-protocol":
		return chunks(in.body, 0, lineEnds(in.body)), mediaType
	case mediaType == "text/csv" || mediaType == "text/tab-separated-values" || in.format == "csv":
		header := 0
		for end := range rowEnds(in.body) {
			header = end
			break
		}
		return chunks(in.body, header, rowEnds(in.body)), mediaType
	case slices.Contains([]string{"application/x-ndjson", "application/ndjson", "application/jsonl"}, mediaType):
		return lines(in.body), ""
	case mediaType != "":
		return [][]byte{in.body}, mediaType
	}
	// A named format need not be JSON, whatever the content type says.
	if trimmed := bytes.TrimSpace(in.body); in.format != "" && len(trimmed) > 0 && trimmed[0] != '{' && trimmed[0] != '[' {
		return [][]byte{in.body}, ""
	}
	return elements(in.body), ""
}

// chunks cuts a body of rows into parts of partBytes, or of one row where that
// is longer. Each part begins with the header, which is the first bytes of the
// body. A header so long that its repetition would be most of what is said
// keeps the body whole.
func chunks(body []byte, header int, ends iter.Seq[int]) [][]byte {
	if len(body) <= partBytes || header > partBytes/4 {
		return [][]byte{body}
	}
	var parts [][]byte
	from, to := header, header
	cut := func() {
		if len(bytes.TrimSpace(body[from:to])) > 0 {
			parts = append(parts, slices.Concat(body[:header], body[from:to]))
		}
		from = to
	}
	for end := range ends {
		if header+end-from > partBytes && to > from {
			cut()
		}
		to = max(end, header)
	}
	to = len(body)
	cut()
	if parts == nil {
		return [][]byte{body}
	}
	return parts
}

// lineEnds gives where the lines of body end.
func lineEnds(body []byte) iter.Seq[int] {
	return func(yield func(int) bool) {
		end := 0
		for line := range bytes.Lines(body) {
			if end += len(line); !yield(end) {
				return
			}
		}
	}
}

// rowEnds gives where the rows of a CSV end; a line within a quoted cell ends
// none. The separator is the one that the first line has most of.
func rowEnds(body []byte) iter.Seq[int] {
	return func(yield func(int) bool) {
		first, _, _ := bytes.Cut(bytes.TrimSpace(body), []byte("\n"))
		rows := csv.NewReader(bytes.NewReader(body))
		rows.FieldsPerRecord, rows.LazyQuotes, rows.ReuseRecord = -1, true, true
		for _, comma := range ";\t|" {
			if bytes.Count(first, []byte(string(comma))) > bytes.Count(first, []byte(string(rows.Comma))) {
				rows.Comma = comma
			}
		}
		for {
			if _, err := rows.Read(); err != nil || !yield(int(rows.InputOffset())) {
				return
			}
		}
	}
}

func newMessage(payload []byte, contentType string, now mesh.Instant) mesh.Message {
	source := mesh.Source(name)
	return mesh.Message{ID: mesh.Hash(source, string(payload)), Source: source, ContentType: contentType, ReceivedAt: now, Payload: payload}
}

// elements splits JSON of unknown shape: arrays that are no SenML packs into
// their elements, and values that stand after each other. Where one of them is
// broken and there are whole lines, the lines are the messages; else what is
// broken is a message of its own, as far as brackets tell its end. What does not
// begin as JSON is one message.
func elements(body []byte) [][]byte {
	body = bytes.TrimSpace(body)
	if len(body) == 0 || body[0] != '[' && json.Valid(body) {
		return [][]byte{body}
	}
	if isPack(body) {
		return packs(body)
	}
	return values(body)
}

// values splits JSON whatever its arrays are.
func values(body []byte) [][]byte {
	body = bytes.TrimSpace(body)
	var parts [][]byte
	whole := true
	values := jsonsplit.New(bufio.NewReader(bytes.NewReader(body)), len(body))
	for {
		_, part, err := values.Next()
		if err != nil { // the end: bytes give no other error
			whole = whole && err == io.EOF
			break
		}
		whole = whole && json.Valid(part)
		if parts = append(parts, bytes.Clone(part)); len(parts) > maxParts {
			return parts
		}
	}
	switch {
	case !whole && areLines(body):
		return lines(body)
	case !whole && (len(parts) == 0 || body[0] != '{' && body[0] != '['): // no JSON: a table may be, or text
		return [][]byte{body}
	}
	return parts
}

// isPack says whether body is an array whose first element is a SenML record:
// what it says holds for the others, RFC 8428 section 4.1. All that
// device.IsPack takes for a pack is one here; what is one here alone costs
// nothing, since the reader of an array reads its elements. That function would
// bring every reader with it, and make this program half as large again.
func isPack(body []byte) bool {
	elements := json.NewDecoder(bytes.NewReader(body))
	var record map[string]json.RawMessage
	if start, err := elements.Token(); err != nil || start != json.Delim('[') || !elements.More() || elements.Decode(&record) != nil {
		return false
	}
	isString := func(name string) bool { return len(record[name]) > 0 && record[name][0] == '"' }
	if isString("bn") {
		return true
	}
	return isString("n") && slices.ContainsFunc([]string{"v", "vs", "vb", "vd", "s"}, func(name string) bool { return record[name] != nil })
}

// packs splits what begins with a pack into values that stand after each
// other. If one of them is broken, nobody can say what its records mean: all of
// it is one message.
func packs(body []byte) [][]byte {
	var parts [][]byte
	values := json.NewDecoder(bytes.NewReader(body))
	for {
		var value json.RawMessage
		switch err := values.Decode(&value); {
		case err == io.EOF:
			return parts
		case err != nil:
			return [][]byte{body}
		}
		if value[0] == '[' && !isPack(value) {
			parts = append(parts, elements(value)...)
		} else {
			parts = append(parts, value)
		}
		if len(parts) > maxParts {
			return parts
		}
	}
}

// areLines says whether one of the lines in body is a message. Objects within
// what is printed over several lines are none: they are indented, or they stand
// in an array, behind a bracket or comma or before one.
func areLines(body []byte) bool {
	array := body[0] == '['
	within := false // the line before ends within an array
	found := false  // the line before is a message, unless this one goes on with the array
	for line := range bytes.Lines(body) {
		text := bytes.TrimSpace(line)
		if len(text) == 0 {
			continue
		}
		if found && text[0] != ',' && text[0] != ']' {
			return true
		}
		found = !within && (line[0] == '{' || line[0] == '[') && json.Valid(text)
		last := text[len(text)-1]
		within = array && (last == ',' || last == '[')
	}
	return found
}

func lines(body []byte) [][]byte {
	var parts [][]byte
	for line := range bytes.Lines(body) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			if parts = append(parts, line); len(parts) > maxParts {
				break
			}
		}
	}
	return parts
}
