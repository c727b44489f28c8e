package cloud

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Access says who sees whose rows.
type Access struct {
	Platform []string            // members that see every row
	Tenants  map[string][]string // tenant → members that see its rows
}

// The kinds of a member that is not an e-mail address.
const (
	domainPrefix = "domain:"
	groupPrefix  = "group:"
)

var (
	address    = regexp.MustCompile(`^[a-z0-9._%+'-]+@[a-z0-9-]+(\.[a-z0-9-]+)+$`)
	domainName = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)+$`)
)

// ParseAccess reads an access file:
//
//	platform: [ops@example.org, group:platform@example.org]
//	tenants:
//	  linden-school: [anna@example.org, domain:linden.example]
//
// A member is an e-mail address, domain:DOMAIN for all addresses of a domain,
// or group:ADDRESS. Upper case is made lower, as SESSION_USER() has it. An error
// names the line of file.
func ParseAccess(file string, text []byte) (*Access, error) {
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one document", file)
	}
	p := &accessParser{file, &Access{Tenants: map[string][]string{}}}
	if len(document.Content) == 0 {
		return nil, fmt.Errorf("%s: empty; to give access to nobody, write `tenants: {}`", file)
	}
	return p.access, p.object(document.Content[0], "", func(key, value *yaml.Node) (err error) {
		switch key.Value {
		case "platform":
			p.access.Platform, err = p.members(value, "platform")
			return err
		case "tenants":
			return p.object(value, "tenants", func(key, value *yaml.Node) (err error) {
				if key.Value == "" || key.Value == everyone {
					return p.fail(key, "tenants", "%q is no tenant; who sees every row stands under platform", key.Value)
				}
				p.access.Tenants[key.Value], err = p.members(value, "tenants."+key.Value)
				return err
			})
		}
		return p.fail(key, key.Value, "unknown; there are platform and tenants")
	})
}

type accessParser struct {
	file   string
	access *Access
}

func (p *accessParser) fail(at *yaml.Node, field, format string, args ...any) error {
	return fmt.Errorf("%s:%d: field %s: %s", p.file, at.Line, field, fmt.Sprintf(format, args...))
}

// object calls each for the fields of a mapping.
func (p *accessParser) object(n *yaml.Node, field string, each func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return p.fail(n, cmp.Or(field, "(the whole)"), "want a mapping")
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
			return p.fail(key, cmp.Or(field, "(the whole)"), "the key %q is no string; put it in quotes", key.Value)
		}
		if seen[key.Value] {
			return p.fail(key, key.Value, "stands there twice")
		}
		seen[key.Value] = true
		if err := each(key, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (p *accessParser) members(n *yaml.Node, field string) ([]string, error) {
	if n.Kind != yaml.SequenceNode {
		return nil, p.fail(n, field, "want a list of members")
	}
	var members []string
	for _, c := range n.Content {
		member := strings.ToLower(strings.TrimSpace(c.Value))
		rest, domain := strings.CutPrefix(member, domainPrefix)
		group, _ := strings.CutPrefix(member, groupPrefix)
		switch {
		case c.Kind != yaml.ScalarNode:
			return nil, p.fail(c, field, "want an e-mail address, %sDOMAIN or %sADDRESS", domainPrefix, groupPrefix)
		case domain && !domainName.MatchString(rest), !domain && !address.MatchString(group):
			return nil, p.fail(c, field, "%q: want an e-mail address, %sDOMAIN or %sADDRESS", c.Value, domainPrefix, groupPrefix)
		case slices.Contains(members, member):
			return nil, p.fail(c, field, "%q stands there twice", c.Value)
		}
		members = append(members, member)
	}
	return members, nil
}
