package portal

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/access"
)

//go:embed files/search.js
var searchScript []byte

// The files of a catalog. Names of products and ports are names of files, but for
// what has a meaning in an address.
const indexFile = "index.html"

func productFile(name string) string { return "product-" + url.PathEscape(name) + ".html" }
func portFile(name string) string    { return "port-" + url.PathEscape(name) + ".html" }

// entry is what the search of a catalog of files finds.
type entry struct {
	Name    string       `json:"name"`
	Href    string       `json:"href"`
	Type    string       `json:"type"`
	Of      string       `json:"of"`
	Purpose string       `json:"purpose"`
	Text    string       `json:"text"` // in lower case, all that is searched
	Columns []foundEntry `json:"columns"`
}

type foundEntry struct {
	Name    string `json:"name"`
	Href    string `json:"href"`
	Purpose string `json:"purpose"`
}

// WriteCatalog writes the pages of the catalog into a folder, which it makes, for
// browsers that have no server to ask; it gives the number of pages. They say of rows
// how many there are and how new, of those of all tenants, and show none. Without
// Data they say nothing of rows.
func WriteCatalog(ctx context.Context, cfg Config, folder string) (int, error) {
	p, err := New(cfg)
	if err != nil {
		return 0, err
	}
	c, err := p.inventory.catalog()
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return 0, fmt.Errorf("write catalog: %w", err)
	}
	l := links{catalog: c, Files: true, NoRows: cfg.Data == nil}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/catalog", nil)
	if err != nil {
		return 0, err
	}
	everything := access.Viewer{Role: access.Admin}
	n := 0
	write := func(file, name, title string, page any) error {
		var b bytes.Buffer
		s := shown{Title: title, Home: indexFile, Style: "portal.css", Script: func(string) string { return "" }, Page: page}
		if err := pages[name].Execute(&b, s); err != nil {
			return fmt.Errorf("render %s: %w", name, err)
		}
		n++
		return os.WriteFile(filepath.Join(folder, file), b.Bytes(), 0o666)
	}

	view := catalogView{Links: l, Products: p.productViews(r, everything, l), Built: p.now(), Entries: entries(l)}
	for i := range view.Products {
		product := &view.Products[i]
		for j := range product.Ports {
			product.Ports[j].dated()
		}
		if err := write(productFile(product.Name), "catalog-product", product.Name, *product); err != nil {
			return n, err
		}
		for _, port := range product.Product.Ports {
			one, err := p.portView(r, everything, l, port)
			if err != nil {
				return n, err
			}
			one.Viewer = access.Viewer{} // who reads a file is nobody that is known
			one.dated()
			if err := write(portFile(port.Name), "catalog-port", port.Name, one); err != nil {
				return n, err
			}
		}
	}
	if err := write(indexFile, "catalog", "Catalog", view); err != nil {
		return n, err
	}
	for name, text := range map[string][]byte{"portal.css": p.assets.files["portal.css"], "search.js": searchScript} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o666); err != nil {
			return n, fmt.Errorf("write catalog: %w", err)
		}
	}
	return n, ctx.Err()
}

// dated says when rows came and not how long ago, which a file does not know.
func (f *portFacts) dated() {
	if !f.Newest.At.IsZero() {
		f.Newest.Text, f.Newest.At = utc(f.Newest.At), time.Time{}
	}
	f.Fresh = ""
}

func entries(l links) (all []entry) {
	for _, p := range l.catalog.Products {
		all = append(all, entry{Name: p.Name, Href: l.Product(p.Name), Type: "product", Of: p.Owner, Purpose: p.Purpose, Columns: []foundEntry{},
			Text: strings.ToLower(strings.Join([]string{p.Name, p.Owner, p.Domain, p.Kind, p.Purpose, p.Usage, p.Limits}, " "))})
		for _, port := range p.Ports {
			one := entry{Name: port.Name, Href: l.Port(port.Name), Type: string(port.Kind), Of: "of " + p.Name, Purpose: port.Purpose, Columns: []foundEntry{}}
			text := []string{port.Name, string(port.Kind), port.Purpose, p.Name, p.Owner, p.Domain}
			for _, column := range port.Columns {
				one.Columns = append(one.Columns, foundEntry{column.Name, one.Href + "#" + l.Anchor(column.Name), column.Purpose})
				text = append(text, column.Name, column.Purpose)
			}
			one.Text = strings.ToLower(strings.Join(text, " "))
			all = append(all, one)
		}
	}
	return all
}
