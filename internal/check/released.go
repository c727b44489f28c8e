package check

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing/fstest"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/lineage"
)

// Released is what was promised last.
type Released struct {
	Revision string
	products []contract.Product
	lineage  *lineage.Graph
}

// LastReleased reads the products of a folder as they were at a revision of its git
// repository, or at its last tag. The error says why there is nothing to compare with,
// which is no fault of the mesh.
func LastReleased(ctx context.Context, folder, revision string) (*Released, error) {
	git := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", folder}, args...)...)
		out, err := cmd.Output()
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			said, _, _ := strings.Cut(strings.TrimSpace(string(failed.Stderr)), "\n")
			return nil, errors.New(cmp.Or(said, failed.Error()))
		}
		return out, err
	}
	if _, err := git("rev-parse", "--show-toplevel"); err != nil {
		return nil, fmt.Errorf("%s is in no git repository: %w", folder, err)
	}
	if revision == "" {
		tag, err := git("describe", "--tags", "--abbrev=0")
		if err != nil {
			return nil, fmt.Errorf("no tag says what was released last: %w", err)
		}
		revision = strings.TrimSpace(string(tag))
	}
	text, err := git("archive", "--format=tar", revision, ".")
	if err != nil {
		return nil, fmt.Errorf("read %s at %s: %w", folder, revision, err)
	}
	files := fstest.MapFS{}
	for archive := tar.NewReader(bytes.NewReader(text)); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		var content []byte
		if err == nil && header.Typeflag == tar.TypeReg {
			content, err = io.ReadAll(archive)
			files[path.Clean(header.Name)] = &fstest.MapFile{Data: content}
		}
		if err != nil {
			return nil, fmt.Errorf("read %s at %s: %w", folder, revision, err)
		}
	}
	r := &Released{Revision: revision}
	if r.products, err = contract.Load(files); err != nil {
		return nil, fmt.Errorf("read the products of %s at %s: %w", folder, revision, err)
	}
	if r.lineage, err = lineage.New(r.products); err != nil {
		return nil, fmt.Errorf("read the views of %s at %s: %w", folder, revision, err)
	}
	return r, nil
}

// changes says what breaks a promise of the last release while the version says that it
// still holds.
func (p *productChecker) changes() {
	if p.mesh.Released == nil {
		return
	}
	was := p.mesh.Released
	changes := contract.Compare(was.products, p.mesh.Products)
	for i := range p.mesh.Products {
		product := &p.mesh.Products[i]
		for j := range product.Views {
			changes = append(changes, p.lost(product.Name, &product.Views[j])...)
		}
	}
	for _, c := range changes {
		readers := p.readers(c.Table)
		said := ""
		if len(readers) > 0 {
			said = "; it is read by " + strings.Join(readers, ", ")
		}
		object := cmp.Or(c.Table, "product "+c.Product)
		switch {
		case c.Refused():
			file, _, _ := strings.Cut(c.File, ",")
			p.at(p.mesh.Document(file, p.versionField(c)), object, "breaking-change",
				fmt.Sprintf("raise the version of %s from %s to %s, or take it back", c.File, c.Old, c.Needs()),
				"%s: %s, and the version says that what was released at %s still holds%s", c.What, c.Text, was.Revision, said)
		case c.What == contract.ProductRemoved:
			for _, name := range was.consumers(c.Product) {
				p.at(Where{File: p.mesh.documents.Name}, object, "breaking-change", "keep it until its readers are gone",
					"the product was released at %s and is gone; it is read by %s", was.Revision, name)
			}
		}
	}
}

// versionField is where the version of what has changed stands.
func (p *productChecker) versionField(c contract.Change) string {
	_, view, ok := strings.Cut(c.File, ", output port ")
	if !ok {
		return "version"
	}
	for i := range p.mesh.Products {
		if product := &p.mesh.Products[i]; product.Name == c.Product {
			at := slices.IndexFunc(product.Ports, func(out contract.Port) bool { return out.Name == view })
			return fmt.Sprintf("outputPorts[%d].version", at)
		}
	}
	return "version"
}

// lost gives what readers of a view lose, by the columns of its query then and now.
func (p *productChecker) lost(product string, is *contract.View) []contract.Change {
	before := p.mesh.Released.lineage.Node(is.FullName())
	if before == nil || p.mesh.Lineage == nil || p.mesh.Lineage.Node(is.FullName()) == nil {
		return nil
	}
	columns := func(n *lineage.Node) (all []contract.Column) {
		for _, c := range n.Columns {
			all = append(all, contract.Column{Name: c.Name})
		}
		return all
	}
	for _, old := range p.mesh.Released.products {
		for i := range old.Views {
			if was := &old.Views[i]; was.FullName() == is.FullName() {
				return contract.CompareViews(product, was, is, columns(before), columns(p.mesh.Lineage.Node(is.FullName())))
			}
		}
	}
	return nil
}

// readers are who reads an output port: those that said so when they subscribed, products
// by their input ports, tables and views by what they are made of.
func (p *productChecker) readers(name string) []string {
	var all []string
	add := func(reader string) {
		if !slices.Contains(all, reader) {
			all = append(all, reader)
		}
	}
	for _, products := range [][]contract.Product{p.mesh.Released.products, p.mesh.Products} {
		for _, product := range products {
			for _, out := range product.Ports {
				if out.Name == name {
					for _, c := range out.Consumers {
						add(c.Name)
					}
				}
			}
		}
	}
	for _, product := range p.mesh.Products {
		for _, in := range product.InputPorts {
			if from := p.ports[in.Contract]; in.Contract == name || from.table != nil && from.table.FullName() == name {
				add(product.Name)
			}
		}
	}
	return all
}

// consumers are who subscribed to a port of a product.
func (r *Released) consumers(product string) (names []string) {
	for _, p := range r.products {
		for _, out := range p.Ports {
			for _, c := range out.Consumers {
				if p.Name == product && !slices.Contains(names, c.Name) {
					names = append(names, c.Name)
				}
			}
		}
	}
	return names
}
