package catalog

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/address"
	"github.com/telemesh/telemesh/internal/topology"
)

// DCAT is the catalog in the words of DCAT 3 (https://www.w3.org/TR/vocab-dcat-3/),
// with what its profile of European portals, DCAT-AP 3, requires, as JSON-LD that
// needs no other document to be read. portal is the address of the portal: what the
// catalog names has an address there.
//
// A product is a dataset whose parts are its output ports, each a dataset of its own
// with a distribution. Brokers, and Services that serve tables, are data services.
func (c *Catalog) DCAT(portal string) map[string]any {
	d := dcat{c, strings.TrimSuffix(portal, "/")}
	var datasets, services []any
	for _, p := range c.Products {
		datasets = append(datasets, d.product(p))
		for _, port := range p.Ports {
			datasets = append(datasets, d.port(port))
		}
	}
	for _, b := range c.mesh.Brokers {
		if service := d.broker(b.Ref); service != nil {
			services = append(services, service)
		}
	}
	for i := range c.mesh.Functions {
		if f := &c.mesh.Functions[i]; len(f.Tables) > 0 {
			services = append(services, d.server(f))
		}
	}
	return map[string]any{
		"@context": map[string]any{
			"dcat": "http://www.w3.org/ns/dcat#", "dct": "http://purl.org/dc/terms/", "foaf": "http://xmlns.com/foaf/0.1/", "prov": "http://www.w3.org/ns/prov#",
			"rdfs": "http://www.w3.org/2000/01/rdf-schema#", "vcard": "http://www.w3.org/2006/vcard/ns#", "xsd": "http://www.w3.org/2001/XMLSchema#",
		},
		"@id":             d.iri("catalog"),
		"@type":           "dcat:Catalog",
		"dct:title":       english("Telemesh"),
		"dct:description": english("The data products of the mesh and their output ports."),
		"dct:publisher":   agent("Telemesh"),
		"foaf:homepage":   map[string]any{"@id": d.iri("catalog"), "@type": "foaf:Document"},
		"dcat:dataset":    datasets,
		"dcat:service":    services,
	}
}

type dcat struct {
	*Catalog
	portal string
}

// iri is the address of what a path leads to on the portal.
func (d dcat) iri(path ...string) string {
	iri := d.portal
	for _, part := range path {
		iri += "/" + url.PathEscape(part)
	}
	return iri
}

func (d dcat) of(p *Port) string { return d.iri("catalog", p.Product.Name, p.Name) }

func ref(iri string) map[string]any { return map[string]any{"@id": iri} }

func refs(iris []string) (all []any) {
	for _, iri := range iris {
		all = append(all, ref(iri))
	}
	return all
}

func english(text string) map[string]any {
	return map[string]any{"@value": strings.TrimSpace(text), "@language": "en"}
}

func agent(name string) map[string]any {
	return map[string]any{"@type": "foaf:Agent", "foaf:name": name}
}

// resource is what datasets have in common.
func (d dcat) resource(iri, name, purpose, version string, p *Product) map[string]any {
	return map[string]any{
		"@id":               iri,
		"@type":             "dcat:Dataset",
		"dct:identifier":    name,
		"dct:title":         english(name),
		"dct:description":   english(purpose),
		"dct:publisher":     agent(p.Owner),
		"dcat:contactPoint": map[string]any{"@type": "vcard:Organization", "vcard:fn": p.Owner},
		"dcat:version":      version,
		"dcat:keyword":      []any{english(p.Domain), english(p.Kind)},
		"dcat:landingPage":  map[string]any{"@id": iri, "@type": "foaf:Document"},
	}
}

func (d dcat) product(p *Product) map[string]any {
	all := d.resource(d.iri("catalog", p.Name), p.Name, p.Purpose, p.Version, p)
	var parts, from []string
	for _, port := range p.Ports {
		parts = append(parts, d.of(port))
	}
	for _, in := range p.Inputs {
		if in.Port != nil && in.Port.Product != p {
			from = append(from, d.of(in.Port))
		}
	}
	all["dct:hasPart"] = refs(parts)
	all["prov:wasDerivedFrom"] = refs(from)
	all["foaf:page"] = map[string]any{"@id": d.iri("products", p.Name, ".well-known", "data-product"), "@type": "foaf:Document"}
	return all
}

// The vocabularies of the European Union that DCAT-AP wants values of.
const (
	frequencies = "http://publications.europa.eu/resource/authority/frequency/"
	rights      = "http://publications.europa.eu/resource/authority/access-right/"
	mediaTypes  = "http://www.iana.org/assignments/media-types/"
)

// updated are the frequencies that are said in seconds, from the shortest.
var updated = []struct {
	each time.Duration
	name string
}{
	{time.Minute, "1MIN"}, {5 * time.Minute, "5MIN"}, {10 * time.Minute, "10MIN"}, {15 * time.Minute, "15MIN"}, {30 * time.Minute, "30MIN"},
	{time.Hour, "HOURLY"}, {2 * time.Hour, "BIHOURLY"}, {3 * time.Hour, "TRIHOURLY"}, {12 * time.Hour, "12HRS"}, {24 * time.Hour, "DAILY"},
	{7 * 24 * time.Hour, "WEEKLY"}, {31 * 24 * time.Hour, "MONTHLY"}, {366 * 24 * time.Hour, "ANNUAL"},
}

