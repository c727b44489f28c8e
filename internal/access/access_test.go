package access_test

import (
	"context"
	"errors"
	"testing"

	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/literal"
	"github.com/telemesh/telemesh/products"
)

// asked keeps what it is asked, and answers nothing.
type asked struct {
	warehouse.Warehouse
	sql string
}

func (a *asked) Query(_ context.Context, sql string) (*warehouse.Rows, error) {
	a.sql = sql
	return &warehouse.Rows{}, nil
}

func open(t *testing.T) (*access.Data, *asked) {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	w := &asked{}
	return access.New(w, all), w
}

func only(t *testing.T, v access.Viewer, tenant string) access.Viewer {
	t.Helper()
	v, err := v.As(tenant)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestQueryIsOfTheViewersTenants(t *testing.T) {
	admin, analyst := access.Viewer{Role: access.Admin}, access.Viewer{Role: access.Analyst}
	school := access.Viewer{Role: access.Tenant, Tenants: []string{"school", "o'ffice"}}
	d, w := open(t)
	for _, test := range []struct {
		viewer    access.Viewer
		sql, want string // want empty: forbidden
	}{
		{admin, "SELECT 1 FROM {iot_analytics.readings} r", "SELECT 1 FROM iot_analytics.readings r"},
		{analyst, "SELECT 1 FROM {iot_telemetry_internal.rejected}", "SELECT 1 FROM iot_telemetry_internal.rejected"},
		{school, "SELECT 1 FROM {iot_analytics.readings} r, {iot_analytics.co2_evolution} e",
			"SELECT 1 FROM (SELECT * FROM iot_analytics.readings WHERE tenant_id IN ('school', CONCAT('o', CHR(39), 'ffice'))) r, " +
				"(SELECT * FROM iot_analytics.co2_evolution WHERE tenant_id IN ('school', CONCAT('o', CHR(39), 'ffice'))) e"},
		{school, "SELECT 1 FROM {customers.customers}", "SELECT 1 FROM (SELECT * FROM customers.customers WHERE customer_id IN ('school', CONCAT('o', CHR(39), 'ffice')))"},
		{only(t, school, "school"), "SELECT 1 FROM {iot_actions.actions}", "SELECT 1 FROM (SELECT * FROM iot_actions.actions WHERE tenant_id IN ('school'))"},
		{only(t, admin, "school"), "SELECT 1 FROM {iot_actions.actions}", "SELECT 1 FROM (SELECT * FROM iot_actions.actions WHERE tenant_id IN ('school'))"},
		{access.Viewer{Role: access.Tenant}, "SELECT 1 FROM {iot_actions.actions}", "SELECT 1 FROM (SELECT * FROM iot_actions.actions WHERE FALSE)"},
		{access.Viewer{Tenants: []string{"school"}}, "SELECT 1 FROM {iot_actions.actions}", "SELECT 1 FROM (SELECT * FROM iot_actions.actions WHERE FALSE)"},
		{admin, "SELECT " + literal.Text("{iot_actions.actions}"), "SELECT CONCAT(CHR(123), 'iot_actions.actions', CHR(125))"},
		{school, "SELECT 1 FROM {event_log.events}", ""},
		{school, "SELECT 1 FROM {iot_analytics_internal.readings}", ""},
		{only(t, admin, "school"), "SELECT 1 FROM {event_log.events}", ""},
	} {
		w.sql = ""
		_, err := d.Query(t.Context(), test.viewer, test.sql)
		if w.sql != test.want || (test.want == "") != errors.Is(err, access.ErrForbidden) {
			t.Errorf("%+v: %s\nran  %q, %v\nwant %q", test.viewer, test.sql, w.sql, err, test.want)
		}
	}
}

// A table out of braces, or one that no contract names, is not read: whose its
// rows are nobody could say.
func TestQueryNamesTablesInBraces(t *testing.T) {
	d, w := open(t)
	for _, sql := range []string{
		"SELECT 1 FROM iot_analytics.readings",
		"SELECT 1 FROM {iot_analytics.readings}, IOT_Analytics . readings",
		`SELECT 1 FROM "iot_analytics"."readings"`,
		"SELECT 1 FROM `iot_analytics`.readings",
		"SELECT 1 FROM iot_telemetry_internal.readings",
		"SELECT 1 FROM {iot_analytics.nothing}",
		"SELECT 1 FROM {}",
	} {
		if _, err := d.Query(t.Context(), access.Viewer{Role: access.Admin}, sql); err == nil || w.sql != "" {
			t.Errorf("%s: ran %q, %v", sql, w.sql, err)
		}
	}
}

func TestWholeIsForAdmins(t *testing.T) {
	d, w := open(t)
	for _, v := range []access.Viewer{{}, {Role: access.Analyst}, {Role: access.Tenant, Tenants: []string{"a"}}, only(t, access.Viewer{Role: access.Admin}, "a")} {
		if _, err := d.Whole(t.Context(), v, "SELECT 1"); !errors.Is(err, access.ErrForbidden) || w.sql != "" {
			t.Errorf("%+v: ran %q, %v", v, w.sql, err)
		}
	}
	if _, err := d.Whole(t.Context(), access.Viewer{Role: access.Admin}, "SELECT 1"); err != nil || w.sql != "SELECT 1" {
		t.Errorf("an admin: ran %q, %v", w.sql, err)
	}
}

func TestAs(t *testing.T) {
	school := access.Viewer{Role: access.Tenant, Tenants: []string{"school"}}
	for _, test := range []struct {
		viewer access.Viewer
		tenant string
		want   bool
	}{
		{access.Viewer{Role: access.Admin}, "office", true},
		{access.Viewer{Role: access.Analyst}, "office", true},
		{school, "school", true},
		{school, "office", false},
		{school, "", false},
		{access.Viewer{Role: access.Admin}, "", false},
		{only(t, access.Viewer{Role: access.Admin}, "school"), "office", false},
		{access.Viewer{Tenants: []string{"school"}}, "school", false},
	} {
		if _, err := test.viewer.As(test.tenant); (err == nil) != test.want {
			t.Errorf("%+v as %q: %v", test.viewer, test.tenant, err)
		}
	}
}
