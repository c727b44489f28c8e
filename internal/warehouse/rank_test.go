package warehouse_test

import (
	"testing"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// A digest is stored: a contract that gains an optional column, or has its
// columns in another order, gives the same of the same row.
func TestDigestOutlivesTheContract(t *testing.T) {
	before := contract.Table{Key: []string{"id"}, Columns: []contract.Column{
		{Name: "id", Type: contract.String, Required: true},
		{Name: "name", Type: contract.String},
		{Name: "weight", Type: contract.Float64},
		{Name: "sender", Type: contract.String, Provenance: true},
	}}
	after := contract.Table{Key: []string{"id"}, Columns: []contract.Column{
		{Name: "weight", Type: contract.Float64},
		{Name: "gained", Type: contract.Int64},
		{Name: "id", Type: contract.String, Required: true},
		{Name: "by", Type: contract.String, Provenance: true},
		{Name: "sender", Type: contract.String, Provenance: true},
		{Name: "name", Type: contract.String},
	}}
	id, name, weight, sender := warehouse.String("1"), warehouse.String("One"), warehouse.Float(0.5), warehouse.String("/s")
	row := []warehouse.Cell{id, name, weight, sender, warehouse.Instant(7)}
	same := []warehouse.Cell{weight, warehouse.Null, id, warehouse.Null, sender, name, warehouse.Instant(8)}
	a, b := warehouse.NewRanking(&before), warehouse.NewRanking(&after)
	if a.Content(row) != b.Content(same) || a.Origin(row) != b.Origin(same) {
		t.Error("the digests of a row changed with its contract")
	}
	same[1] = warehouse.Int(0)
	if a.Content(row) == b.Content(same) {
		t.Error("a value in the gained column did not change what the row says")
	}
	// What one column says is not what another one says.
	if a.Content(row) == a.Content([]warehouse.Cell{id, warehouse.Null, weight, sender, warehouse.Instant(7)}) ||
		a.Content([]warehouse.Cell{id, name, warehouse.Null, sender}) == a.Content([]warehouse.Cell{id, warehouse.Null, weight, sender}) {
		t.Error("rows that say different things have one digest")
	}
}
