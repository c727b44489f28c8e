// Package wellknown serves the documents of a data product where programs look for
// them: its descriptor (ODPS) at /.well-known/data-product, and its contracts (ODCS)
// below, at contracts/NAME, NAME being that of the table. They come as they are
// written, as YAML, or as JSON to who prefers that (Accept), with a strong ETag.
package wellknown

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/etag"
)

// Path is that of the descriptor. Below ContractsPath are the contracts, by the names
// of their tables.
const (
	Path          = "/.well-known/data-product"
	ContractsPath = Path + "/contracts/"
)

// Documents are those of a data product.
type Documents struct {
	descriptor *document
	contracts  map[string]*document // by the names of their tables
}

// document is one in both forms.
type document struct {
	yaml, json []byte
	links      []string // of the header Link
}

// New reads the documents of a product from the folder of the products.
func New(folder fs.FS, p *contract.Product) (*Documents, error) {
	d := &Documents{contracts: map[string]*document{}}
	var err error
	if d.descriptor, err = read(folder, p.File()); err != nil {
		return nil, err
	}
	for i := range p.Tables {
		t := &p.Tables[i]
		if d.contracts[t.Name], err = read(folder, t.File()); err != nil {
			return nil, err
		}
		// Relative to the descriptor, wherever that is served.
		d.descriptor.links = append(d.descriptor.links, fmt.Sprintf(`<data-product/contracts/%s>; rel="describedby"`, t.Name))
		d.contracts[t.Name].links = []string{`<../../data-product>; rel="up"`}
	}
	return d, nil
}

func read(folder fs.FS, file string) (*document, error) {
	text, err := fs.ReadFile(folder, file)
	if err != nil {
		return nil, fmt.Errorf("read product: %w", err)
	}
	d := &document{yaml: text}
	if d.json, err = yaml.YAMLToJSON(text); err != nil {
		return nil, fmt.Errorf("read product: %s: %w", file, err)
	}
	return d, nil
}

// Descriptor serves the descriptor.
func (d *Documents) Descriptor(w http.ResponseWriter, r *http.Request) { d.descriptor.serve(w, r) }

// Contract serves the contract of a table; false: there is none, and nothing is
// answered.
func (d *Documents) Contract(w http.ResponseWriter, r *http.Request, table string) bool {
	c, ok := d.contracts[table]
	if ok {
		c.serve(w, r)
	}
	return ok
}

func (d *document) serve(w http.ResponseWriter, r *http.Request) {
	// https://www.rfc-editor.org/rfc/rfc9512
	text, kind, form := d.yaml, "application/yaml", "yaml"
	if prefersJSON(r.Header.Values("Accept")) {
		text, kind, form = d.json, "application/json", "json"
	}
	for _, link := range d.links {
		w.Header().Add("Link", link)
	}
	sum := sha256.Sum256(text)
	tag := form + "-" + hex.EncodeToString(sum[:12])
	h := w.Header()
	h.Set("ETag", strconv.Quote(tag))
	h.Set("Vary", "Accept")
	h.Set("Cache-Control", "no-cache") // keep it, but ask
	if etag.Matches(r, tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(text)))
	if r.Method != http.MethodHead {
		w.Write(text) // who does not read it to its end sees that by the length
	}
}

// prefersJSON reads Accept (RFC 9110, section 12.5.1): what the two forms are wanted
// with; where that is the same, or nothing is said, it is YAML, as the documents are
// written.
func prefersJSON(values []string) bool {
	return weight(values, "application/json", "application/*") > weight(values, "application/yaml", "application/*")
}

// weight of the first of some ranges, the most specific first, that is accepted, and
// of any range.
func weight(values []string, ranges ...string) float64 {
	best, at := 0.0, len(ranges)+1
	for one := range strings.SplitSeq(strings.Join(values, ","), ",") {
		kind, parameters, err := mime.ParseMediaType(strings.TrimSpace(one))
		if err != nil {
			continue
		}
		i := slices.Index(append(ranges, "*/*"), kind)
		if i < 0 || i >= at {
			continue
		}
		q := 1.0
		if text, ok := parameters["q"]; ok {
			q, _ = strconv.ParseFloat(text, 64)
		}
		best, at = q, i
	}
	return best
}
