package portal

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/products"
)

// pageFile is what a file of the catalog refers to.
type pageFile struct {
	links map[string]bool
	ids   map[string]bool
	text  string
}

func readPage(t *testing.T, file string) pageFile {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := pageFile{links: map[string]bool{}, ids: map[string]bool{}, text: string(text)}
	root, err := html.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for n := range root.Descendants() {
		for _, a := range n.Attr {
			switch a.Key {
			case "href", "src", "action":
				p.links[a.Val] = true
			case "id":
				p.ids[a.Val] = true
			}
		}
		if n.Data == "form" || n.Data == "button" {
			t.Errorf("%s has a %s, and there is nobody to send it to", filepath.Base(file), n.Data)
		}
	}
	return p
}

// The catalog as files: each link leads to a file that is there, and to what has that
// name in it; it tells how many rows there are, and nothing that stands in one.
func TestCatalogOfFiles(t *testing.T) {
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	w, _ := stored(t, time.Now())
	tables, err := sink.TablesOf(list, "mesh-metrics")
	if err != nil {
		t.Fatal(err)
	}
	read := mesh.NewEvent(mesh.PortRead, "/test", fmt.Appendf(nil, `{"rows":[{"port":"iot_metadata.placements","kind":"portal","consumer":"tenant/%s","report":"r","times":3,"hour":%q}]}`,
		own, time.Now().UTC().Truncate(time.Hour).Format(time.RFC3339)))
	if _, err := sink.New(w, tables, nil)(t.Context(), read); err != nil {
		t.Fatal(err)
	}
	ports := 0
	for _, p := range list {
		ports += len(p.Ports)
	}
	for name, data := range map[string]*access.Data{"with rows": access.New(w, list), "without a warehouse": nil} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "catalog")
			n, err := WriteCatalog(t.Context(), Config{Products: list, Data: data, Log: slog.New(slog.DiscardHandler)}, folder)
			if err != nil {
				t.Fatal(err)
			}
			if want := 1 + len(list) + ports; n != want {
				t.Errorf("%d pages, want %d", n, want)
			}
			pages := map[string]pageFile{}
			files, err := filepath.Glob(filepath.Join(folder, "*.html"))
			if err != nil || len(files) != n {
				t.Fatalf("%d files, %v", len(files), err)
			}
			for _, file := range files {
				pages[filepath.Base(file)] = readPage(t, file)
			}
			for name, p := range pages {
				for link := range p.links {
					u, err := url.Parse(link)
					if err != nil || u.Host != "" || strings.HasPrefix(u.Path, "/") || u.RawQuery != "" {
						t.Errorf("%s leads to %s, where no file is", name, link)
						continue
					}
					if u.Scheme == "data" {
						continue
					}
					to, ok := pages[u.Path]
					if u.Path == "" {
						to, ok = p, true
					}
					if !ok {
						if _, err := os.Stat(filepath.Join(folder, u.Path)); err != nil {
							t.Errorf("%s leads to %s: %v", name, link, err)
						}
					} else if u.Fragment != "" && !to.ids[u.Fragment] {
						t.Errorf("%s leads to %s, and nothing there has that name", name, link)
					}
				}
				for _, word := range append(foreignWords[1:], own+"-building", own+"-device", own+"-customer", "tenant/"+own) {
					if strings.Contains(p.text, word) {
						t.Errorf("%s says %s, which stands in a row", name, word)
					}
				}
			}
			if told := strings.Contains(pages["product-iot-metadata.html"].text, `class="n">2</td>`); told != (data != nil) {
				t.Errorf("that there are 2 placements is told: %t", told)
			}
		})
	}
}
