// Package functions is the table of everything that a Service of config/ can
// run: image ko://github.com/telemesh/telemesh/functions/NAME is Table[NAME].
// On a cluster each is a process of its own; the local runtime takes them from
// here.
package functions

import (
	"embed"
	"io/fs"
	"path"

	"github.com/telemesh/telemesh/functions/alert/notify"
	"github.com/telemesh/telemesh/functions/analytics-join/join"
	analyticsrepair "github.com/telemesh/telemesh/functions/analytics-repair/repair"
	assignment "github.com/telemesh/telemesh/functions/assignment-port/port"
	"github.com/telemesh/telemesh/functions/classify/label"
	customer "github.com/telemesh/telemesh/functions/customer-source/source"
	"github.com/telemesh/telemesh/functions/dead-letter-sink/letters"
	"github.com/telemesh/telemesh/functions/display/show"
	mqtt "github.com/telemesh/telemesh/functions/mqtt-source/source"
	"github.com/telemesh/telemesh/functions/output-port/port"
	pubsub "github.com/telemesh/telemesh/functions/pubsub-source/source"
	"github.com/telemesh/telemesh/functions/quality-check/check"
	"github.com/telemesh/telemesh/functions/service-levels/measure"
	sheet "github.com/telemesh/telemesh/functions/sheet-source/source"
	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/functions/telemetry-ingest/ingest"
	"github.com/telemesh/telemesh/functions/telemetry-judge/judge"
	tenancy "github.com/telemesh/telemesh/functions/tenancy-repair/repair"
	"github.com/telemesh/telemesh/functions/tenant-enrich/enrich"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	websocket "github.com/telemesh/telemesh/functions/websocket-source/source"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/portal"
)

// Table is the functions by the folder of their main.
var Table = map[string]function.Start{
	"alert":             notify.Start,
	"analytics-join":    join.Start,
	"analytics-repair":  analyticsrepair.Start,
	"assignment-port":   assignment.Start,
	"classify":          label.Start,
	"customer-source":   customer.Start,
	"dead-letter-sink":  letters.Start,
	"display":           show.Start,
	"mqtt-source":       mqtt.Start,
	"output-port":       port.Start,
	"portal":            portal.Start,
	"pubsub-source":     pubsub.Start,
	"quality-check":     check.Start,
	"service-levels":    measure.Start,
	"sheet-source":      sheet.Start,
	"telemetry-flatten": flatten.Start,
	"telemetry-ingest":  ingest.Start,
	"telemetry-judge":   judge.Start,
	"tenancy-repair":    tenancy.Start,
	"tenant-enrich":     enrich.Start,
	"warehouse-sink":    sink.Start,
	"websocket-source":  websocket.Start,
}

//go:embed all:portal/kodata
var kodata embed.FS

// Data is the folder kodata of a function; nil: it has none.
func Data(name string) fs.FS {
	folder := path.Join(name, "kodata")
	if _, err := fs.Stat(kodata, folder); err != nil {
		return nil
	}
	data, err := fs.Sub(kodata, folder)
	if err != nil {
		panic(err) // of a name that is no path
	}
	return data
}
