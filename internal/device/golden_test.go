package device_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

var update = flag.Bool("update", false, "write the golden files anew; read the difference before it is committed")

// golden is an example of a format: testdata/formats/FORMAT/NAME.txtar with the files
//
//	message   what the transport said, a line "name: value" each: content-type,
//	          device, format, received-at, all other names are attributes; may
//	          be left out
//	payload   or payload.hex, with white space anywhere
//	readings  what comes out, as table writes it
type golden struct {
	path, format string
	archive      *txtar.Archive
	message      *mesh.Message
}

// cases are the examples of all formats.
func cases(t testing.TB) []golden {
	t.Helper()
	paths, err := filepath.Glob("testdata/formats/*/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		g := golden{path: path, format: filepath.Base(filepath.Dir(path)), archive: archive, message: message("")}
		for _, f := range archive.Files {
			switch f.Name {
			case "message":
				for line := range strings.Lines(string(f.Data)) {
					name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
					if !ok {
						t.Fatalf("%s: message: %q is no name: value", path, line)
					}
					tell(t, g.message, name, value)
				}
			case "payload":
				g.message.Payload = bytes.TrimSuffix(f.Data, []byte("\n"))
			case "payload.hex":
				if g.message.Payload, err = hex.DecodeString(strings.Join(strings.Fields(string(f.Data)), "")); err != nil {
					t.Fatalf("%s: %v", path, err)
				}
			case "readings":
			default:
				t.Fatalf("%s: there should be no file %s", path, f.Name)
			}
		}
		all = append(all, g)
	}
	return all
}

// tell sets what a transport says of a message.
func tell(t testing.TB, m *mesh.Message, name, value string) {
	switch name {
	case "content-type":
		m.ContentType = value
	case "device":
		m.DeviceID = value
	case "format":
		m.Format = value
	case "received-at":
		at, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			t.Fatal(err)
		}
		m.ReceivedAt = mesh.At(at)
	default:
		if m.Attributes == nil {
			m.Attributes = map[string]string{}
		}
		m.Attributes[name] = value
	}
}

// table writes readings for people: device, time, quality and attributes where
// they change, each metric below them; or why there are none.
func table(readings []mesh.Reading, skipped int, err error) string {
	var b strings.Builder
	last := ""
	for _, r := range readings {
		head := strings.Join(strings.Fields(fmt.Sprint(r.DeviceID, " at ", r.ObservedAt, " ", r.Quality, " ", r.Attributes)), " ")
		if head != last {
			fmt.Fprintln(&b, head)
			last = head
		}
		value := fmt.Sprint(r.Value)
		switch {
		case r.Kind == mesh.Boolean:
			value = fmt.Sprint(r.Value == 1)
		case r.Kind == mesh.Text:
			value = fmt.Sprintf("%q", r.ValueString)
		case r.ValueString != "":
			value += " (" + r.ValueString + ")"
		}
		fmt.Fprintln(&b, strings.TrimRight("  "+r.Metric+" "+value+" "+r.Unit, " "))
	}
	if skipped > 0 {
		fmt.Fprintf(&b, "skipped %d\n", skipped)
	}
	var cause *device.Error
	switch {
	case errors.As(err, &cause):
		fmt.Fprintf(&b, "rejected by %q at %d: %v\n", cause.Reader, cause.Position, err)
	case err != nil:
		fmt.Fprintf(&b, "error %T: %v\n", err, err)
	case b.Len() == 0:
		fmt.Fprintln(&b, "measures nothing")
	}
	return b.String()
}

func TestFormats(t *testing.T) {
	p := device.NewParser(dictionary(t))
	for _, c := range cases(t) {
		readings, skipped, err := p.Parse(nil, c.message)
		got := table(readings, skipped, err)
		at := -1
		for i, f := range c.archive.Files {
			if f.Name == "readings" {
				at = i
			}
		}
		if *update {
			if at < 0 {
				at = len(c.archive.Files)
				c.archive.Files = append(c.archive.Files, txtar.File{Name: "readings"})
			}
			c.archive.Files[at].Data = []byte(got)
			if err := os.WriteFile(c.path, txtar.Format(c.archive), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if at < 0 {
			t.Errorf("%s: no readings", c.path)
			continue
		}
		if diff := cmp.Diff(string(c.archive.Files[at].Data), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.path, diff)
		}
	}
}

// example says whether g is the one that docs/formats.md shows.
func (g golden) example() bool { return filepath.Base(g.path) == "example.txtar" }
