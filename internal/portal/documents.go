package portal

import (
	"net/http"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/wellknown"
)

// documentsPath is where the documents of all products are, for programs.
const documentsPath = "/products/"

func (p *Portal) documentRoutes() []route {
	return []route{
		{"GET " + documentsPath + "{product}" + wellknown.Path, signedIn, ofNobody, p.descriptor},
		{"GET " + documentsPath + "{product}" + wellknown.ContractsPath + "{table}", signedIn, ofNobody, p.contract},
	}
}

// documents finds those of the product that a path names.
func (p *Portal) documents(r *http.Request) (*wellknown.Documents, error) {
	c, err := p.inventory.catalog()
	if err != nil {
		return nil, err
	}
	product := c.Product(r.PathValue("product"))
	if product == nil || p.inventory.documents == nil {
		return nil, errNotFound
	}
	return wellknown.New(p.inventory.documents, product.Product)
}

func (p *Portal) descriptor(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	d, err := p.documents(r)
	if err != nil {
		return err
	}
	d.Descriptor(w, r)
	return nil
}

func (p *Portal) contract(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	d, err := p.documents(r)
	if err != nil {
		return err
	}
	if !d.Contract(w, r, r.PathValue("table")) {
		return errNotFound
	}
	return nil
}
