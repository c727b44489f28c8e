// Package cloud makes a Google Cloud project what the products say it should
// be, and says beforehand what it would do.
//
// There is one way: what is wanted (want.go) is compared with what is there
// (read.go). The difference is a Plan: steps in the order in which they are
// done (steps.go), each one write, or a few of one object. Apply does the steps
// (apply.go) and keeps nothing elsewhere, so that it can be run again after a
// failure, and a plan after a whole apply has no steps.
//
// # What is Telemesh's
//
// Datasets, tables, topics and subscriptions labelled managed-by=telemesh. Of
// such a dataset the access is Telemesh's as well, but for entries of the role
// OWNER and of roles other than READER and WRITER. Labels that the products do
// not name, and tables without the label, are left alone.
//
// # Order
//
// No state between two steps shows anybody more than the state before the first
// or the one after the last does. So access is narrowed first: entries and rows
// of the members go that are not wanted. Then objects change. Then what is
// wanted is let in: views are authorized, members added, readers given access.
// Whoever changes tenant is of none in between.
package cloud

import (
	"strings"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/pubsub/v2"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

const (
	everyone = schema.Everyone

	managedBy = schema.ManagedBy
	telemesh  = schema.Telemesh
)

// Config says what a project should be, and how it is reached.
type Config struct {
	Project  string
	Location string // where datasets are made
	Products []contract.Product
	Access   *Access // nil: members and readers stay as they are
	// PushEndpoint is the URL that push subscriptions push to: telemetry-ingest.
	// Empty: those that are not there are not made.
	PushEndpoint string
	Destroy      bool // what no product names any more goes, and rows that are too old

	BigQuery *bigquery.Client
	Pubsub   *pubsub.Client // nil: Pub/Sub is not looked at
}

// Project is a Google Cloud project.
type Project struct{ config Config }

// New gives the project. It reaches nothing yet.
func New(c Config) *Project { return &Project{c} }

// ServiceAccount is the account that a product's functions run as. Of a project
// that is scoped by a domain, example.com:acme, the domain comes last.
func ServiceAccount(product, project string) string {
	if domain, name, ok := strings.Cut(project, ":"); ok {
		project = name + "." + domain
	}
	return product + "@" + project + ".iam.gserviceaccount.com"
}

// member is a row of schema.Members.
type member struct{ Member, Tenant string }

// entry is an entry of a dataset's access list.
type entry struct {
	Role string // empty: an authorization of a view, a dataset or a routine
	Kind string // as the REST API names it: userByEmail
	Name string
}

func (e entry) String() string { return strings.TrimSpace(e.Role + " " + e.Kind + " " + e.Name) }

const (
	kindUser    = "userByEmail"
	kindGroup   = "groupByEmail"
	kindDomain  = "domain"
	kindSpecial = "specialGroup"
	kindMember  = "iamMember"
	kindView    = "view"
	kindDataset = "dataset"
	kindRoutine = "routine"
)

var entityTypes = map[string]bigquery.EntityType{
	kindUser: bigquery.UserEmailEntity, kindGroup: bigquery.GroupEmailEntity, kindDomain: bigquery.DomainEntity,
	kindSpecial: bigquery.SpecialGroupEntity, kindMember: bigquery.IAMMemberEntity,
}

// roles are those that have two names.
// https://cloud.google.com/bigquery/docs/access-control-basic-roles#basic-roles-datasets
var roles = map[bigquery.AccessRole]bigquery.AccessRole{
	"roles/bigquery.dataViewer": bigquery.ReaderRole, "roles/bigquery.dataEditor": bigquery.WriterRole, "roles/bigquery.dataOwner": bigquery.OwnerRole,
}

func (p *Project) entry(a *bigquery.AccessEntry) entry {
	e := entry{Role: string(a.Role), Name: a.Entity}
	if role, ok := roles[a.Role]; ok {
		e.Role = string(role)
	}
	switch a.EntityType {
	case bigquery.ViewEntity:
		e.Kind, e.Name = kindView, p.local(a.View.ProjectID)+a.View.DatasetID+"."+a.View.TableID
	case bigquery.DatasetEntity:
		e.Kind, e.Name = kindDataset, p.local(a.Dataset.Dataset.ProjectID)+a.Dataset.Dataset.DatasetID
	case bigquery.RoutineEntity:
		e.Kind, e.Name = kindRoutine, p.local(a.Routine.ProjectID)+a.Routine.DatasetID+"."+a.Routine.RoutineID
	default:
		for kind, t := range entityTypes {
			if t == a.EntityType {
				e.Kind = kind
			}
		}
	}
	if e.Kind == kindUser || e.Kind == kindGroup || e.Kind == kindDomain {
		e.Name = strings.ToLower(e.Name)
	}
	if a.Condition != nil {
		e.Name += " if " + a.Condition.Expression
	}
	return e
}

// local is empty for this project.
func (p *Project) local(project string) string {
	if project == p.config.Project {
		return ""
	}
	return project + "."
}

// write is the inverse of entry, for those that Telemesh makes.
func (p *Project) write(e entry) *bigquery.AccessEntry {
	if e.Kind == kindView {
		return &bigquery.AccessEntry{EntityType: bigquery.ViewEntity, View: p.table(e.Name)}
	}
	return &bigquery.AccessEntry{Role: bigquery.AccessRole(e.Role), EntityType: entityTypes[e.Kind], Entity: e.Name}
}

// table is the object of the name dataset.table.
func (p *Project) table(name string) *bigquery.Table {
	dataset, table, _ := strings.Cut(name, ".")
	return p.config.BigQuery.Dataset(dataset).Table(table)
}
