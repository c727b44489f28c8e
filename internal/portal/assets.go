package portal

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/telemesh/telemesh/internal/access"
)

//go:embed style/*.css
var styles embed.FS

// assets are the files that pages load.
type assets struct {
	files  map[string][]byte
	zipped map[string][]byte // a third of the bytes
	hash   map[string]string
}

// newAssets takes the style sheet, which is one of all of style/, and the scripts
// of a bundle.
func newAssets(bundle fs.FS) (*assets, error) {
	a := &assets{files: map[string][]byte{}, zipped: map[string][]byte{}, hash: map[string]string{}}
	var sheet bytes.Buffer
	names, err := fs.Glob(styles, "style/*.css")
	if err != nil {
		return nil, err
	}
	const base = "style/base.css" // the others build on it
	names = append([]string{base}, slices.DeleteFunc(names, func(name string) bool { return name == base })...)
	for _, name := range names {
		text, err := styles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		sheet.Write(text)
	}
	a.add("portal.css", sheet.Bytes())
	if bundle == nil {
		return a, nil
	}
	entries, err := fs.ReadDir(bundle, "assets")
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil // not built: pages have no charts
	}
	if err != nil {
		return nil, fmt.Errorf("read the bundle: %w", err)
	}
	for _, e := range entries {
		text, err := fs.ReadFile(bundle, path.Join("assets", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read the bundle: %w", err)
		}
		a.add(e.Name(), text)
	}
	return a, nil
}

func (a *assets) add(name string, text []byte) {
	sum := sha256.Sum256(text)
	a.files[name], a.hash[name] = text, hex.EncodeToString(sum[:8])
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	w.Write(text) // into memory
	w.Close()
	a.zipped[name] = zipped.Bytes()
}

// address of a file, which changes with what is in it; empty: there is none.
func (a *assets) address(name string) string {
	if a.hash[name] == "" {
		return ""
	}
	return "/assets/" + name + "?v=" + a.hash[name]
}

func (a *assets) serve(w http.ResponseWriter, r *http.Request, _ access.Viewer) error {
	name := r.PathValue("name")
	text, ok := a.files[name]
	if !ok {
		return errNotFound
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	if r.URL.Query().Get("v") != a.hash[name] && !hashed(name) {
		w.Header().Set("Cache-Control", "public, no-cache")
	}
	w.Header().Set("ETag", `"`+a.hash[name]+`"`)
	w.Header().Set("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("ETag", `"`+a.hash[name]+`-gzip"`)
		text = a.zipped[name]
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(text))
	return nil
}

// hashed says whether the name of a script tells what is in it: what several
// pages share is in chunk-HASH.js.
func hashed(name string) bool { return len(name) > 6 && name[:6] == "chunk-" }
