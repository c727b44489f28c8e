package simulate

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/telemesh/telemesh/internal/sheet"
)

// WriteFiles writes the scenario into a folder, which it makes where it is
// missing: messages.ndjson in the order of sending, placements.csv,
// actions.csv and customers.csv.
func (f *Fleet) WriteFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := f.WriteSheets(dir); err != nil {
		return err
	}
	return write(dir, "messages.ndjson", func(w io.Writer) error {
		for m := range f.Messages(f.Start, f.End()) {
			if _, err := w.Write(append(m.Body, '\n')); err != nil {
				return err
			}
		}
		return nil
	})
}

// WriteSheets writes placements.csv, actions.csv and customers.csv into a
// folder.
func (f *Fleet) WriteSheets(dir string) error {
	return errors.Join(
		write(dir, "placements.csv", func(w io.Writer) error { return sheet.Placements.Write(w, f.Placements()) }),
		write(dir, "actions.csv", func(w io.Writer) error { return sheet.Actions.Write(w, f.Actions()) }),
		write(dir, "customers.csv", func(w io.Writer) error { return sheet.Customers.Write(w, f.Customers()) }),
	)
}

func write(dir, name string, content func(io.Writer) error) error {
	file, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	w := bufio.NewWriter(file)
	return errors.Join(content(w), w.Flush(), file.Close())
}
