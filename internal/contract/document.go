package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// The documents hold what the two standards have and Telemesh uses.

type descriptor struct {
	APIVersion       string           `json:"apiVersion"`
	Kind             string           `json:"kind"`
	ID               string           `json:"id"`
	Name             string           `json:"name"`
	Version          string           `json:"version"`
	Status           string           `json:"status"`
	Domain           string           `json:"domain"`
	Description      description      `json:"description"`
	CustomProperties customProperties `json:"customProperties"`
	InputPorts       []inputPort      `json:"inputPorts"`
	OutputPorts      []outputPort     `json:"outputPorts"`
	Team             team             `json:"team"`
}

type description struct {
	Purpose     string `json:"purpose"`
	Usage       string `json:"usage"`
	Limitations string `json:"limitations"`
}

type inputPort struct {
	Name             string           `json:"name"`
	Version          string           `json:"version"`
	ContractID       string           `json:"contractId"`
	CustomProperties customProperties `json:"customProperties"`
}

// pubsub is the property of an input port that messages come in by.
type pubsub struct {
	Topic           string         `json:"topic"`
	DeadLetterTopic string         `json:"deadLetterTopic"`
	MaxDeliveries   int            `json:"maxDeliveryAttempts"`
	Retention       string         `json:"retention"`
	MinBackoff      string         `json:"minBackoff"`
	MaxBackoff      string         `json:"maxBackoff"`
	Subscriptions   []subscription `json:"subscriptions"`
}

type subscription struct {
	Name        string `json:"name"`
	Delivery    string `json:"delivery"`
	AckDeadline string `json:"ackDeadline"`
}

type outputPort struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Version     string `json:"version"`
	ContractID  string `json:"contractId"`
	Description string `json:"description"`

	CustomProperties customProperties `json:"customProperties"`
}

type team struct {
	Name string `json:"name"`
}

type dataContract struct {
	APIVersion    string         `json:"apiVersion"`
	Kind          string         `json:"kind"`
	ID            string         `json:"id"`
	Name          string         `json:"name"`
	Version       string         `json:"version"`
	Status        string         `json:"status"`
	Domain        string         `json:"domain"`
	DataProduct   string         `json:"dataProduct"`
	Description   description    `json:"description"`
	Schema        []schemaObject `json:"schema"`
	Roles         []role         `json:"roles"`
	SLAProperties []sla          `json:"slaProperties"`
	Team          team           `json:"team"`
}

type schemaObject struct {
	Name             string           `json:"name"`
	PhysicalName     string           `json:"physicalName"`
	PhysicalType     string           `json:"physicalType"`
	LogicalType      string           `json:"logicalType"`
	Description      string           `json:"description"`
	Granularity      string           `json:"dataGranularityDescription"`
	CustomProperties customProperties `json:"customProperties"`
	Quality          []quality        `json:"quality"`
	Properties       []property       `json:"properties"`
}

type property struct {
	Name                 string           `json:"name"`
	LogicalType          string           `json:"logicalType"`
	PhysicalType         Type             `json:"physicalType"`
	PrimaryKey           bool             `json:"primaryKey"`
	PrimaryKeyPosition   int              `json:"primaryKeyPosition"`
	Partitioned          bool             `json:"partitioned"`
	PartitionKeyPosition int              `json:"partitionKeyPosition"`
	Required             bool             `json:"required"`
	Classification       string           `json:"classification"`
	Description          string           `json:"description"`
	Quality              []quality        `json:"quality"`
	Sources              []string         `json:"transformSourceObjects"`
	CustomProperties     customProperties `json:"customProperties"`
}

type quality struct {
	ID               string           `json:"id"`
	Name             string           `json:"name"`
	Type             string           `json:"type"`
	Metric           string           `json:"metric"`
	Query            string           `json:"query"`
	Arguments        arguments        `json:"arguments"`
	Unit             string           `json:"unit"`
	MustBe           *float64         `json:"mustBe"`
	MustNotBe        *float64         `json:"mustNotBe"`
	GreaterThan      *float64         `json:"mustBeGreaterThan"`
	AtLeast          *float64         `json:"mustBeGreaterOrEqualTo"`
	LessThan         *float64         `json:"mustBeLessThan"`
	AtMost           *float64         `json:"mustBeLessOrEqualTo"`
	Between          []float64        `json:"mustBeBetween"`
	NotBetween       []float64        `json:"mustNotBeBetween"`
	Dimension        string           `json:"dimension"`
	Severity         string           `json:"severity"`
	Description      string           `json:"description"`
	CustomProperties customProperties `json:"customProperties"`
}

// arguments of a metric. The standard leaves them open: minimum and maximum are
// the words of its logicalTypeOptions.
type arguments struct {
	Properties    []string `json:"properties"`
	ValidValues   []any    `json:"validValues"`
	Pattern       string   `json:"pattern"`
	Minimum       any      `json:"minimum"`
	Maximum       any      `json:"maximum"`
	MissingValues []any    `json:"missingValues"`
}

type role struct {
	Role        string `json:"role"`
	Access      string `json:"access"`
	Description string `json:"description"`
}

type sla struct {
	Property    string `json:"property"`
	Value       any    `json:"value"`
	Unit        string `json:"unit"`
	Element     string `json:"element"`
	Driver      string `json:"driver"`
	Description string `json:"description"`
}

type customProperties []customProperty

type customProperty struct {
	Property    string `json:"property"`
	Value       any    `json:"value"`
	Description string `json:"description"`
}

// check takes the properties that have a meaning here.
func (c customProperties) check(file, field string, known ...string) error {
	for i, p := range c {
		again := slices.ContainsFunc(c[:i], func(other customProperty) bool { return other.Property == p.Property })
		if again || !slices.Contains(known, p.Property) {
			return fieldError(file, fmt.Sprintf("%s[%d].property", field, i), p.Property, "one of "+strings.Join(known, ", ")+", each once")
		}
	}
	return nil
}

// decode puts the value of a property where into points. That is left as it is
// where the property is missing.
func (c customProperties) decode(file, field, name string, into any, want string) error {
	value := c.get(name)
	if value == nil {
		return nil
	}
	b, err := json.Marshal(value)
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		err = d.Decode(into)
	}
	if err != nil {
		return because(fieldError(file, field+"."+name, fmt.Sprint(value), want), err)
	}
	return nil
}

func (c customProperties) get(name string) any {
	for _, p := range c {
		if p.Property == name {
			return p.Value
		}
	}
	return nil
}

func read(folder fs.FS, file string, into any) error {
	b, err := fs.ReadFile(folder, file)
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(b, into); err != nil {
		return &Fault{File: file, Text: err.Error()}
	}
	return nil
}

// Fault is what is wrong with a document.
type Fault struct {
	File  string // in the folder of the products
	Field string // schema[0].properties[3].name; empty: the document
	Text  string
}

func (f *Fault) Error() string {
	if f.Field == "" {
		return f.File + ": " + f.Text
	}
	return f.File + ": field " + f.Field + ": " + f.Text
}

func fieldError(file, field, got, want string) error {
	return &Fault{file, field, fmt.Sprintf("%q, want %s", got, want)}
}

// because is a fault of a field with what another one says of it.
func because(fault, err error) error {
	var f *Fault
	if errors.As(fault, &f) {
		return &Fault{f.File, f.Field, f.Text + ": " + err.Error()}
	}
	return err
}
