package sheet_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/products"
)

func at(t *testing.T, s string) mesh.Instant {
	t.Helper()
	i, err := mesh.ParseInstant(s)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func read[R any](t *testing.T, kind sheet.Kind[R], csv string) sheet.Sheet[R] {
	t.Helper()
	got, err := kind.Read(grid(t, csv))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func grid(t *testing.T, csv string) sheet.Grid {
	t.Helper()
	g, err := sheet.ReadCSV("s.csv", strings.NewReader(csv))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func refusals[R any](s sheet.Sheet[R]) []string {
	var out []string
	for _, f := range s.Findings {
		out = append(out, sheet.Describe(f))
	}
	return out
}

func TestReadPlacements(t *testing.T) {
	got := read(t, sheet.Placements, "\ufeffValid_From, tenant_id ,device_id,valid_to,persons,outside_co2,room,version\r\n"+
		"2026-03-02T08:30:00+01:00,school, d1 ,2026-03-03 08:30 +0100,30,420.5,\"1.02, left\",7\r\n"+
		",,,,,,,\r\n"+
		"2026-03-03T07:30:00.5Z,office,d1,,,,,\r\n")
	end, persons, outside := at(t, "2026-03-03T07:30:00Z"), int64(30), 420.5
	want := []mesh.Placement{
		{DeviceID: "d1", TenantID: "school", Room: "1.02, left", Persons: &persons, OutsideCO2: &outside,
			ValidFrom: at(t, "2026-03-02T07:30:00Z"), ValidTo: &end},
		{DeviceID: "d1", TenantID: "office", ValidFrom: at(t, "2026-03-03T07:30:00.5Z")},
	}
	if diff := cmp.Diff(want, got.Rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if len(got.Findings) > 0 {
		t.Errorf("refused %v, want none", refusals(got))
	}
}

func TestReadRefusesRowsAndGoesOn(t *testing.T) {
	for _, c := range []struct{ name, row, want string }{
		{"no device", ",t,2026-01-01T00:00:00Z,,", `s.csv: row 2: column "device_id": empty`},
		{"no start", "d,t,,,", `s.csv: row 2: column "valid_from": empty`},
		{"no offset", "d,t,2026-01-01T00:00:00,,", `s.csv: row 2: column "valid_from": "2026-01-01T00:00:00" is not a time with an offset, such as 2026-03-02T08:30:00+01:00 or 2026-03-02T07:30:00Z`},
		{"no such day", "d,t,2026-02-30T00:00:00Z,,", `s.csv: row 2: column "valid_from": "2026-02-30T00:00:00Z" is not a time with an offset, such as 2026-03-02T08:30:00+01:00 or 2026-03-02T07:30:00Z`},
		{"empty interval", "d,t,2026-01-01T01:00:00+01:00,2026-01-01T00:00:00Z,", `s.csv: row 2: column "valid_to": 2026-01-01T00:00:00Z is not after valid_from 2026-01-01T00:00:00Z`},
		{"persons", "d,t,2026-01-01T00:00:00Z,,-1", `s.csv: row 2: column "persons": "-1" is not a whole number from 0`},
		{"cells", "d,t,2026-01-01T00:00:00Z", `s.csv: row 2: 3 cells, the header has 5`},
		{"quote", `d,t",2026-01-01T00:00:00Z,,`, "s.csv: row 2: bare \" in non-quoted-field"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := read(t, sheet.Placements, "device_id,tenant_id,valid_from,valid_to,persons\n"+c.row+"\ngood,t,2026-01-01T00:00:00Z,,\n")
			if diff := cmp.Diff([]string{c.want}, refusals(got)); diff != "" {
				t.Errorf("refused (-want +got):\n%s", diff)
			}
			if len(got.Rows) != 1 || got.Rows[0].DeviceID != "good" {
				t.Errorf("rows = %v, want the good one", got.Rows)
			}
		})
	}
}

func TestReadRefusesOverlap(t *testing.T) {
	got := read(t, sheet.Placements, `device_id,tenant_id,valid_from,valid_to
d,a,2026-01-01T00:00:00Z,2026-01-02T00:00:00Z
d,b,2026-01-02T00:00:00Z,2026-01-03T00:00:00Z
e,b,2026-01-01T00:00:00Z,
d,c,2026-01-02T12:00:00Z,
d,c,2026-01-03T00:00:00Z,
`)
	want := []string{`s.csv: row 5: [2026-01-02T12:00:00Z, …) of device "d" overlaps [2026-01-02T00:00:00Z, 2026-01-03T00:00:00Z) of row 3`}
	if diff := cmp.Diff(want, refusals(got)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	if len(got.Rows) != 4 {
		t.Errorf("%d rows, want the 4 that touch but do not overlap", len(got.Rows))
	}
}

func TestReadActionsAndCustomers(t *testing.T) {
	actions := read(t, sheet.Actions, `action_id,tenant_id,device_id,building,room,action,taken_at
a1,t,,Main,1.02,window opened,2026-01-01T10:00:00Z
a2,t,,Main,,window opened,2026-01-01T10:00:00Z
a1,t,d,,,window closed,2026-01-01T11:00:00Z
`)
	want := []mesh.Action{{ActionID: "a1", TenantID: "t", Building: "Main", Room: "1.02", Action: "window opened", TakenAt: at(t, "2026-01-01T10:00:00Z")}}
	if diff := cmp.Diff(want, actions.Rows); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
	wantRefused := []string{
		`s.csv: row 3: column "room": empty, and so is device_id: an action is about a device or a room`,
		`s.csv: row 4: action_id "a1" is that of row 2`,
	}
	if diff := cmp.Diff(wantRefused, refusals(actions)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	customers := read(t, sheet.Customers, "country,customer_id,name,sector\nNL,t,Linden School,education\n")
	if diff := cmp.Diff([]mesh.Customer{{CustomerID: "t", Name: "Linden School", Sector: "education", Country: "NL"}}, customers.Rows); diff != "" {
		t.Errorf("customers (-want +got):\n%s", diff)
	}
}

// As spreadsheets of other countries and programs export it.
func TestCSVDialects(t *testing.T) {
	want := []mesh.Customer{{CustomerID: "a", Name: "A, or; B"}, {CustomerID: "b", Name: "two\nlines"}}
	for name, csv := range map[string]string{
		"comma":               "customer_id,name\na,\"A, or; B\"\nb,\"two\nlines\"\n",
		"semicolon":           "customer_id;name\na;\"A, or; B\"\nb;\"two\nlines\"\n",
		"empty rows above":    ";\n\n;\ncustomer_id;name\na;\"A, or; B\"\nb;\"two\nlines\"\n",
		"tab":                 "customer_id\tname\r\na\tA, or; B\r\nb\t\"two\nlines\"\r\n",
		"sep":                 "sep=;\r\nname;customer_id\r\n\"A, or; B\";a\r\n\"two\nlines\";b\r\n",
		"sep of a tab":        "\"sep=\t\"\nname\tcustomer_id\nA, or; B\ta\n\"two\nlines\"\tb\n",
		"quotes behind a BOM": "\ufeff\"customer_id\",\"name\"\n\"a\",\"A, or; B\"\n\"b\",\"two\nlines\"\n",
		"sep behind a BOM":    "\ufeffsep=;\ncustomer_id;name\na;\"A, or; B\"\nb;\"two\nlines\"\n",
		"carriage returns":    "customer_id,name\ra,\"A, or; B\"\rb,\"two\rlines\"\r",
		"no end of line":      "customer_id;name\ra;\"A, or; B\"\rb;\"two\nlines\"",
	} {
		t.Run(name, func(t *testing.T) {
			got := read(t, sheet.Customers, csv)
			if diff := cmp.Diff(want, got.Rows); diff != "" || len(got.Findings) > 0 {
				t.Errorf("refused %v, rows (-want +got):\n%s", refusals(got), diff)
			}
		})
	}
	// The numbers of rows are those of the lines.
	got := read(t, sheet.Customers, "sep=;\ncustomer_id;name\na;A\nb;\n")
	if diff := cmp.Diff([]string{`s.csv: row 4: column "name": empty (customer_id "b")`}, refusals(got)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	for _, csv := range []string{"\xff\xfec\x00,\x00", "\xfe\xff\x00c\x00,", "c\x00u\x00", "\x00c\x00u"} {
		if _, err := sheet.ReadCSV("s.csv", strings.NewReader(csv)); !errors.As(err, new(sheet.Fault)) || !strings.Contains(err.Error(), "UTF-16") {
			t.Errorf("ReadCSV(%q) = %v, want a fault that names UTF-16", csv, err)
		}
	}
}

// A quote that is not closed swallows rows: it is told which, and none of them
// looks deleted.
func TestQuoteThatIsNotClosed(t *testing.T) {
	const head = "customer_id,name\n"
	stored := sheet.Customers.Changes(read(t, sheet.Customers, head+"a,A\nb,B\nc,C\n"), nil, 0)
	for csv, want := range map[string]string{
		head + "a,A\nb,\"B\nc,C\n":     `s.csv: row 3: extraneous or missing " in quoted-field: rows 3 to 4 are taken for one, whose quote is not closed`,
		head + "a,A\nb,\"B\nc,\"C\"\n": `s.csv: row 3: extraneous or missing " in quoted-field: rows 3 to 4 are taken for one, whose quote is not closed`,
	} {
		got := read(t, sheet.Customers, csv)
		if diff := cmp.Diff([]string{want}, refusals(got)); diff != "" {
			t.Errorf("%q: refused (-want +got):\n%s", csv, diff)
		}
		if changes := sheet.Customers.Changes(got, stored, 1); len(changes) > 0 {
			t.Errorf("%q: changes %+v, want none", csv, changes)
		}
	}
}

func TestReadRefusesFile(t *testing.T) {
	for _, c := range []struct{ name, csv, want string }{
		{"empty", "", "empty: the first row must name the columns customer_id, name, sector, country"},
		{"missing", "customer_id,sector\n", `row 1: no column "name"`},
		{"unknown", "customer_id,name,sektor\n", `row 1: column "sektor" is not one of customer_id, name, sector, country`},
		{"twice", "customer_id,name,Name\n", `row 1: column "name" is there twice`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := sheet.Customers.Read(grid(t, c.csv))
			if err == nil || err.Error() != c.want {
				t.Errorf("Read = %v, want %s", err, c.want)
			}
		})
	}
	broken := errors.New("disk gone")
	_, err := sheet.ReadCSV("s.csv", iotest.ErrReader(broken))
	if !errors.Is(err, broken) {
		t.Errorf("ReadCSV = %v, want the reader's error", err)
	}
}

const before = `device_id,tenant_id,room,persons,valid_from,valid_to
d,a,1,30,2026-01-01T00:00:00Z,
e,a,2,,2026-01-01T00:00:00Z,
`

// store gives what a port shows after changes were stored on top of rows.
func store(rows, changes []mesh.Placement) []mesh.Placement {
	byKey := map[string]mesh.Placement{}
	for _, p := range append(rows, changes...) {
		if key := p.DeviceID + p.ValidFrom.String(); p.Version >= byKey[key].Version {
			byKey[key] = p
		}
	}
	var out []mesh.Placement
	for _, p := range byKey {
		if !p.Deleted {
			out = append(out, p)
		}
	}
	return out
}

func TestChanges(t *testing.T) {
	stored := sheet.Placements.Changes(read(t, sheet.Placements, before), nil, 0)
	if len(stored) != 2 || stored[0].Version != 1 || stored[1].Version != 1 {
		t.Fatalf("first read changes %+v, want both rows with version 1", stored)
	}
	if again := sheet.Placements.Changes(read(t, sheet.Placements, before), stored, 1); len(again) != 0 {
		t.Errorf("the same sheet again changes %+v, want nothing", again)
	}

	// d moves, e is taken out, f comes.
	moved := read(t, sheet.Placements, `device_id,tenant_id,room,persons,valid_from,valid_to
f,a,2,,2026-01-01T00:00:00Z,
d,a,1,30,2026-01-01T00:00:00Z,2026-01-05T00:00:00Z
d,b,9,12,2026-01-05T00:00:00Z,
`)
	changes := sheet.Placements.Changes(moved, stored, 1)
	start, end, thirty, twelve := at(t, "2026-01-01T00:00:00Z"), at(t, "2026-01-05T00:00:00Z"), int64(30), int64(12)
	want := []mesh.Placement{
		{DeviceID: "d", TenantID: "a", Room: "1", Persons: &thirty, ValidFrom: start, ValidTo: &end, Version: 2},
		{DeviceID: "d", TenantID: "b", Room: "9", Persons: &twelve, ValidFrom: end, Version: 2},
		{DeviceID: "e", TenantID: "a", ValidFrom: start, Version: 2, Deleted: true},
		{DeviceID: "f", TenantID: "a", Room: "2", ValidFrom: start, Version: 2},
	}
	if diff := cmp.Diff(want, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	stored = store(stored, changes)
	if again := sheet.Placements.Changes(moved, stored, 2); len(again) != 0 {
		t.Errorf("the same sheet again changes %+v, want nothing", again)
	}
}

// A deletion takes a version that no row of the port shows. A row that comes
// back must get a higher one, or the tombstone would win.
func TestChangesOutrankTombstones(t *testing.T) {
	first := sheet.Placements.Changes(read(t, sheet.Placements, before), nil, 0)
	without := read(t, sheet.Placements, strings.Join(strings.SplitAfter(before, "\n")[:2], ""))
	gone := sheet.Placements.Changes(without, first, 1)
	back := sheet.Placements.Changes(read(t, sheet.Placements, before), store(first, gone), 2)
	if len(back) != 1 || back[0].Version != 3 || back[0].Deleted {
		t.Errorf("changes = %+v, want device e with version 3", back)
	}
	// Who reads all versions sees the tombstone itself.
	back = sheet.Placements.Changes(read(t, sheet.Placements, before), append(first[:1:1], gone...), 0)
	if len(back) != 1 || back[0].Version != 3 || back[0].Deleted {
		t.Errorf("changes = %+v, want device e with version 3", back)
	}
}

// A typo in a row must not look as if the row had been taken out: the device
// would lose its tenant until somebody notices.
func TestRefusedRowDeletesNothing(t *testing.T) {
	stored := sheet.Placements.Changes(read(t, sheet.Placements, before), nil, 0)
	for _, c := range []struct {
		name, csv string
		want      []string // devices that change
	}{
		{"typo in the key", `device_id,tenant_id,valid_from
d,a,2026-13-01T00:00:00Z
d,b,2026-06-01T00:00:00Z
g,a,2026-01-01T00:00:00Z
`, []string{"e", "g"}},
		{"device not told", `device_id,tenant_id,valid_from
,a,2026-01-01T00:00:00Z
g,a,2026-01-01T00:00:00Z
`, []string{"g"}},
		{"refused beside a row that is still there", `device_id,tenant_id,room,persons,valid_from
d,a,1,31,2026-01-01T00:00:00Z
d,b,1,31,2026-02-01T00:00:00Z
e,a,2,,2026-01-01T00:00:00Z
`, []string{"d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := read(t, sheet.Placements, c.csv)
			if len(s.Findings) != 1 {
				t.Fatalf("refused %v, want one row", refusals(s))
			}
			var got []string
			for _, p := range sheet.Placements.Changes(s, stored, 1) {
				got = append(got, p.DeviceID)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("devices that change (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWriteReadsBack(t *testing.T) {
	rows := sheet.Placements.Changes(read(t, sheet.Placements, before), nil, 0)
	var b bytes.Buffer
	if err := sheet.Placements.Write(&b, rows); err != nil {
		t.Fatal(err)
	}
	if again := sheet.Placements.Changes(read(t, sheet.Placements, b.String()), rows, 1); len(again) != 0 {
		t.Errorf("what was written and read back changes %+v, want nothing", again)
	}
}

func TestEvents(t *testing.T) {
	var rows []mesh.Placement
	for i := range 25_000 {
		// Devices with two rows each: an odd split would part them.
		rows = append(rows, mesh.Placement{DeviceID: "d" + strings.Repeat("x", i/2%7) + string(rune('a'+i/2%26)), ValidFrom: mesh.Instant(i), Version: 4})
	}
	rows = rows[1:]
	events := sheet.Placements.Events("test", rows)
	var got []mesh.Placement
	for i, e := range events {
		if err := e.Validate(); err != nil {
			t.Fatal(err)
		}
		if e.Type() != mesh.PlacementsChanged {
			t.Errorf("type = %s, want %s", e.Type(), mesh.PlacementsChanged)
		}
		data, err := mesh.Decode[mesh.Placements](e.Data())
		if err != nil {
			t.Fatal(err)
		}
		if n := len(e.Data()); n > 512<<10 {
			t.Errorf("event %d has %d bytes, want at most 512 KiB", i, n)
		}
		if i > 0 && got[len(got)-1].DeviceID == data.Placements[0].DeviceID {
			t.Errorf("event %d parts device %s", i, data.Placements[0].DeviceID)
		}
		got = append(got, data.Placements...)
	}
	if diff := cmp.Diff(rows, got); diff != "" {
		t.Errorf("rows of all events (-want +got):\n%s", diff)
	}
	if n := len(events); n > 8 { // of about 2.4 MB
		t.Errorf("%d events, want them filled", n)
	}
	again := sheet.Placements.Events("test", rows)
	rows[0].Version++
	later := sheet.Placements.Events("test", rows)
	if events[0].ID() != again[0].ID() || events[0].ID() == later[0].ID() || events[0].ID() == events[1].ID() {
		t.Errorf("ids %s, again %s, with another version %s, next event %s: want the same, another, another",
			events[0].ID(), again[0].ID(), later[0].ID(), events[1].ID())
	}
	if none := sheet.Placements.Events("test", nil); len(none) != 0 {
		t.Errorf("no changes make %d events, want none", len(none))
	}
}

// Cells as long as they may be, and one that is longer: no event is longer than
// brokers take, but for a device that is so alone.
func TestLongCells(t *testing.T) {
	long := strings.Repeat("x", 4096)
	var csv strings.Builder
	csv.WriteString("device_id,tenant_id,valid_from,valid_to,building,room\n")
	for i := range 100 {
		fmt.Fprintf(&csv, "d%02d,a,2026-01-01T00:00:00Z,,%s,%s\n", i, long, long)
	}
	fmt.Fprintf(&csv, "e,a,2026-01-01T00:00:00Z,,,%sx\n", long)
	for i := range 100 {
		fmt.Fprintf(&csv, "f,a,%d-01-01T00:00:00Z,%d-01-01T00:00:00Z,%s,%s\n", 1900+i, 1901+i, long, long)
	}
	got := read(t, sheet.Placements, csv.String())
	if diff := cmp.Diff([]string{`s.csv: row 102: column "room": it has 4097 bytes, at most 4096 are accepted`}, refusals(got)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	changes := sheet.Placements.Changes(got, nil, 0)
	rows := 0
	for _, e := range sheet.Placements.Events("test", changes) {
		data, err := mesh.Decode[mesh.Placements](e.Data())
		if err != nil {
			t.Fatal(err)
		}
		rows += len(data.Placements)
		first, last := data.Placements[0].DeviceID, data.Placements[len(data.Placements)-1].DeviceID
		if n := len(e.Data()); n > 512<<10 && (first != "f" || len(data.Placements) != 100) {
			t.Errorf("the event of %s to %s has %d bytes", first, last, n)
		}
	}
	if rows != 200 {
		t.Errorf("%d rows in events, want 200", rows)
	}
	empty := read(t, sheet.Placements, "device_id,tenant_id,valid_from\n")
	for _, e := range sheet.Placements.Events("test", sheet.Placements.Changes(empty, changes, 1)) {
		if strings.Contains(string(e.Data()), "xxx") {
			t.Error("a row that is gone carries its texts")
		}
	}
}

// A tenant's id is an attribute of events: what no header can carry would fail
// on a cluster only.
func TestIDWithControlCharacterIsRefused(t *testing.T) {
	got := read(t, sheet.Customers, "customer_id,name\n\"a\nb\",A\nc,\"two\nlines\"\n")
	if len(got.Rows) != 1 || len(got.Findings) != 1 || got.Findings[0].Column != "customer_id" {
		t.Errorf("read %+v, want the first row refused for its customer_id and the second read", got)
	}
}

// Two ids of which one holds what nobody sees would look like one tenant.
func TestIDWithInvisibleCharacterIsRefused(t *testing.T) {
	for _, id := range []string{"a\u200b", "\u200ea", "a\u00adb", "a\ufeff"} {
		got := read(t, sheet.Customers, "name,customer_id\nA,"+id+"\n")
		want := []string{fmt.Sprintf(`s.csv: row 2: column "customer_id": %q holds an invisible character: write it again by hand`, id)}
		if diff := cmp.Diff(want, refusals(got)); diff != "" {
			t.Errorf("%q: refused (-want +got):\n%s", id, diff)
		}
	}
}

// All that is wrong with a row is told at once; nothing that only follows from it.
func TestAllThatIsWrongWithARowIsTold(t *testing.T) {
	got := read(t, sheet.Placements, `device_id,tenant_id,valid_from,valid_to,persons
,,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z,x
d,a,never,2026-01-01T00:00:00Z,
d,a,2026-01-01T00:00:00Z,2026-02-01T00:00:00Z,
d,a,2026-02-01T00:00:00Z,2026-03-01T00:00:00Z,
d,a,2026-01-15T00:00:00Z,2026-02-15T00:00:00Z,
`)
	want := []string{
		`s.csv: row 2: column "persons": "x" is not a whole number from 0`,
		`s.csv: row 2: column "device_id": empty`,
		`s.csv: row 2: column "tenant_id": empty`,
		`s.csv: row 2: column "valid_to": 2026-01-01T00:00:00Z is not after valid_from 2026-01-02T00:00:00Z`,
		`s.csv: row 3: column "valid_from": "never" is not a time with an offset, such as 2026-03-02T08:30:00+01:00 or 2026-03-02T07:30:00Z`,
		`s.csv: row 6: [2026-01-15T00:00:00Z, 2026-02-15T00:00:00Z) of device "d" overlaps [2026-01-01T00:00:00Z, 2026-02-01T00:00:00Z) of row 4; ` +
			`[2026-01-15T00:00:00Z, 2026-02-15T00:00:00Z) of device "d" overlaps [2026-02-01T00:00:00Z, 2026-03-01T00:00:00Z) of row 5`,
	}
	if diff := cmp.Diff(want, refusals(got)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}

// An event must be JSON and must not be too long, whatever stands in a cell.
func TestFindingsFitIntoAnEvent(t *testing.T) {
	got := read(t, sheet.Placements, "device_id,tenant_id,valid_from\n\xff\xfe,a,"+strings.Repeat("é", 100_000)+"\n")
	if len(got.Findings) != 2 {
		t.Fatalf("findings %v, want two", refusals(got))
	}
	if n := len(mesh.Encode(mesh.RejectedRows{Rows: got.Findings})); n > 5000 {
		t.Errorf("the findings about two cells take %d bytes", n)
	}
	lost := sheet.Unreadable[mesh.Placement]("\xff.csv", errors.New("\xff"))
	mesh.Encode(mesh.RejectedRows{Rows: lost.Findings})
}

// A kind of sheet is its contract: a person fills in every column but those the
// store and the source set, of these types, and those that must be there.
func TestKindsFollowTheirContracts(t *testing.T) {
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]contract.Table{}
	for _, p := range list {
		for _, table := range p.Tables {
			tables[table.FullName()] = table
		}
	}
	check := func(name string, header func([]string) error, row func(map[string]string) []string) {
		table, ok := tables[name]
		if !ok {
			t.Fatalf("no contract of %s", name)
		}
		cells, columns := map[string]string{}, []string{}
		for _, c := range table.Columns {
			if c.Name == contract.Version || c.Name == contract.RecordedAt {
				continue
			}
			columns = append(columns, c.Name)
			cells[c.Name] = map[contract.Type]string{contract.String: "x", contract.Int64: "1", contract.Float64: "1.5", contract.Timestamp: "2026-03-02T08:30:00Z"}[c.Type]
			if c.Name == "valid_to" {
				cells[c.Name] = "2026-03-03T08:30:00Z"
			}
		}
		if err := header(columns); err != nil {
			t.Errorf("%s: header of its columns: %v", name, err)
		}
		if wrong := row(cells); len(wrong) > 0 {
			t.Errorf("%s: a row of its types: %v", name, wrong)
		}
		for _, c := range table.Columns {
			if _, ok := cells[c.Name]; !ok {
				continue
			}
			without := maps.Clone(cells)
			delete(without, c.Name)
			if wrong := row(without); (len(wrong) > 0) != c.Required {
				t.Errorf("%s: a row without %s: %v; required: %v", name, c.Name, wrong, c.Required)
			}
			if c.Type != contract.String {
				without[c.Name] = "none"
				if wrong := row(without); len(wrong) == 0 {
					t.Errorf("%s: %q is taken for %s, which is %s", name, "none", c.Name, c.Type)
				}
			}
		}
	}
	check("iot_metadata.placements", headerOf(sheet.Placements), rowOf(sheet.Placements))
	check("iot_actions.actions", headerOf(sheet.Actions), rowOf(sheet.Actions))
	check("customers.customers", headerOf(sheet.Customers), rowOf(sheet.Customers))
}

func headerOf[R any](kind sheet.Kind[R]) func([]string) error {
	return func(columns []string) error {
		row := sheet.Row{Number: 1}
		for _, name := range columns {
			row.Cells = append(row.Cells, name)
		}
		_, err := kind.Read(sheet.Grid{Rows: []sheet.Row{row}})
		return err
	}
}

func rowOf[R any](kind sheet.Kind[R]) func(map[string]string) []string {
	return func(cells map[string]string) []string {
		header, row := sheet.Row{Number: 1}, sheet.Row{Number: 2}
		for name, cell := range cells {
			header.Cells, row.Cells = append(header.Cells, name), append(row.Cells, cell)
		}
		got, err := kind.Read(sheet.Grid{Rows: []sheet.Row{header, row}})
		if err != nil {
			return []string{err.Error()}
		}
		return refusals(got)
	}
}
