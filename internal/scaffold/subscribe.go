package scaffold

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/telemesh/telemesh/internal/contract"
)

// Subscribe records in the descriptor of a product who reads one of its output
// ports, and writes the Trigger of that name that brings its events there, if there is
// one. What is recorded already stays, but for the version that is read.
func Subscribe(dir, product, portName, name string, reader contract.Reader, trigger string) (Report, error) {
	f, err := open(dir)
	if err != nil {
		return Report{}, err
	}
	return f.do(func() error {
		file := "triggers/" + name + ".yaml"
		if was, err := os.ReadFile(filepath.Join(f.dir, file)); trigger != "" && (err != nil || string(was) != trigger) {
			if err := f.create(file, []byte(trigger)); err != nil {
				return err
			}
			if err := f.wake(); err != nil {
				return err
			}
		}
		return f.edit("products/"+product+"/product.odps.yaml", func(text string) (string, error) {
			return addConsumer(text, portName, reader)
		})
	})
}

func addConsumer(text, portName string, reader contract.Reader) (string, error) {
	nodes, err := documents(text)
	if err != nil || len(nodes) != 1 {
		return "", errors.Join(err, errors.New("want one document"))
	}
	ports := at(nodes[0], "outputPorts")
	if ports == nil || ports.Kind != yaml.SequenceNode {
		return "", errors.New("it has no outputPorts")
	}
	entry := fmt.Sprintf("- {name: %s, since: '%s', version: %s}", reader.Name, reader.Since, reader.Version)
	for i, port := range ports.Content {
		if value(port, "name") != portName {
			continue
		}
		if port.Style&yaml.FlowStyle != 0 {
			return "", fmt.Errorf("line %d: write the port in several lines", port.Line)
		}
		properties := at(port, "customProperties")
		if properties == nil {
			end, err := endOf(text, nodes[0], "outputPorts")
			if err != nil {
				return "", err
			}
			if i+1 < len(ports.Content) {
				end = trimmed(strings.Split(text, "\n"), ports.Content[i+1].Line-1)
			}
			indent := strings.Repeat(" ", port.Column-1)
			return insert(text, end, indent+"customProperties:", indent+"  - property: consumers", indent+"    value:", indent+"      "+entry), nil
		}
		for _, property := range properties.Content {
			if value(property, "property") != "consumers" {
				continue
			}
			readers := at(property, "value")
			if readers == nil || readers.Kind != yaml.SequenceNode || readers.Style&yaml.FlowStyle != 0 {
				return "", fmt.Errorf("line %d: write the consumers one to a line", property.Line)
			}
			for _, known := range readers.Content {
				if value(known, "name") != reader.Name {
					continue
				}
				version := at(known, "version")
				if version == nil || version.Value == reader.Version {
					return text, nil
				}
				before := line(text, version.Line)
				rest := strings.Replace(before[version.Column-1:], version.Value, reader.Version, 1)
				return replaceLine(text, version.Line, before[:version.Column-1]+rest), nil
			}
			return addItem(text, readers, entry), nil
		}
		if properties.Style&yaml.FlowStyle != 0 {
			return "", fmt.Errorf("line %d: write the customProperties one to a line", properties.Line)
		}
		end, err := endOf(text, port, "customProperties")
		if err != nil {
			return "", err
		}
		if last := port.Content[len(port.Content)-1]; last == properties {
			if end, err = endOf(text, nodes[0], "outputPorts"); err != nil {
				return "", err
			}
			if i+1 < len(ports.Content) {
				end = trimmed(strings.Split(text, "\n"), ports.Content[i+1].Line-1)
			}
		}
		indent := strings.Repeat(" ", properties.Column-1)
		return insert(text, end, indent+"- property: consumers", indent+"  value:", indent+"    "+entry), nil
	}
	return "", fmt.Errorf("it has no output port %s", portName)
}
