package emulator

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
)

// What the handler before the emulator fills, as the client of BigQuery sees
// it.
func TestREST(t *testing.T) {
	ctx := t.Context()
	e := Start(t)
	client, err := e.Config().NewClient(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	isCode := func(err error, code int) bool {
		var e *googleapi.Error
		return errors.As(err, &e) && e.Code == code
	}

	dataset := client.Dataset("d")
	if _, err := dataset.Metadata(ctx); !isCode(err, http.StatusNotFound) {
		t.Errorf("Metadata() of no dataset = %v, want 404", err)
	}
	if err := dataset.Create(ctx, &bigquery.DatasetMetadata{Description: "one", Labels: map[string]string{"a": "1", "b": "2"}}); err != nil {
		t.Fatal(err)
	}
	if err := dataset.Create(ctx, &bigquery.DatasetMetadata{}); !isCode(err, http.StatusConflict) {
		t.Errorf("second Create() = %v, want 409", err)
	}
	first, err := dataset.Metadata(ctx)
	if err != nil || len(first.Access) != 4 || first.ETag == "" {
		t.Fatalf("Metadata() = %+v, %v, want the default access and an ETag", first, err)
	}
	change := bigquery.DatasetMetadataToUpdate{Description: "", Access: []*bigquery.AccessEntry{
		{Role: bigquery.ReaderRole, EntityType: bigquery.UserEmailEntity, Entity: "a@example.org"},
		{EntityType: bigquery.ViewEntity, View: client.Dataset("other").Table("v")}}}
	change.DeleteLabel("a")
	second, err := dataset.Update(ctx, change, first.ETag)
	if err != nil || len(second.Access) != 2 || second.Access[1].View.TableID != "v" || second.Description != "" ||
		len(second.Labels) != 1 || second.Labels["b"] != "2" || second.ETag == first.ETag {
		t.Fatalf("Update() = %+v, %v, want what was changed", second, err)
	}
	if _, err := dataset.Update(ctx, change, first.ETag); !isCode(err, http.StatusPreconditionFailed) {
		t.Errorf("Update() of what was changed = %v, want 412", err)
	}

	table := dataset.Table("t")
	if err := table.Create(ctx, &bigquery.TableMetadata{Schema: bigquery.Schema{{Name: "a", Type: bigquery.IntegerFieldType}}}); err != nil {
		t.Fatal(err)
	}
	made, err := table.Metadata(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, client, "INSERT INTO d.t (a) VALUES (1)"); len(got) != 0 {
		t.Errorf("INSERT gives %v", got)
	}
	with := bigquery.TableMetadataToUpdate{Schema: append(made.Schema, &bigquery.FieldSchema{Name: "b", Type: bigquery.StringFieldType})}
	if _, err := table.Update(ctx, with, made.ETag); err != nil {
		t.Fatalf("Update() after a row came = %v", err)
	}
	if _, err := table.Update(ctx, with, made.ETag); !isCode(err, http.StatusPreconditionFailed) {
		t.Errorf("Update() of what was changed = %v, want 412", err)
	}
	if got := ask(t, client, "SELECT b FROM d.t"); len(got) != 1 || got[0][0] != nil {
		t.Errorf("a column that was added is %v", got)
	}

	view := dataset.Table("v")
	if err := view.Create(ctx, &bigquery.TableMetadata{ViewQuery: "SELECT a FROM `d.t`", Description: "kept"}); err != nil {
		t.Fatal(err)
	}
	changed, err := view.Update(ctx, bigquery.TableMetadataToUpdate{ViewQuery: "SELECT a + 1 AS c FROM `d.t`"}, "")
	if err != nil || changed.ViewQuery != "SELECT a + 1 AS c FROM `d.t`" || changed.Description != "kept" ||
		len(changed.Schema) != 1 || changed.Schema[0].Name != "c" {
		t.Errorf("Update() of a view = %+v, %v", changed, err)
	}
	if got := ask(t, client, "SELECT c, SESSION_USER() FROM d.v"); len(got) != 1 || got[0][0] != int64(2) || got[0][1] != User {
		t.Errorf("the view shows %v", got)
	}
}

// Jobs run beside each other, give their answers by pages, and can be stopped.
func TestJobs(t *testing.T) {
	ctx := t.Context()
	client, err := Start(t).Config().NewClient(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	run := func(sql string, dry bool) (*bigquery.Job, error) {
		query := client.Query(sql)
		query.DryRun = dry
		return query.Run(ctx)
	}

	job, err := run("SELECT x, TIMESTAMP '2024-03-01 12:00:00.000001+00' AS y FROM UNNEST(GENERATE_ARRAY(1, 2500)) AS x ORDER BY x", false)
	if err != nil {
		t.Fatal(err)
	}
	it, err := job.Read(ctx)
	if err != nil || it.TotalRows != 2500 {
		t.Fatalf("Read() = %v, want 2500 rows", err)
	}
	for i := range 2500 {
		var row []bigquery.Value
		if err := it.Next(&row); err != nil || row[0] != int64(i+1) || row[1] != time.Date(2024, 3, 1, 12, 0, 0, 1000, time.UTC) {
			t.Fatalf("row %d is %v, %v", i, row, err)
		}
		if i == 0 && it.PageInfo().Remaining() != pageRows-1 {
			t.Errorf("a page of %d rows, want %d", it.PageInfo().Remaining()+1, pageRows)
		}
	}

	wrong := func(err error) bool {
		var e *googleapi.Error
		return errors.As(err, &e) && e.Code == http.StatusBadRequest && e.Errors[0].Reason == "invalidQuery"
	}
	if job, err = run("SELECT nothing", false); err != nil {
		t.Fatal(err)
	}
	if _, err := job.Read(ctx); !wrong(err) {
		t.Errorf("Read() of what is no query = %v, want invalidQuery", err)
	}
	if _, err := run("SELECT nothing", true); !wrong(err) {
		t.Errorf("a dry run of what is no query = %v, want invalidQuery", err)
	}
	if job, err = run("SELECT 1 AS a, 'x' AS b", true); err != nil {
		t.Fatal(err)
	}
	if schema := job.LastStatus().Statistics.Details.(*bigquery.QueryStatistics).Schema; len(schema) != 2 || schema[1].Name != "b" {
		t.Errorf("a dry run gives the columns %v", schema)
	}

	// 6.4e10 rows: nobody waits for the end.
	job, err = run("SELECT COUNT(*) FROM UNNEST(GENERATE_ARRAY(1, 4000)) AS a, UNNEST(GENERATE_ARRAY(1, 4000)) AS b, "+
		"UNNEST(GENERATE_ARRAY(1, 4000)) AS c WHERE a + b + c = 7", false)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := job.Status(ctx); err != nil || status.State != bigquery.Running {
		t.Errorf("Status() = %v, %v, want that it runs", status, err)
	}
	if err := job.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	var stopped *googleapi.Error
	if _, err := job.Wait(ctx); !errors.As(err, &stopped) || stopped.Errors[0].Reason != "stopped" {
		t.Errorf("Wait() = %v, want that it was stopped", err)
	}
	if got := ask(t, client, "SELECT 1"); len(got) != 1 {
		t.Errorf("then a query gives %v", got)
	}
}

func ask(t *testing.T, client *bigquery.Client, sql string) (rows [][]bigquery.Value) {
	t.Helper()
	it, err := client.Query(sql).Read(t.Context())
	for err == nil {
		var row []bigquery.Value
		if err = it.Next(&row); err == nil {
			rows = append(rows, row)
		}
	}
	if !errors.Is(err, iterator.Done) {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}
