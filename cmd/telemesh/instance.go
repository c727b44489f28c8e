package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/functions"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/local"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/triggers"
)

// options are the flags of every command that runs the mesh.
type options struct {
	data      string
	manifests string
	products  string
	mappings  string
	set       []string
	verbose   bool
	portal    string // public address of the portal; empty: it is not reached
	links     string // where links to the portal lead; empty: there are none
	demo      bool   // everybody who reaches it may enter
}

func dataFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "data", "telemesh-data", "folder that holds the broker's events and the warehouse")
}

func mappingsFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "mappings", "", "folder with mappings of your own, *.yaml: how messages of other forms are read")
}

func (o *options) flags(cmd *cobra.Command) {
	dataFlag(cmd, &o.data)
	cmd.Flags().StringVar(&o.manifests, "manifests", "", "folder with brokers/, triggers/ and config/ (default: those built in)")
	productsFlag(cmd, &o.products)
	mappingsFlag(cmd, &o.mappings)
	cmd.Flags().StringArrayVar(&o.set, "set", nil, "override an environment variable of a Service or source, as telemetry-ingest.BATCH_MAX_MESSAGES=1")
	cmd.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "log more")
}

func (o *options) log() *slog.Logger {
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// builtIn is the manifests this binary carries.
func builtIn() []manifest.Folder {
	return []manifest.Folder{{Name: "brokers", FS: brokers.FS}, {Name: "triggers", FS: triggers.FS}, {Name: "config", FS: config.FS}, {Name: "config/sources", FS: config.Sources}}
}

func loadManifests(dir string) (manifest.Set, error) {
	folders, _, err := manifestFolders(dir)
	if err != nil {
		return manifest.Set{}, err
	}
	return manifest.Load(folders...)
}

// manifestFolders gives the folders of dir, or those built in if it is empty, and the
// overlays that are applied besides.
func manifestFolders(dir string) (folders, overlays []manifest.Folder, err error) {
	if dir == "" {
		overlays, err = manifest.Overlays(manifest.Folder{Name: "config/overlays", FS: config.Overlays})
		return builtIn(), overlays, err
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, nil, hint(fmt.Errorf("read manifests: %w", err), "--manifests takes a folder with brokers/, triggers/ and config/")
	}
	name := filepath.Join(dir, "config", "overlays")
	if _, err := os.Stat(name); err == nil {
		if overlays, err = manifest.Overlays(manifest.Folder{Name: name, FS: os.DirFS(name)}); err != nil {
			return nil, nil, err
		}
	}
	return manifest.Dir(dir), overlays, nil
}

// overrides reads SERVICE.KEY=VALUE. What --set says counts, whatever other flags
// say.
func (o *options) overrides(set manifest.Set, s sheets) (map[manifest.Ref]map[string]string, error) {
	out := map[manifest.Ref]map[string]string{}
	settings := append(append(s.settings(set), o.portalSettings(set)...), o.alertSettings(set)...)
	if o.products != "" {
		folder, err := filepath.Abs(o.products)
		if err != nil {
			return nil, err
		}
		for _, w := range set.Workloads() { // who opens the warehouse has them from there
			settings = append(settings, w.Ref().Name+".PRODUCTS="+folder)
		}
	}
	if o.mappings != "" {
		settings = append(settings, "telemetry-flatten.MAPPINGS="+o.mappings, "portal.MAPPINGS="+o.mappings)
	}
	for _, s := range append(settings, o.set...) {
		name, value, ok := strings.Cut(s, "=")
		service, key, dotted := strings.Cut(name, ".")
		if !ok || !dotted || service == "" || key == "" {
			return nil, hint(fmt.Errorf("--set %q is not SERVICE.KEY=VALUE", s), "for example --set telemetry-ingest.BATCH_MAX_MESSAGES=1")
		}
		all := set.Workloads()
		at := slices.IndexFunc(all, func(w *manifest.Workload) bool { return w.Ref().Name == service })
		if at < 0 {
			return nil, fmt.Errorf("--set %q: no Service or source %q in the manifests", s, service)
		}
		ref := all[at].Ref()
		if out[ref] == nil {
			out[ref] = map[string]string{}
		}
		out[ref][key] = value
	}
	return out, nil
}

// portalSettings is what the portal has of the cluster there: on this machine its
// users are in the data folder, and no proxy stands before it.
func (o *options) portalSettings(set manifest.Set) []string {
	if !slices.ContainsFunc(set.Services, func(s *manifest.Service) bool { return s.Ref() == portalService }) {
		return nil
	}
	public := o.portal
	if public == "" {
		public = "http://127.0.0.1"
	}
	return []string{"portal.DATABASE_URL=" + databaseIn(o.data), "portal.PORTAL_URL=" + public, "portal.PORTAL_DEMO=" + strconv.FormatBool(o.demo)}
}

var portalService = manifest.Ref{Namespace: "platform", Name: "portal"}

// alertSettings is what alerts have of the cluster there. Who is told is for --set to say.
func (o *options) alertSettings(set manifest.Set) []string {
	if set.Service(alertService) == nil {
		return nil
	}
	settings := []string{"alert.DATABASE_URL=sqlite:" + filepath.Join(o.data, "alerts.db")}
	if o.links != "" {
		settings = append(settings, "alert.PORTAL_URL="+o.links)
	}
	return settings
}

var alertService = manifest.Ref{Namespace: "analytics", Name: "alert"}

// databaseIn is the database of users of a data folder.
func databaseIn(data string) string { return "sqlite:" + filepath.Join(data, "portal.db") }

// instance is a data folder in use: its warehouse, its mesh, and the socket by
// which other commands reach both.
type instance struct {
	dir       string
	products  []contract.Product
	warehouse warehouse.Warehouse
	mesh      *local.Mesh
	config    local.Config
	found     tally // what was there before the sheets were loaded
	log       *slog.Logger

	socket *http.Server
}

// open takes the folder, starts the mesh on it and loads the sheets.
func (o *options) open(ctx context.Context, s sheets) (_ *instance, err error) {
	set, err := loadManifests(o.manifests)
	if err != nil {
		return nil, err
	}
	if s, err = s.absolute(); err != nil {
		return nil, err
	}
	overrides, err := o.overrides(set, s)
	if err != nil {
		return nil, err
	}
	in := &instance{dir: o.data, log: o.log()}
	if in.products, err = readProducts(o.products); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.close())
		}
	}()
	if in.warehouse, err = patiently(ctx, func() (warehouse.Warehouse, error) { return openWarehouse(ctx, o.data, in.products) }); err != nil {
		return nil, err
	}
	in.config = local.Config{
		Dir: filepath.Join(o.data, "broker"), Manifests: set, Functions: functions.Table, Data: functions.Data,
		Warehouse: in.warehouse, Set: overrides, Log: in.log,
	}
	if err := in.start(ctx); err != nil {
		return nil, s.named(err)
	}
	if in.found, err = in.tally(ctx); err != nil {
		return nil, err
	}
	if err := in.serveSocket(); err != nil {
		return nil, err
	}
	return in, in.load(ctx, s)
}

