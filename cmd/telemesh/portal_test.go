package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/dataset"
)

// recorded is a folder with the recording of an office room, whose meter is moved
// from a school to an office, and with what was done about the air. Where the
// recording is not there, something like it stands for it.
func recorded(t *testing.T) (data string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "data")
	dir := t.TempDir()
	const device = "925038/CO2-meter-SCD4x"
	placements := write(t, filepath.Join(dir, "placements.csv"), `device_id,tenant_id,building,floor,room,persons,outside_co2,valid_from,valid_to
`+device+`,school,North,1,N1.01,24,421,2022-10-01T00:00:00+02:00,2022-10-20T12:00:00+02:00
`+device+`,office,South,2,S2.02,6,430,2022-10-20T12:00:00+02:00,
`)
	actions := write(t, filepath.Join(dir, "actions.csv"), `action_id,tenant_id,device_id,building,room,action,taken_at
1,school,,North,N1.01,window opened,2022-10-11T09:00:00Z
2,school,,North,N1.01,<b>fan</b> switched on,2022-10-12T10:30:00Z
3,office,`+device+`,,,filter changed,2022-10-25T09:00:00Z
`)
	customers := write(t, filepath.Join(dir, "customers.csv"), "customer_id,name,sector,country\nschool,The School,education,NL\noffice,\"Office, Ltd\",office,NL\n")
	args := []string{"replay", "--data", data, "--placements", placements, "--actions", actions, "--customers", customers}
	if wide, ok := dataset.Find(t, wideFile); ok {
		args = append(append(args, wide), wideColumns...)
	} else {
		args = append(args, write(t, filepath.Join(dir, "messages.ndjson"), standIn(device)))
	}
	telemesh(t, args...)
	return data
}

// recordedFrom is when the recording begins, and movedAt when its meter is moved.
var recordedFrom, movedAt = time.Date(2022, 10, 3, 0, 0, 0, 0, time.UTC), time.Date(2022, 10, 20, 10, 0, 0, 0, time.UTC)

// standIn is a month of a room in which people meet from 8 to 16.
func standIn(device string) string {
	var b strings.Builder
	for at := recordedFrom; at.Before(recordedFrom.AddDate(0, 0, 28)); at = at.Add(10 * time.Minute) {
		co2 := 430
		if hour := at.Hour(); at.Weekday()%6 != 0 && hour >= 8 && hour < 16 {
			co2 = 500 + 100*(hour-8) + at.Minute()
		}
		fmt.Fprintf(&b, `{"device_id":%q,"time":%q,"metrics":{"co2":%d,"temperature":%.1f}}`+"\n", device, at.Format(time.RFC3339), co2, 19+float64(co2)/400)
	}
	return b.String()
}

func TestPortalInBrowser(t *testing.T) {
	data := recorded(t)
	at := started(t, command(t.Context(), t, up(data)...))
	b := newBrowser(t, at["portal"])
	const password = "correct horse battery"
	secret := b.setUp(t, at["setup"], "ada", password)
	b.look(t, "recovery-codes")
	b.open(t, "/account")
	b.look(t, "account")
	b.logOut(t)
	b.look(t, "login")
	b.logIn(t, "ada", password, secret)
	for _, page := range []string{"live", "users", "account"} {
		b.open(t, "/"+page)
		b.look(t, page)
		b.reachable(t, page)
	}
}
