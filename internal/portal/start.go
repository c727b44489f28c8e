package portal

import (
	"net/http"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
	"github.com/telemesh/telemesh/products"
)

// Environment is the function's environment.
type Environment struct {
	connect.Config
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	env, err := function.Config[Environment]()
	if err != nil {
		return nil, err
	}
	w, err := env.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	all, err := contract.Load(products.FS)
	if err != nil {
		return nil, err
	}
	p, err := New(Config{
		Data:   access.New(w, all),
		Bundle: ports.Data,
		Log:    ports.Log,
		// Until package users says it: everybody is an administrator.
		Viewer: func(*http.Request) (access.Viewer, bool, error) {
			return access.Viewer{ID: "1", Name: "admin", Role: access.Admin}, true, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &function.Function{HTTP: p.Handler()}, nil
}
