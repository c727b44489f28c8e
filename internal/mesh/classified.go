package mesh

import (
	"github.com/go-json-experiment/json/jsontext"
)

// Classification is the data of events whose type ends in .classified.v1: records to
// which a rule gave one label. The label and its severity are extensions of the event,
// too, by which a Trigger filters: all records of one event share them.
type Classification struct {
	Rule       string       `json:"rule"` // its name
	Classified []Classified `json:"classified"`
}

// Classified is a record and the label that a rule gave it.
type Classified struct {
	Label          string `json:"label"`
	SeverityText   string `json:"severity_text"`   // a name of Severities
	SeverityNumber int    `json:"severity_number"` // its number

	// The level of the same key before; absent: none is known, or the rule has no key.
	PreviousLabel          string `json:"previous_label,omitempty"`
	PreviousSeverityNumber int    `json:"previous_severity_number,omitzero"`

	Value  float64           `json:"value"`
	Unit   string            `json:"unit,omitempty"` // UCUM code; empty: the rule names none
	At     Instant           `json:"at,omitzero"`    // when that was; absent: neither record nor event says it
	Key    map[string]string `json:"key,omitempty"`  // whose level it is; absent for rules without key
	Record jsontext.Value    `json:"record"`         // as it came
}

// Severities are the names of severities and their numbers, as OpenTelemetry has them:
// of each the first has no digit behind it, as ERROR is 17 and ERROR2 is 18.
// https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/severity.md and
// https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
var Severities = severities()

// Severity numbers of the four names that levels mostly have.
const (
	SeverityInfoNumber  = 9
	SeverityWarnNumber  = 13
	SeverityErrorNumber = 17
	SeverityFatalNumber = 21
)

func severities() map[string]int {
	all := map[string]int{}
	for i, name := range [...]string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"} {
		for j, digit := range [...]string{"", "2", "3", "4"} {
			all[name+digit] = 4*i + j + 1
		}
	}
	return all
}
