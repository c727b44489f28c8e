package placements

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/sheet"
)

const header = "device_id,tenant_id,room,persons,valid_from,valid_to\n"

// read reads a sheet of days of March 2026: d,school,R,30,2,5 is from the 2nd
// to the 5th.
func read(t *testing.T, lines string) sheet.Sheet[mesh.Placement] {
	t.Helper()
	var text strings.Builder
	text.WriteString(header)
	for line := range strings.Lines(lines) {
		cells := strings.Split(strings.TrimSpace(line), ",")
		for _, i := range []int{4, 5} {
			if len(cells[i]) == 1 {
				cells[i] = "2026-03-0" + cells[i] + "T00:00:00Z"
			}
		}
		text.WriteString(strings.Join(cells, ",") + "\n")
	}
	grid, err := sheet.ReadCSV("p.csv", strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := sheet.Placements.Read(grid)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shown is a move in a line, with days of March.
func shown(m Move) string {
	day := func(t mesh.Instant) string { return strings.TrimPrefix(t.String()[:10], "2026-03-0") }
	to, place := "open", ""
	if m.To != nil {
		to = day(*m.To)
	}
	if m.Place {
		place = " place"
	}
	return m.DeviceID + " " + day(m.From) + "-" + to + " " + m.Now + ">" + m.Then + place
}

func TestMoves(t *testing.T) {
	for name, c := range map[string]struct {
		stored, sheet         string
		moves                 []string
		created, changed, del int
	}{
		"nothing changes":               {"d,school,R,,1,5", "d,school,R,,1,5", nil, 0, 0, 0},
		"new":                           {"", "d,school,,,1,", []string{"d 1-open >school"}, 1, 0, 0},
		"new with a place":              {"", "d,school,R,,1,", []string{"d 1-open >school place"}, 1, 0, 0},
		"shortened":                     {"d,school,R,,1,5", "d,school,R,,1,3", []string{"d 3-5 school> place"}, 0, 1, 0},
		"closed":                        {"d,school,,,1,", "d,school,,,1,3", []string{"d 3-open school>"}, 0, 1, 0},
		"lengthened":                    {"d,school,,,1,3", "d,school,,,1,5", []string{"d 3-5 >school"}, 0, 1, 0},
		"opened":                        {"d,school,,,1,3", "d,school,,,1,", []string{"d 3-open >school"}, 0, 1, 0},
		"deleted":                       {"d,school,,,1,5", "", []string{"d 1-5 school>"}, 0, 0, 1},
		"split between tenants":         {"d,school,,,1,5", "d,school,,,1,3\nd,office,,,3,5", []string{"d 3-5 school>office"}, 1, 1, 0},
		"split without a change":        {"d,school,R,,1,5", "d,school,R,,1,3\nd,school,R,,3,5", nil, 1, 1, 0},
		"place only":                    {"d,school,R,,1,5", "d,school,S,,1,5", []string{"d 1-5 school>school place"}, 0, 1, 0},
		"persons only":                  {"d,school,R,30,1,5", "d,school,R,31,1,5", []string{"d 1-5 school>school place"}, 0, 1, 0},
		"persons not known any more":    {"d,school,R,30,1,5", "d,school,R,,1,5", []string{"d 1-5 school>school place"}, 0, 1, 0},
		"tenant and place":              {"d,school,R,,1,5", "d,office,S,,1,5", []string{"d 1-5 school>office place"}, 0, 1, 0},
		"begins later":                  {"d,school,,,1,5", "d,school,,,2,5", []string{"d 1-2 school>"}, 1, 0, 1},
		"a gap":                         {"d,school,,,1,5", "d,school,,,1,2\nd,school,,,4,5", []string{"d 2-4 school>"}, 1, 1, 0},
		"two pieces of one move":        {"d,school,,,1,3\nd,school,,,3,5", "d,office,,,1,5", []string{"d 1-5 school>office"}, 0, 1, 1},
		"two moves apart":               {"d,school,,,1,2\nd,school,,,3,4", "d,office,,,1,2\nd,office,,,3,4", []string{"d 1-2 school>office", "d 3-4 school>office"}, 0, 2, 0},
		"the boundary of two moves":     {"d,school,,,1,3\nd,office,,,3,5", "d,school,,,1,2\nd,office,,,2,5", []string{"d 2-3 school>office"}, 1, 1, 1},
		"place and tenant side by side": {"d,school,R,,1,5", "d,school,S,,1,3\nd,office,R,,3,5", []string{"d 1-3 school>school place", "d 3-5 school>office"}, 1, 1, 0},
		"two devices":                   {"e,school,,,1,\nd,school,,,1,", "d,office,,,1,\ne,office,,,1,", []string{"d 1-open school>office", "e 1-open school>office"}, 0, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := Make(read(t, c.sheet), read(t, c.stored).Rows)
			var got []string
			for _, m := range p.Moves {
				got = append(got, shown(m))
			}
			if diff := cmp.Diff(c.moves, got); diff != "" {
				t.Errorf("moves (-want +got):\n%s", diff)
			}
			if p.New != c.created || p.Changed != c.changed || p.Deleted != c.del {
				t.Errorf("%d new, %d changed, %d deleted, want %d, %d, %d", p.New, p.Changed, p.Deleted, c.created, c.changed, c.del)
			}
			if empty := c.created+c.changed+c.del == 0; p.Empty() != empty {
				t.Errorf("Empty() = %v, want %v", p.Empty(), empty)
			}
			if p.HeldBack != nil {
				t.Errorf("held back %v of a sheet without a refused row", p.HeldBack)
			}
		})
	}
}

// A placement that was deleted is stored no more, and is new when it comes back.
func TestReaddedPlacementIsNew(t *testing.T) {
	gone := read(t, "d,school,,,1,5").Rows
	gone[0].Deleted = true
	gone[0].Version = 7
	p := Make(read(t, "d,school,,,1,5"), gone)
	if p.New != 1 || p.Changed != 0 || len(p.Moves) != 1 || shown(p.Moves[0]) != "d 1-5 >school" {
		t.Errorf("%+v", p)
	}
}

// What a refused row may stand for stays, and with it all of its device.
func TestRefusedRowHoldsBack(t *testing.T) {
	stored := read(t, "d,school,,,1,3\nd,school,,,3,5\ne,school,,,1,3").Rows
	p := Make(read(t, "d,office,,,1,3\nd,office,,,yesterday,5"), stored)
	want := []Held{{"d", stored[1].ValidFrom}}
	if diff := cmp.Diff(want, p.HeldBack); diff != "" {
		t.Errorf("held back (-want +got):\n%s", diff)
	}
	if len(p.Moves) != 1 || shown(p.Moves[0]) != "e 1-3 school>" || p.Deleted != 1 || p.Changed != 0 {
		t.Errorf("%+v: want e deleted, and nothing of d", p)
	}
	if len(p.Refused) != 1 || !strings.Contains(p.Refused[0], "yesterday") {
		t.Errorf("refused %q", p.Refused)
	}
}

func TestWarningsAreTold(t *testing.T) {
	s := read(t, "d,school,,,1,")
	sheet.WarnOfTenants(&s, []mesh.Customer{{CustomerID: "office"}})
	p := Make(s, nil)
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], `"school" is no customer`) || p.Refused != nil || p.New != 1 {
		t.Errorf("%+v", p)
	}
}

func TestNoMovesAreAnEmptyListInJSON(t *testing.T) {
	b, err := json.Marshal(Make(read(t, ""), nil))
	if err != nil || !strings.Contains(string(b), `"moves":[]`) {
		t.Errorf("%s, %v", b, err)
	}
}
