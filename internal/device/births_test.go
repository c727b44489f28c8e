package device

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/telemesh/telemesh/internal/mesh"
)

// birth is a payload of metrics with an alias each.
func birth(names ...string) []byte {
	var b []byte
	for i, name := range names {
		m := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
		m = protowire.AppendVarint(protowire.AppendTag(m, 2, protowire.VarintType), uint64(i))
		b = protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), m)
	}
	return b
}

func sent(topicName string, payload []byte) *mesh.Message {
	return &mesh.Message{Attributes: map[string]string{topic: "spBv1.0/" + topicName}, Payload: payload, ReceivedAt: 1}
}

// checkSizes says where what Births holds is not what it counts, or too much.
func checkSizes(t *testing.T, b *Births) {
	t.Helper()
	total := 0
	for key, n := range b.nodes {
		size := 0
		for name, born := range n.devices {
			size += definitionSize + len(name)
			for _, d := range born.names {
				size += d.size()
			}
			for alias, d := range born.aliases {
				if born.names[d.name] != d {
					t.Fatalf("%s/%s: alias %d is no metric's", key, name, alias)
				}
			}
		}
		if size != n.size {
			t.Fatalf("%s: %d bytes are counted as %d", key, size, n.size)
		}
		total += size
	}
	if total != b.size || total > maxBirthBytes || len(b.nodes) > maxBirthNodes {
		t.Fatalf("%d nodes, %d bytes counted as %d", len(b.nodes), total, b.size)
	}
}

// However many births come, what is held of them is bounded, and the node that
// came last is held.
func TestBirthsAreBounded(t *testing.T) {
	var names []string
	for i := range 4000 {
		names = append(names, fmt.Sprintf("%0200d", i))
	}
	large := birth(names...)
	b := NewBirths()
	for i := range 50 {
		node := fmt.Sprint(i)
		b.Take(sent("g/NBIRTH/"+node, large))
		if b.nodes["g/"+node].size == 0 {
			t.Fatalf("node %d is not held", i)
		}
	}
	checkSizes(t, b)
	for device := range 20 { // of one node
		b.Take(sent(fmt.Sprintf("g/DBIRTH/n/%d", device), large))
	}
	checkSizes(t, b)
	if size := b.nodes["g/n"].size; size > maxBirthBytes/8 {
		t.Errorf("a node holds %d bytes", size)
	}
	for device := range 100_000 { // of which nothing is told
		b.Take(sent(fmt.Sprintf("g/DBIRTH/n/%d", device), nil))
	}
	checkSizes(t, b)
	b = NewBirths()
	small := birth("a")
	for i := range maxBirthNodes + 100 {
		b.Take(sent(fmt.Sprintf("g/NBIRTH/%d", i), small))
	}
	checkSizes(t, b)
}

// Whatever the bytes, of whatever births: Births holds what it counts, and what
// it says of a data message is an attribute that can be read.
func FuzzBirths(f *testing.F) {
	f.Add(birth("a", "b", "x/a"), birth("c", "a"), []byte{0x12, 2, 0x10, 1}, uint8(0))
	f.Add(birth("bdSeq", "b"), birth("b", "b"), birth("b", ""), uint8(77))
	kinds := []string{"NBIRTH/n", "DBIRTH/n/d", "NDATA/n", "DDATA/n/d", "NDEATH/n", "DDEATH/n/d", "NBIRTH/m", "DDATA/m/d"}
	f.Fuzz(func(t *testing.T, one, two, three []byte, order uint8) {
		b := NewBirths()
		for i, payload := range [][]byte{one, two, three, two, one, three} {
			m := sent("g/"+kinds[(int(order)>>i+i)%len(kinds)], payload)
			rebirth := b.Take(m)
			if rebirth != "" && !strings.HasPrefix(rebirth, "spBv1.0/g/NCMD/") {
				t.Fatalf("rebirth at %s", rebirth)
			}
			if names := m.Attributes[sparkplugNames]; len(names) > maxSparkplugNames {
				t.Fatalf("an attribute of %d bytes", len(names))
			} else if _, _, err := definitions(names); err != nil {
				t.Fatalf("%v: %s", err, names)
			}
			checkSizes(t, b)
		}
	})
}
