package device_test

import (
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/mesh"
)

// The decoded payloads of real LoRaWAN devices, in the envelopes of both
// network servers and bare: each value has its reading, and what the
// dictionary does not know keeps name and value.
func TestDecodedPayloadsOfRealDevices(t *testing.T) {
	root := dataset.Path(t, "lorawan")
	p := device.NewParser(dictionary(t))
	uplinks, undecoded, mapped, passed := 0, 0, 0, 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var cases []struct {
			ID     string `json:"id"`
			Output struct {
				Data json.RawMessage `json:"data"`
			} `json:"output"`
		}
		if err := json.Unmarshal(text, &cases); err != nil {
			return err
		}
		for _, c := range cases {
			data := c.Output.Data
			if data == nil { // the codec made an error of it
				undecoded++
				data = json.RawMessage("null")
			}
			for form, payload := range map[string]string{
				"ttn-v3":        fmt.Sprintf(`{"end_device_ids":{"device_id":"d"},"uplink_message":{"frm_payload":"AQ==","decoded_payload":%s}}`, data),
				"chirpstack-v4": fmt.Sprintf(`{"deviceInfo":{"devEui":"d"},"data":"AQ==","object":%s}`, data),
				"json":          fmt.Sprintf(`{"device_id":"d","metrics":%s}`, data),
			} {
				readings, skipped, err := p.Parse(nil, message(payload))
				switch {
				case c.Output.Data == nil && form == "json": // no metrics, then
					continue
				case c.Output.Data == nil:
					if err == nil {
						t.Errorf("%s as %s: what nobody decoded gave %d readings and no cause", c.ID, form, len(readings))
					}
					continue
				case err != nil:
					t.Errorf("%s as %s: %v", c.ID, form, err)
					continue
				}
				want := map[string]any{}
				leaves(want, "", decode(t, data))
				if len(readings)+skipped != len(want) {
					t.Errorf("%s as %s: %d readings and %d skipped, want %d", c.ID, form, len(readings), skipped, len(want))
				}
				for _, r := range readings {
					v, passes := want[r.Metric]
					if strings.HasPrefix(r.Metric, "device_") || strings.HasSuffix(r.Metric, "_raw") {
						continue
					}
					if !passes && r.Unit == "" {
						t.Errorf("%s as %s: metric %q without unit is nowhere in the payload", c.ID, form, r.Metric)
					}
					if r.Unit == "" && passes && v != value(r) {
						t.Errorf("%s as %s: %s = %v, want %v", c.ID, form, r.Metric, value(r), v)
					}
					if r.Unit != "" {
						mapped++
					} else {
						passed++
					}
				}
			}
			uplinks++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if uplinks < 500 || mapped == 0 {
		t.Errorf("%d uplinks with %d known metrics", uplinks, mapped)
	}
	t.Logf("%d uplinks, %d of them not decoded; of their values the dictionary knows %d and passes %d", uplinks, undecoded, mapped/3, passed/3)
}

// What the uplinks of real LoRaWAN devices give stands in
// testdata/samples/lorawan/VENDOR.txtar, the same from both network servers.
func TestUplinksOfRealDevices(t *testing.T) {
	root := dataset.Path(t, "lorawan")
	p := device.NewParser(dictionary(t))
	goldens := map[string]*txtar.Archive{} // by vendor
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var cases []struct {
			ID, Vendor, Description string
			Input                   struct {
				FPort int   `json:"fPort"`
				Bytes []int `json:"bytes"`
			}
			Output struct {
				Data json.RawMessage `json:"data"`
			}
		}
		if err := json.Unmarshal(text, &cases); err != nil {
			return err
		}
		for _, c := range cases {
			var sent []byte
			for _, b := range c.Input.Bytes {
				sent = append(sent, byte(b))
			}
			frame := base64.StdEncoding.EncodeToString(sent)
			decoded := func(member string) string {
				if c.Output.Data == nil { // the codec made an error of it
					return ""
				}
				return fmt.Sprintf(`,%q:%s`, member, c.Output.Data)
			}
			stack := message(fmt.Sprintf(`{"end_device_ids":{"device_id":"d","dev_eui":"70B3D5E75E00AA01"},
				"uplink_message":{"f_port":%d,"frm_payload":%q%s,"received_at":"1970-01-01T00:01:00Z"}}`, c.Input.FPort, frame, decoded("decoded_payload")))
			chirp := message(fmt.Sprintf(`{"deviceInfo":{"devEui":"70b3d5e75e00aa01"},"time":"1970-01-01T00:01:00Z","fPort":%d,"data":%q%s}`,
				c.Input.FPort, frame, decoded("object")))
			got, other := table(p.Parse(nil, stack)), table(p.Parse(nil, chirp))
			if c.Output.Data != nil && got != other {
				t.Errorf("%s: not the same from both (-The Things Stack +ChirpStack):\n%s", c.ID, cmp.Diff(got, other))
			} else if c.Output.Data == nil {
				got += other
			}
			golden := goldens[c.Vendor]
			if golden == nil {
				golden = &txtar.Archive{}
				goldens[c.Vendor] = golden
			}
			golden.Files = append(golden.Files, txtar.File{Name: c.ID, Data: []byte(got)})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for vendor, got := range goldens {
		slices.SortFunc(got.Files, func(a, b txtar.File) int { return strings.Compare(a.Name, b.Name) })
		path := filepath.Join("testdata/samples/lorawan", vendor+".txtar")
		if *update {
			if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(txtar.Format(got))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func value(r mesh.Reading) any {
	switch r.Kind {
	case mesh.Boolean:
		return r.Value == 1
	case mesh.Text:
		return r.ValueString
	}
	return r.Value
}

func decode(t *testing.T, data []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// leaves is what flattening means, said once more.
func leaves(to map[string]any, name string, v any) {
	switch v := v.(type) {
	case map[string]any:
		if value, ok := v["value"].(float64); ok && len(v) > 1 {
			_, unit := v["unit"].(string)
			_, named := v["displayName"].(string)
			if len(v) == 2 && (unit || named) || len(v) == 3 && unit && named {
				to[name] = value
				return
			}
		}
		for k, m := range v {
			leaves(to, below(name, k), m)
		}
	case []any:
		for i, e := range v {
			leaves(to, below(name, strconv.Itoa(i)), e)
		}
	default:
		to[name] = v
	}
}

func below(name, last string) string {
	if name == "" {
		return last
	}
	return name + "_" + last
}

// Every message of the wild gives the readings that stand in
// testdata/samples/FOLDER.txtar, or says why it gives none.
func TestEnvelopesOfTheWild(t *testing.T) {
	root := dataset.Path(t, "envelopes")
	folders, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	p := device.NewParser(dictionary(t), mappings(t)...)
	for _, folder := range folders {
		path := filepath.Join("testdata/samples", folder.Name()+".txtar")
		var got txtar.Archive
		files, err := os.ReadDir(filepath.Join(root, folder.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(filepath.Join(root, folder.Name(), file.Name()))
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, m := range unwrap(t, folder.Name(), file.Name(), text) {
				b.WriteString(table(p.Parse(nil, m)))
			}
			got.Files = append(got.Files, txtar.File{Name: file.Name(), Data: []byte(b.String())})
		}
		if *update {
			if err := os.WriteFile(path, txtar.Format(&got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(txtar.Format(&got))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// unwrap gives the messages of a sample file. Most are the message itself;
// some tell besides what came over which topic, or with which attributes.
func unwrap(t *testing.T, folder, file string, text []byte) []*mesh.Message {
	m := message(strings.TrimSpace(string(text)))
	var sample struct {
		Topic      string            `json:"topic"`
		Payload    json.RawMessage   `json:"payload"`
		PayloadHex string            `json:"payload_hex"`
		Attributes map[string]string `json:"attributes"`
		Now        *float64          `json:"now"`
		Pack       json.RawMessage   `json:"pack"`
		// Of a CloudEvent.
		SpecVersion, Type, Source, ID, Time string
		Data                                json.RawMessage
	}
	if filepath.Ext(file) == ".json" && text[0] == '{' {
		if err := json.Unmarshal(text, &sample); err != nil {
			t.Fatal(err)
		}
	}
	switch name := folder + "/" + file; {
	case sample.Pack != nil:
		m.Payload = sample.Pack
		if sample.Now != nil {
			m.ReceivedAt = mesh.Instant(*sample.Now * 1e6)
		}
	case name == "senml/ex3.cbor.hex":
		m.ContentType, m.Payload = "application/senml+cbor", nil
		for line := range strings.Lines(string(text)) { // offset, bytes, | text |
			line, _, _ = strings.Cut(line, "|")
			for _, b := range strings.Fields(line)[1:] {
				v, err := strconv.ParseUint(b, 16, 8)
				if err != nil {
					t.Fatal(err)
				}
				m.Payload = append(m.Payload, byte(v))
			}
		}
	case name == "senml/ex3.xml":
		m.ContentType = "application/senml+xml"
	case sample.PayloadHex != "":
		payload, err := hex.DecodeString(sample.PayloadHex)
		if err != nil {
			t.Fatal(err)
		}
		m.Attributes, m.Payload = map[string]string{"topic": sample.Topic}, payload
	case name == "sparkplug-b/dbirth.json": // as a gateway shows it that has decoded it
		m.Attributes = map[string]string{"topic": "spBv1.0/group/DBIRTH/node/device"}
	case sample.Topic != "":
		m.Attributes, m.Payload = map[string]string{"topic": sample.Topic}, sample.Payload
	case name == "mqtt-home/zigbee2mqtt-air-monitor.json":
		m.Attributes = map[string]string{"topic": "zigbee2mqtt/air monitor"}
	case name == "chirpstack-v4/gcp-pubsub-attributes.json": // of up.json
		m.Attributes = sample.Attributes
		up, err := os.ReadFile(dataset.Path(t, "envelopes/chirpstack-v4/up.json"))
		if err != nil {
			t.Fatal(err)
		}
		m.Payload = up
	case name == "aws/shadow-reported-nrf91.json": // a part of one
		m.Attributes = map[string]string{"topic": "$aws/things/thingy/shadow/update"}
		m.Payload = fmt.Appendf(nil, `{"state":{"reported":%s}}`, text)
	case sample.SpecVersion != "": // as ingest hands it on
		m.Payload, m.ID, m.Source = sample.Data, sample.ID, sample.Source
		m.Attributes = map[string]string{"type": sample.Type, "time": sample.Time}
	case filepath.Ext(file) == ".txt":
		return nil // prose
	case strings.HasPrefix(name, "sensorthings/"):
		m.Attributes = map[string]string{"topic": "v1.0/Datastreams(1)/Observations"}
	}
	return []*mesh.Message{m}
}

// A real room as wide rows and as long ones: the same readings, over the end of
// summer time, whatever the metrics are called. The wide file has what the
// building management system (bms) says as float32, the long one as float64.
func TestWideIsLong(t *testing.T) {
	dir := dataset.Path(t, "indoor-air/windesheim-b4b2022")
	p := device.NewParser(dictionary(t))
	flatten := func(source, at string, metrics ...string) []mesh.Reading {
		readings, skipped, err := p.Parse(nil, message(fmt.Sprintf(`{"device_id":%q,"time":%q,"metrics":{%s}}`, source, at, strings.Join(metrics, ","))))
		if err != nil || skipped > 0 || len(readings) != len(metrics) {
			t.Fatalf("%s at %s: %d readings of %q, %d skipped, %v", source, at, len(readings), metrics, skipped, err)
		}
		return readings
	}
	type entry struct {
		value   float64
		several bool // the file has this key twice
	}
	long := map[string]entry{} // by id
	for _, row := range rows(t, filepath.Join(dir, "925038_raw_measurements.csv"))[1:] {
		r := flatten(row[1], row[2], fmt.Sprintf("%q:%s", row[3], row[4]))[0]
		_, several := long[r.ReadingID]
		long[r.ReadingID] = entry{r.Value, several}
	}
	table := rows(t, filepath.Join(dir, "925038_raw_properties.csv"))
	wide := map[string]bool{}
	duplicates := 0
	for _, row := range table[1:] {
		var metrics []string
		var cells []float64
		for i, cell := range row[3:] {
			if cell == "" {
				continue
			}
			value, err := strconv.ParseFloat(cell, 64)
			if err != nil {
				t.Fatal(err)
			}
			metrics, cells = append(metrics, fmt.Sprintf("%q:%s", table[0][3+i], cell)), append(cells, value)
		}
		for i, r := range flatten(row[1], row[2], metrics...) {
			wide[r.ReadingID] = true
			if r.Value != cells[i] {
				t.Errorf("%s: %s = %v, want %v", row[2], r.Metric, r.Value, cells[i])
			}
			want, ok := long[r.ReadingID]
			within := 1e-9
			if row[1] == "bms" {
				within = 1e-7 * want.value
			}
			switch {
			case want.several:
				duplicates++
			case !ok || math.Abs(r.Value-want.value) > within:
				t.Errorf("%s: %s of %s = %v, want %v", row[2], r.Metric, row[1], r.Value, want)
			}
		}
	}
	if len(wide) != 17_570 || len(long) != len(wide) || duplicates != 5 {
		t.Errorf("%d wide and %d long readings with %d duplicates, want 17570 and 5", len(wide), len(long), duplicates)
	}
}

func rows(t *testing.T, path string) [][]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return all
}
