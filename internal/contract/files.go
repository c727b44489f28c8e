package contract

import (
	"path"
	"strings"
)

// File is the descriptor in the folder of the products.
func (p *Product) File() string { return path.Join(p.Name, descriptorFile) }

// File is the contract in the folder of the products.
func (t *Table) File() string {
	product := strings.ReplaceAll(strings.TrimSuffix(t.Schema, InternalSuffix), "_", "-")
	return path.Join(product, t.Name+contractSuffix)
}

// File is the SQL of the view in the folder of the products.
func (v *View) File() string {
	return path.Join(strings.ReplaceAll(v.Schema, "_", "-"), "views", v.Name+".sql")
}
