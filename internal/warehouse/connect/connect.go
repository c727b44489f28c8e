// Package connect opens the warehouse that a URL names:
//
//	http://HOST, https://HOST          one that another process serves (package remote)
//	bigquery://PROJECT?location=EU     the datasets of a Google Cloud project
//
// Functions that read or write the warehouse, and the CLI, reach it through
// this package. The DuckDB file of a data folder is not among them: it belongs
// to the one process that has it open.
package connect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
	"github.com/telemesh/telemesh/products"
)

// Config names a warehouse in the environment of a function.
type Config struct {
	URL   string `envconfig:"WAREHOUSE_URL" default:"http://warehouse.platform.svc.cluster.local"`
	Token string `envconfig:"WAREHOUSE_TOKEN"` // of a warehouse at http(s)://; empty: it asks for none
	// Products is a folder as products/ is; empty: those built in.
	Products string `envconfig:"PRODUCTS"`
}

// Folder is the folder of the products whose tables the warehouse has.
func (c Config) Folder() fs.FS {
	if c.Products == "" {
		return products.FS
	}
	return os.DirFS(c.Products)
}

// Contracts are the products of Folder.
func (c Config) Contracts() ([]contract.Product, error) {
	all, err := contract.Load(c.Folder())
	if err != nil {
		return nil, fmt.Errorf("read contracts: %w", err)
	}
	return all, nil
}

const forms = "want http://HOST, https://HOST or bigquery://PROJECT?location=LOCATION"

// Open gives the warehouse that the function was handed, else the one named.
// It does not connect, so that a warehouse may come up after the function. Who
// opened it need not close it for the rows' sake: Append returns when they are
// stored.
func (c Config) Open(handed warehouse.Warehouse, client *http.Client) (warehouse.Warehouse, error) {
	if handed != nil {
		return handed, nil
	}
	if c.URL == "" {
		return nil, errors.New("WAREHOUSE_URL is empty, and there is no other warehouse: " + forms)
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("warehouse: %w: %s", err, forms)
	}
	switch {
	case u.Scheme == "bigquery":
		return c.openBigQuery()
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return remote.Open(c.URL, client, c.Token), nil
	}
	return nil, fmt.Errorf("warehouse %q: %s", c.URL, forms)
}

// Project is the Google Cloud project that BigQuery is of. A warehouse that is not
// BigQuery is an error.
func (c Config) Project() (string, error) {
	config, err := bigquery.ParseURL(c.URL)
	return config.Project, err
}

func (c Config) openBigQuery() (warehouse.Warehouse, error) {
	config, err := bigquery.ParseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	all, err := c.Contracts()
	if err != nil {
		return nil, err
	}
	return bigquery.Open(context.Background(), config, all)
}
