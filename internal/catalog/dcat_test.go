package catalog_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/piprate/json-gold/ld"
)

const (
	rdfType = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
	dcat    = "http://www.w3.org/ns/dcat#"
	dct     = "http://purl.org/dc/terms/"
)

// triples are what a JSON-LD processor makes of the export: objects by subject and
// predicate.
func triples(t *testing.T, document any) map[string]map[string][]string {
	t.Helper()
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	var parsed any
	if err := json.Unmarshal(text, &parsed); err != nil {
		t.Fatal(err)
	}
	options := ld.NewJsonLdOptions("")
	options.DocumentLoader = nowhere{}
	out, err := ld.NewJsonLdProcessor().ToRDF(parsed, options)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string][]string{}
	for _, q := range out.(*ld.RDFDataset).GetQuads("@default") {
		s, p := q.Subject.GetValue(), q.Predicate.GetValue()
		if all[s] == nil {
			all[s] = map[string][]string{}
		}
		all[s][p] = append(all[s][p], q.Object.GetValue())
	}
	return all
}

// nowhere loads nothing: the export has to be read without another document.
type nowhere struct{}

func (nowhere) LoadDocument(u string) (*ld.RemoteDocument, error) {
	return nil, ld.NewJsonLdError(ld.LoadingDocumentFailed, u)
}

func TestDCAT(t *testing.T) {
	c := shipped(t)
	const portal = "https://portal.example.org"
	all := triples(t, c.DCAT(portal+"/"))
	of := map[string][]string{}
	for subject, properties := range all {
		for _, class := range properties[rdfType] {
			of[class] = append(of[class], subject)
		}
	}
	ports := 0
	for _, p := range c.Products {
		ports += len(p.Ports)
	}
	if got := of[dcat+"Dataset"]; len(got) != len(c.Products)+ports {
		t.Errorf("%d datasets, want one of each of %d products and %d ports", len(got), len(c.Products), ports)
	}
	// DCAT-AP 3.0: what is mandatory of each class, and dct:publisher's foaf:name.
	for class, properties := range map[string][]string{
		dcat + "Catalog":                  {dct + "title", dct + "description", dct + "publisher"},
		dcat + "Dataset":                  {dct + "title", dct + "description", dct + "publisher", dct + "identifier", dcat + "contactPoint", dcat + "version"},
		dcat + "Distribution":             {dcat + "accessURL"},
		dcat + "DataService":              {dct + "title", dcat + "endpointURL"},
		"http://xmlns.com/foaf/0.1/Agent": {"http://xmlns.com/foaf/0.1/name"},
	} {
		if len(of[class]) == 0 {
			t.Errorf("there is no %s", class)
		}
		for _, subject := range of[class] {
			for _, property := range properties {
				if values := all[subject][property]; len(values) == 0 || slices.Contains(values, "") {
					t.Errorf("%s %s has no %s", class, subject, property)
				}
			}
		}
	}
	// What is referred to is described, and each address is one.
	for subject, properties := range all {
		if !strings.HasPrefix(subject, "_:") {
			if u, err := url.Parse(subject); err != nil || u.Host == "" {
				t.Errorf("%s is no IRI", subject)
			}
		}
		for _, property := range []string{dcat + "dataset", dcat + "service", dcat + "distribution", dcat + "accessService", dcat + "servesDataset", dct + "hasPart", dct + "isPartOf",
			"http://www.w3.org/ns/prov#wasDerivedFrom"} {
			for _, object := range properties[property] {
				if all[object] == nil {
					t.Errorf("%s %s %s, of which nothing is said", subject, property, object)
				}
			}
		}
	}

	room := portal + "/catalog/iot-analytics/iot_analytics.co2_evolution"
	readings := portal + "/catalog/iot-telemetry/iot_telemetry.readings"
	placements := portal + "/catalog/iot-metadata/iot_metadata.placements"
	joined := portal + "/catalog/iot-analytics/dev.telemesh.analytics.joined.v1"
	for _, want := range [][3]string{
		{portal + "/catalog", dcat + "dataset", readings},
		{portal + "/catalog/iot-telemetry", dct + "hasPart", readings},
		{readings, dct + "isPartOf", portal + "/catalog/iot-telemetry"},
		{readings, dct + "identifier", "iot_telemetry.readings"},
		{readings, dct + "accrualPeriodicity", "http://publications.europa.eu/resource/authority/frequency/1MIN"},
		{readings, dct + "accessRights", "http://publications.europa.eu/resource/authority/access-right/RESTRICTED"},
		{readings, dct + "conformsTo", portal + "/products/iot-telemetry/.well-known/data-product/contracts/readings"},
		{room, "http://www.w3.org/ns/prov#wasDerivedFrom", portal + "/catalog/iot-analytics/iot_analytics.readings"},
		{placements, dcat + "distribution", placements + "#iot/iot-metadata-port"},
		{placements + "#iot/iot-metadata-port", dcat + "accessURL", "http://iot-metadata-port.iot.svc.cluster.local/placements"},
		{portal + "/mesh/iot/iot-metadata-port", dcat + "servesDataset", placements},
		{joined, dct + "accrualPeriodicity", "http://publications.europa.eu/resource/authority/frequency/CONT"},
		{joined + "#analytics/analytics", dcat + "accessService", portal + "/mesh/analytics/analytics"},
		{joined + "#analytics/analytics", dcat + "mediaType", "http://www.iana.org/assignments/media-types/application/cloudevents+json"},
	} {
		if got := all[want[0]][want[1]]; !slices.Contains(got, want[2]) {
			t.Errorf("%s %s is %q, want %s", want[0], want[1], got, want[2])
		}
	}
}
