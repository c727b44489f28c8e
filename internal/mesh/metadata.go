package mesh

import (
	"fmt"

	"github.com/go-json-experiment/json"
)

// Placement is a device at a tenant and a place for [ValidFrom, ValidTo). Two
// placements of one device never overlap. (DeviceID, ValidFrom) is its key;
// of several versions the highest counts.
type Placement struct {
	DeviceID   string   `json:"device_id"`
	TenantID   string   `json:"tenant_id"`
	Building   string   `json:"building,omitempty"`
	Floor      string   `json:"floor,omitempty"`
	Room       string   `json:"room,omitempty"`
	Persons    *int64   `json:"persons,omitempty"`
	OutsideCO2 *float64 `json:"outside_co2,omitempty"` // ppm
	ValidFrom  Instant  `json:"valid_from"`
	ValidTo    *Instant `json:"valid_to,omitempty"` // nil: open
	Version    int64    `json:"version"`
	Deleted    bool     `json:"deleted,omitzero"` // the row is gone from its source
}

// Assignment is the (device, tenant, interval) part of placements, with what
// was said before: who held the device for [ValidFrom, ValidTo), and since
// which version of the placements that is so. Assignments of one device do not
// overlap, and where there is none nothing was ever said.
type Assignment struct {
	DeviceID  string   `json:"device_id"`
	TenantID  string   `json:"tenant_id,omitempty"` // empty: nobody, any more
	ValidFrom Instant  `json:"valid_from"`
	ValidTo   *Instant `json:"valid_to,omitempty"` // nil: open
	Version   int64    `json:"version"`            // of the placements (ExtVersion), from 1
}

// Action is an entry of the logbook: what was done about the air, where, when.
// ActionID is its key; of several versions the highest counts. It belongs to
// who held the device, or the room, when it was taken; an action that names
// another tenant is nobody's.
type Action struct {
	ActionID string  `json:"action_id"`
	TenantID string  `json:"tenant_id,omitempty"`
	DeviceID string  `json:"device_id,omitempty"` // one device, or
	Building string  `json:"building,omitempty"`  // a room of a building
	Room     string  `json:"room,omitempty"`
	Action   string  `json:"action"`
	TakenAt  Instant `json:"taken_at"`
	Version  int64   `json:"version"`
	Deleted  bool    `json:"deleted,omitzero"`
}

// Customer is who a tenant is. CustomerID is its key and the tenant's id; of
// several versions the highest counts.
type Customer struct {
	CustomerID string `json:"customer_id"`
	Name       string `json:"name"`
	Sector     string `json:"sector,omitempty"`
	Country    string `json:"country,omitempty"`
	Version    int64  `json:"version"`
	Deleted    bool   `json:"deleted,omitzero"`
}

// RejectedRow says what is wrong with a row of a sheet or of another source of
// metadata. (Sheet, Row, Column) is its key; of several versions the highest
// counts, and what was put right is deleted.
type RejectedRow struct {
	Sheet    string   `json:"sheet"`            // file, address or name of the sheet
	Row      int64    `json:"row"`              // from 1, where the source counts from 1; 0: the source as a whole
	Column   string   `json:"column,omitempty"` // empty: the row as a whole
	Reason   string   `json:"reason"`
	Severity Severity `json:"severity"`
	Version  int64    `json:"version"`
	Deleted  bool     `json:"deleted,omitzero"`
}

// Severity says what became of a row that something is wrong with.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"   // it was not taken
	SeverityWarning Severity = "warning" // it was taken: somebody should look at it
)

// RejectedRows is the data of placements.rejected, actions.rejected and
// customers.rejected.
type RejectedRows struct {
	Rows []RejectedRow `json:"rows"`
}

// Placements is the data of placements.changed and placements.recorded.
type Placements struct {
	Placements []Placement `json:"placements"`
}

// Actions is the data of actions.logged and actions.recorded.
type Actions struct {
	Actions []Action `json:"actions"`
}

// Customers is the data of customers.changed and customers.recorded.
type Customers struct {
	Customers []Customer `json:"customers"`
}

// Repaired is the data of tenancy.repaired: what became of the readings that
// changed placements touch, in a part of the repair. Rows that an attempt before
// sent are not counted once they are stored.
type Repaired struct {
	Version int64  `json:"version"` // of the placements that the readings were repaired to
	Devices int64  `json:"devices"` // whose rows were sent again
	Rows    int64  `json:"rows"`
	Moves   []Move `json:"moves"`
}

// Move is how many rows went from a tenant to another.
type Move struct {
	From string `json:"from,omitempty"` // empty: nobody
	To   string `json:"to,omitempty"`
	Rows int64  `json:"rows"`
}

// Redrive is the data of redrive.requested: the dead letters that are to be
// delivered again, or given up.
type Redrive struct {
	Letters []RedriveLetter `json:"letters"`
}

// RedriveLetter is a dead letter and where its event goes: the subscriber of its
// Trigger when it is asked for. The address that failed is not taken, because a
// sender can choose it (Knative keeps the extension of an event that has one), and
// because a Trigger may have got another subscriber since.
type RedriveLetter struct {
	ID         string `json:"id"`
	Subscriber string `json:"subscriber"` // its address; empty: nobody knows, and it is not delivered
	// Discard says why the letter is given up, and not delivered; empty: it is.
	Discard string `json:"discard,omitempty"`
}

// Question is the data of telemetry.questioned: the stored readings that are to be
// judged by what was measured around them. Times that are not there bound nothing.
type Question struct {
	RecordedSince *Instant `json:"recorded_since,omitempty"`
	ObservedFrom  *Instant `json:"observed_from,omitempty"`
	ObservedTo    *Instant `json:"observed_to,omitempty"` // not included
	// After is what was judged last, in the order of device and metric.
	AfterDevice string `json:"after_device,omitempty"`
	AfterMetric string `json:"after_metric,omitempty"`
}

// Encode gives data of the types above as JSON.
func Encode[T Placements | Actions | Customers | RejectedRows | Repaired | Redrive | Question | Classification](data T) []byte {
	b, err := json.Marshal(data)
	if err != nil { // the types above hold nothing that JSON lacks, but for a float that is not finite
		panic(fmt.Sprintf("encode %T: %v", data, err))
	}
	return b
}

// Decode reads data of the types above. The member that names the rows has to
// be there.
func Decode[T Placements | Actions | Customers | RejectedRows | Repaired | Redrive | Question | Classification](data []byte) (T, error) {
	var out T
	if err := json.Unmarshal(data, &out); err != nil {
		return out, fmt.Errorf("decode %T: %w", out, err)
	}
	switch rows := any(out).(type) {
	case Placements:
		if rows.Placements == nil {
			return out, fmt.Errorf(`decode placements: no member "placements"`)
		}
	case Actions:
		if rows.Actions == nil {
			return out, fmt.Errorf(`decode actions: no member "actions"`)
		}
	case Customers:
		if rows.Customers == nil {
			return out, fmt.Errorf(`decode customers: no member "customers"`)
		}
	case RejectedRows:
		if rows.Rows == nil {
			return out, fmt.Errorf(`decode rejected rows: no member "rows"`)
		}
	case Repaired:
		if rows.Moves == nil {
			return out, fmt.Errorf(`decode repaired: no member "moves"`)
		}
	case Classification:
		if rows.Classified == nil {
			return out, fmt.Errorf(`decode classification: no member "classified"`)
		}
	case Redrive:
		if rows.Letters == nil {
			return out, fmt.Errorf(`decode redrive: no member "letters"`)
		}
	}
	return out, nil
}
