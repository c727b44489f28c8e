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
	"net/http"
	"net/url"

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
		return openBigQuery(c.URL)
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return remote.Open(c.URL, client, c.Token), nil
	}
	return nil, fmt.Errorf("warehouse %q: %s", c.URL, forms)
}

func openBigQuery(url string) (warehouse.Warehouse, error) {
	config, err := bigquery.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("warehouse: %w", err)
	}
	all, err := contract.Load(products.FS)
	if err != nil {
		return nil, fmt.Errorf("read contracts: %w", err)
	}
	return bigquery.Open(context.Background(), config, all)
}
