package bigquery

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/googleapi"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// Apply makes the datasets, tables and views of the products where they are
// missing, adds columns that a contract has gained, and changes views that say
// something else. It takes nothing away and gives nobody access, so a dataset
// that it makes is the project's owners' alone: what more there is to a project
// is the business of telemesh apply.
func (w *Warehouse) Apply(ctx context.Context, products []contract.Product) error {
	if err := w.use(); err != nil {
		return err
	}
	defer w.users.Done()
	if err := w.checkMadeFrom(products); err != nil {
		return err
	}
	datasets, err := schema.Of(w.config.Project, products)
	if err != nil {
		return err
	}
	for _, d := range datasets {
		if err := w.applyDataset(ctx, &d); err != nil {
			return fmt.Errorf("apply dataset %s: %w", d.Name, err)
		}
		for _, o := range d.Objects {
			if err := w.applyObject(ctx, &o); err != nil {
				return fmt.Errorf("apply %s: %w", o.FullName(), err)
			}
		}
	}
	return w.know(products)
}

// checkMadeFrom says which table is made from one that no product has.
func (w *Warehouse) checkMadeFrom(products []contract.Product) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	known := func(name string) bool {
		return w.tables[name] != nil || slices.ContainsFunc(products, func(p contract.Product) bool {
			return slices.ContainsFunc(p.Tables, func(t contract.Table) bool { return t.FullName() == name })
		})
	}
	for _, p := range products {
		for i := range p.Tables {
			for _, name := range p.Tables[i].MadeFrom {
				if !known(name) {
					return fmt.Errorf("table %s is made from %s, which was not applied", p.Tables[i].FullName(), name)
				}
			}
		}
	}
	return nil
}

func (w *Warehouse) applyDataset(ctx context.Context, d *schema.Dataset) error {
	dataset := w.client.Dataset(d.Name)
	if _, err := dataset.Metadata(ctx); !isCode(err, http.StatusNotFound) {
		return err
	}
	err := dataset.Create(ctx, &bigquery.DatasetMetadata{Location: w.config.Location, Description: d.Purpose, Labels: d.Labels, Access: schema.Owners()})
	if isCode(err, http.StatusConflict) { // somebody else made it meanwhile
		return nil
	}
	return err
}

func (w *Warehouse) applyObject(ctx context.Context, o *schema.Object) error {
	table := w.client.Dataset(o.Dataset).Table(o.Name)
	there, err := table.Metadata(ctx, bigquery.WithMetadataView(bigquery.BasicMetadataView))
	if isCode(err, http.StatusNotFound) {
		if err = table.Create(ctx, o.Metadata); !isCode(err, http.StatusConflict) {
			return err
		}
		// Somebody else made it meanwhile.
		there, err = table.Metadata(ctx, bigquery.WithMetadataView(bigquery.BasicMetadataView))
	}
	if err != nil {
		return err
	}
	want := o.Metadata
	var change bigquery.TableMetadataToUpdate
	switch {
	case (there.ViewQuery == "") != (want.ViewQuery == ""):
		return fmt.Errorf("there is a %s of that name; telemesh apply says how to replace it", there.Type)
	case there.ViewQuery != want.ViewQuery:
		change = bigquery.TableMetadataToUpdate{ViewQuery: want.ViewQuery, Description: want.Description}
	case want.ViewQuery == "":
		fresh, err := freshColumns(there.Schema, want.Schema)
		if err != nil {
			return err
		}
		if len(fresh) == 0 {
			return nil
		}
		change = bigquery.TableMetadataToUpdate{Schema: append(there.Schema, fresh...)}
	default:
		return nil
	}
	_, err = table.Update(ctx, change, there.ETag)
	return err
}

// freshColumns gives the columns that a table has not. They may be NULL,
// whatever the contract says: the rows that are there have none.
func freshColumns(there, want bigquery.Schema) (fresh bigquery.Schema, err error) {
	for _, field := range want {
		i := slices.IndexFunc(there, func(f *bigquery.FieldSchema) bool { return f.Name == field.Name })
		switch {
		case i < 0:
			nullable := *field
			nullable.Required = false
			fresh = append(fresh, &nullable)
		case there[i].Type != field.Type || there[i].Repeated != field.Repeated:
			return nil, fmt.Errorf("column %s is %s, the contract says %s; telemesh apply says what can be done", field.Name, there[i].Type, field.Type)
		}
	}
	return fresh, nil
}

// isCode says whether the REST API answered with an HTTP status.
func isCode(err error, code int) bool {
	e, ok := errors.AsType[*googleapi.Error](err)
	return ok && e.Code == code
}