// frequency of what is brought up to date at least once in a time.
func frequency(each time.Duration) string {
	for _, u := range updated {
		if each <= u.each {
			return frequencies + u.name
		}
	}
	return frequencies + "IRREG"
}

func (d dcat) port(p *Port) map[string]any {
	all := d.resource(d.of(p), p.Name, p.Purpose, p.Version, p.Product)
	all["dct:isPartOf"] = ref(d.iri("catalog", p.Product.Name))
	all["dct:accessRights"] = map[string]any{"@id": rights + rightsOf(p), "@type": "dct:RightsStatement"}
	var from []string
	for _, table := range p.Sources {
		if of := d.Port(table); of != nil {
			from = append(from, d.of(of))
		}
	}
	all["prov:wasDerivedFrom"] = refs(from)
	if t := p.Table; t != nil {
		if t.Freshness > 0 {
			all["dct:accrualPeriodicity"] = ref(frequency(t.Freshness))
		}
		all["dct:conformsTo"] = map[string]any{"@id": d.iri("products", p.Product.Name, ".well-known", "data-product", "contracts", t.Name), "@type": "dct:Standard"}
	}
	if p.Kind == Event {
		all["dct:accrualPeriodicity"] = ref(frequencies + "CONT")
	}
	all["dcat:distribution"] = d.distributions(p)
	return all
}

// rightsOf says to whom an output port is open, by the classes of its columns; events
// are as those of the tables that keep them.
func rightsOf(p *Port) string {
	highest := 0
	for _, c := range p.Columns {
		highest = max(highest, slices.Index(classes, c.Classification))
	}
	for _, t := range p.Stored {
		for _, c := range t.Columns {
			highest = max(highest, slices.Index(classes, c.Classification))
		}
	}
	switch {
	case highest == 2:
		return "RESTRICTED"
	case highest == 1 || len(p.Columns)+len(p.Stored) == 0:
		return "NON_PUBLIC"
	}
	return "PUBLIC"
}

// distributions are the ways to get at a port: by its page, which gives the query;
// from the Services that serve it whole; and from its Brokers.
func (d dcat) distributions(p *Port) (all []any) {
	iri := d.of(p)
	if p.Kind != Event {
		all = append(all, map[string]any{
			"@id": iri + "#subscribe", "@type": "dcat:Distribution", "dct:title": english("SQL: " + p.Name), "dcat:accessURL": ref(iri + "#subscribe"),
			"dct:format": map[string]any{"@type": "dct:MediaTypeOrExtent", "rdfs:label": "SQL"},
		})
	}
	for i := range d.mesh.Functions {
		f := &d.mesh.Functions[i]
		if !slices.Contains(f.Tables, p.Name) {
			continue
		}
		all = append(all, map[string]any{
			"@id": iri + "#" + f.Ref.String(), "@type": "dcat:Distribution", "dct:title": english("NDJSON, whole: " + p.Name),
			"dcat:accessURL": ref(address.OfService(f.Namespace, f.Name).JoinPath(p.Short()).String()), "dcat:accessService": ref(d.iri("mesh", f.Namespace, f.Name)),
			"dct:format": map[string]any{"@type": "dct:MediaTypeOrExtent", "rdfs:label": "NDJSON"},
		})
	}
	for _, b := range p.Brokers {
		all = append(all, map[string]any{
			"@id": iri + "#" + b.String(), "@type": "dcat:Distribution", "dct:title": english("CloudEvents of Broker " + b.String()),
			"dcat:accessURL": ref(iri + "#subscribe"), "dcat:accessService": ref(d.iri("mesh", b.Namespace, b.Name)),
			"dcat:mediaType": map[string]any{"@id": mediaTypes + "application/cloudevents+json", "@type": "dct:MediaType"},
		})
	}
	return all
}

func (d dcat) service(of topology.Ref, title, endpoint string, serves []string) map[string]any {
	return map[string]any{
		"@id": d.iri("mesh", of.Namespace, of.Name), "@type": "dcat:DataService", "dct:title": english(title), "dct:publisher": agent("Telemesh"),
		"dcat:endpointURL": ref(endpoint), "dcat:servesDataset": refs(serves),
	}
}

// broker is nil where it offers no output port.
func (d dcat) broker(b topology.Ref) map[string]any {
	var serves []string
	for _, p := range d.Products {
		for _, port := range p.Ports {
			if slices.Contains(port.Brokers, b) {
				serves = append(serves, d.of(port))
			}
		}
	}
	if serves == nil {
		return nil
	}
	return d.service(b, "Broker "+b.String(), address.OfBroker(b.Namespace, b.Name).String(), serves)
}

func (d dcat) server(f *topology.Function) map[string]any {
	var serves []string
	for _, table := range f.Tables {
		if port := d.Port(table); port != nil {
			serves = append(serves, d.of(port))
		}
	}
	return d.service(f.Ref, "Service "+f.Ref.String(), address.OfService(f.Namespace, f.Name).String(), serves)
}
