package contract

import (
	"maps"
	"slices"
)

// Kept says that a warehouse may keep the rows of a view ready: they are groups
// of the rows of one table by the hour. What the view shows is the same.
type Kept struct {
	// Table is what the view reads, and nothing else. The view has all its KeyOf
	// but its Time.
	Table string `json:"table"`
	// Hour is the column of the view that has the hour of the table's Time.
	Hour string `json:"hour"`
	// Merge are the columns that are no groups, and how two rows of a group are
	// made one: sum, min or max.
	Merge map[string]string `json:"merge"`
}

// checkKept looks for the tables whose hours are kept. The store finds new rows
// by recorded_at, and the hour of one that takes another's place by KeyOf.
func (l *loader) checkKept(products []Product) {
	of := map[string]string{}
	for i := range products {
		for _, v := range products[i].Views {
			if v.Kept == nil {
				continue
			}
			file, field := products[i].Name+"/"+descriptorFile, l.fields[v.FullName()]+".customProperties.kept"
			var t *Table
			for j := range products[i].Tables {
				if products[i].Tables[j].FullName() == v.Kept.Table {
					t = &products[i].Tables[j]
				}
			}
			switch {
			case t == nil || !t.port() || t.Time == "" || !slices.Contains(t.KeyOf, t.Time) || t.column(RecordedAt) == nil:
				l.fail(fieldError(file, field+".table", v.Kept.Table, "an output port of the product with recorded_at, and a keyOf that has the column it is partitioned by"))
				continue
			case of[v.Kept.Table] != "":
				l.fail(fieldError(file, field+".table", v.Kept.Table, "a table that no other view keeps; "+of[v.Kept.Table]+" does"))
			case !identifier.MatchString(v.Kept.Hour):
				l.fail(fieldError(file, field+".hour", v.Kept.Hour, "a column of the view"))
			case len(v.Kept.Merge) == 0:
				l.fail(fieldError(file, field+".merge", "", "columns of the view"))
			}
			for _, column := range slices.Sorted(maps.Keys(v.Kept.Merge)) {
				if how := v.Kept.Merge[column]; how != "sum" && how != "min" && how != "max" || !identifier.MatchString(column) {
					l.fail(fieldError(file, field+".merge."+column, how, "a column: sum, min or max"))
				}
			}
			for _, name := range t.KeyOf {
				if !t.column(name).Required {
					l.fail(fieldError(file, field+".table", v.Kept.Table, "a table whose keyOf is never NULL; "+name+" may be"))
				}
			}
			of[v.Kept.Table] = v.FullName()
		}
	}
}
