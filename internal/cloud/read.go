package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/bigquery"
	"golang.org/x/sync/errgroup"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// readers is how many requests are under way at a time.
const readers = 8

// read says what the project is: what is wanted, as far as it is there, and
// what else is labelled as Telemesh's. Tables are all those of its datasets.
func (p *Project) read(ctx context.Context, w *wanted) (*state, error) {
	s := newState()
	names := make([]string, len(w.schema))
	for i, d := range w.schema {
		names[i] = d.Name
	}
	list := p.config.BigQuery.Datasets(ctx)
	list.Filter = "labels." + managedBy + ":" + telemesh
	for {
		d, err := list.Next()
		if errors.Is(err, iterator.Done) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("list datasets of project %s: %w", p.config.Project, err)
		}
		if !slices.Contains(names, d.DatasetID) {
			names = append(names, d.DatasetID)
		}
	}
	var mu sync.Mutex
	var tables []*bigquery.Table
	err := concurrently(ctx, names, func(ctx context.Context, name string) error {
		metadata, err := p.config.BigQuery.Dataset(name).Metadata(ctx)
		if isCode(err, http.StatusNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read dataset %s: %w", name, err)
		}
		if w.datasets[name] == nil && metadata.Labels[managedBy] != telemesh {
			return nil
		}
		found, err := p.list(ctx, name)
		mu.Lock()
		defer mu.Unlock()
		s.datasets[name], s.access[name] = metadata, map[entry]bool{}
		for _, a := range metadata.Access {
			s.access[name][p.entry(a)] = true
		}
		tables = append(tables, found...)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = concurrently(ctx, tables, func(ctx context.Context, t *bigquery.Table) error {
		metadata, err := t.Metadata(ctx)
		if isCode(err, http.StatusNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read table %s.%s: %w", t.DatasetID, t.TableID, err)
		}
		mu.Lock()
		defer mu.Unlock()
		s.tables[t.DatasetID+"."+t.TableID] = metadata
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := p.readRows(ctx, s); err != nil {
		return nil, err
	}
	return s, p.readFeeds(ctx, s)
}

func concurrently[T any](ctx context.Context, list []T, do func(context.Context, T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, one := range list {
		group.Go(func() error { return do(ctx, one) })
	}
	return group.Wait()
}

func (p *Project) list(ctx context.Context, dataset string) ([]*bigquery.Table, error) {
	var tables []*bigquery.Table
	list := p.config.BigQuery.Dataset(dataset).Tables(ctx)
	for {
		t, err := list.Next()
		if errors.Is(err, iterator.Done) {
			return tables, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list tables of dataset %s: %w", dataset, err)
		}
		tables = append(tables, t)
	}
}

// readRows reads the two tables of the platform. It lists them, which no query
// is billed for.
func (p *Project) readRows(ctx context.Context, s *state) error {
	err := p.rows(ctx, s, schema.Members, func(row map[string]bigquery.Value) error {
		name, _ := row["member"].(string)
		tenant, _ := row["tenant_id"].(string)
		s.members[member{name, tenant}] = true
		return nil
	})
	if err != nil {
		return err
	}
	latest := map[string]time.Time{}
	return p.rows(ctx, s, schema.Contracts, func(row map[string]bigquery.Value) error {
		name, _ := row["table_name"].(string)
		version, _ := row["version"].(string)
		text, _ := row["contract"].(string)
		at, _ := row["applied_at"].(time.Time)
		if at.Before(latest[name]) {
			return nil
		}
		// A JSON column keeps neither the order of members nor white space.
		var part *contract.Product
		if err := json.Unmarshal([]byte(text), &part); err != nil {
			return fmt.Errorf("contract of %s: %w", name, err)
		}
		again, err := json.Marshal(part)
		latest[name], s.contracts[name] = at, record{version, string(again)}
		return err
	})
}

// readQueries asks for the columns of the views that no contract describes and
// that get another query. They are not known where what a query reads is not
// made yet, or has not all columns yet.
func (p *Project) readQueries(ctx context.Context, w *wanted, s *state) error {
	for _, d := range w.schema {
		for _, o := range d.Objects {
			name, have := o.FullName(), s.tables[o.FullName()]
			if o.Contract != nil || have == nil || have.ViewQuery == o.Metadata.ViewQuery ||
				slices.ContainsFunc(o.Reads, func(read string) bool { return s.tables[read] == nil }) {
				continue
			}
			q := p.config.BigQuery.Query(o.Metadata.ViewQuery)
			q.DryRun = true
			job, err := q.Run(ctx)
			switch {
			case isCode(err, http.StatusBadRequest), isCode(err, http.StatusNotFound):
			case isCode(err, http.StatusForbidden):
				w.notes = append(w.notes, fmt.Sprintf("view %s: whether its readers lose columns is not known: %v", name, err))
			case err != nil:
				return fmt.Errorf("dry run of the query of view %s: %w", name, err)
			default:
				if details, ok := job.LastStatus().Statistics.Details.(*bigquery.QueryStatistics); ok {
					s.queries[name] = details.Schema
				}
			}
		}
	}
	return nil
}

func (p *Project) rows(ctx context.Context, s *state, table string, each func(map[string]bigquery.Value) error) error {
	if s.tables[table] == nil {
		return nil
	}
	rows := p.table(table).Read(ctx)
	for {
		row := map[string]bigquery.Value{}
		err := rows.Next(&row)
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err == nil {
			err = each(row)
		}
		if err != nil {
			return fmt.Errorf("read rows of %s: %w", table, err)
		}
	}
}

// isCode says whether the REST API answered with an HTTP status.
func isCode(err error, code int) bool {
	e, ok := errors.AsType[*googleapi.Error](err)
	return ok && e.Code == code
}

// datasetOf is the first part of dataset.name.
func datasetOf(name string) string {
	dataset, _, _ := strings.Cut(name, ".")
	return dataset
}