// has says whether the mesh has a product.
func (in *instance) has(product string) bool {
	return slices.ContainsFunc(in.products, func(p contract.Product) bool { return p.Name == product })
}

func (in *instance) start(ctx context.Context) (err error) {
	if in.mesh, err = patiently(ctx, func() (*local.Mesh, error) { return local.Open(ctx, in.config) }); err != nil {
		return inUse(fmt.Errorf("start the mesh: %w", err))
	}
	return nil
}

// patience is how long a store that is in use is waited for: a command that
// only looks has it for a moment, and a mesh that stops gives it up.
const patience = 3 * time.Second

// patiently opens a store, again while another process has it.
func patiently[T any](ctx context.Context, open func() (T, error)) (T, error) {
	for began := time.Now(); ; {
		store, err := open()
		if !errors.Is(err, duckdb.ErrInUse) && !errors.Is(err, local.ErrInUse) || time.Since(began) > patience {
			return store, err
		}
		select {
		case <-ctx.Done():
			return store, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// inUse says what to do where another process holds the folder.
func inUse(err error) error {
	if errors.Is(err, duckdb.ErrInUse) || errors.Is(err, local.ErrInUse) {
		return hint(err, "one process holds a data folder: stop that one, or name another folder with --data; `telemesh query`, `rejected` and `deadletters` work beside it")
	}
	return err
}

// openWarehouse opens the folder's DuckDB with the tables of the products; nil: with
// those that it has, or of those built in where it is new.
func openWarehouse(ctx context.Context, dir string, all []contract.Product) (warehouse.Warehouse, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	file := filepath.Join(dir, "warehouse.duckdb")
	_, missing := os.Stat(file)
	if all == nil && missing != nil {
		var err error
		if all, err = readProducts(""); err != nil {
			return nil, err
		}
	}
	w, err := duckdb.Open(file)
	if err != nil {
		return nil, inUse(fmt.Errorf("open warehouse: %w", err))
	}
	if all == nil {
		return w, nil
	}
	if err := w.Apply(ctx, all); err != nil {
		return nil, errors.Join(fmt.Errorf("make tables: %w", err), w.Close())
	}
	return w, nil
}

// closeTimeout bounds a clean stop; what is not delivered by then is delivered
// after the next start.
const closeTimeout = 30 * time.Second

func (in *instance) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	if in.socket != nil {
		errs = append(errs, in.socket.Close())
	}
	if in.mesh != nil {
		errs = append(errs, in.mesh.Close(ctx))
	}
	if in.warehouse != nil {
		errs = append(errs, in.warehouse.Close())
	}
	return errors.Join(errs...)
}

// socketPath is where the process that holds a folder listens. A socket's path
// must not be longer than 107 bytes on Linux (unix(7)), so that of a folder
// deep down stands in the folder for temporary files.
func socketPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", err
	}
	path := filepath.Join(abs, "telemesh.sock")
	if len(path) > 103 {
		path = filepath.Join(os.TempDir(), "telemesh-"+mesh.Hash(abs)+".sock")
	}
	return path, nil
}

func (in *instance) serveSocket() error {
	path, err := socketPath(in.dir)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	// The folder is this process's: a socket that is there is left from one that
	// died.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	in.socket = &http.Server{Handler: in.control(), ReadHeaderTimeout: time.Minute}
	go in.socket.Serve(listener)
	return nil
}
