package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
)

// recorded is a folder with the recording of an office room, whose meter is moved
// from a school to an office, and with what was done about the air. Where the
// recording is not there, something like it stands for it.
func recorded(t *testing.T) (data string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "data")
	dir := t.TempDir()
	placements := write(t, filepath.Join(dir, "placements.csv"), `device_id,tenant_id,building,floor,room,persons,outside_co2,valid_from,valid_to
`+recordedDevice+`,school,North,1,N1.01,24,421,2022-10-01T00:00:00+02:00,2022-10-20T12:00:00+02:00
`+recordedDevice+`,office,South,2,S2.02,6,430,2022-10-20T12:00:00+02:00,
`+hostileCell+`,school,`+hostileCell+`,1,`+hostileCell+`,1,421,2022-10-01T00:00:00+02:00,
`)
	actions := write(t, filepath.Join(dir, "actions.csv"), `action_id,tenant_id,device_id,building,room,action,taken_at
1,school,,North,N1.01,window opened,2022-10-11T09:00:00Z
2,school,,North,N1.01,`+hostileCell+`,2022-10-12T10:30:00Z
3,office,`+recordedDevice+`,,,filter changed,2022-10-25T09:00:00Z
`)
	customers := write(t, filepath.Join(dir, "customers.csv"), "customer_id,name,sector,country\nschool,The School,education,NL\noffice,\"Office, Ltd\",office,NL\n")
	args := []string{"replay", "--data", data, "--placements", placements, "--actions", actions, "--customers", customers}
	if wide, ok := dataset.Find(t, wideFile); ok {
		args = append(append(args, wide), wideColumns...)
	} else {
		args = append(args, write(t, filepath.Join(dir, "messages.ndjson"), standIn()))
	}
	telemesh(t, args...)
	return data
}

// hostile is what somebody who wants to harm the readers of the portal calls a
// device, a metric, a room or an action.
const (
	hostile     = `<img src="x" onerror="document.title='harmed'">`
	hostileCell = `"<img src=""x"" onerror=""document.title='harmed'"">"` // of a CSV
)

const recordedDevice = "925038/CO2-meter-SCD4x"

// recordedFrom is when the recording begins.
var recordedFrom = time.Date(2022, 10, 3, 0, 0, 0, 0, time.UTC)

// standIn is a month of a room in which people meet from 8 to 16.
func standIn() string {
	var b strings.Builder
	for at := recordedFrom; at.Before(recordedFrom.AddDate(0, 0, 28)); at = at.Add(10 * time.Minute) {
		co2 := 430
		if hour := at.Hour(); at.Weekday()%6 != 0 && hour >= 8 && hour < 16 {
			co2 = 500 + 100*(hour-8) + at.Minute()
		}
		fmt.Fprintf(&b, `{"device_id":%q,"time":%q,"metrics":{"co2":%d,"temperature":%.1f}}`+"\n", recordedDevice, at.Format(time.RFC3339), co2, 19+float64(co2)/400)
	}
	return b.String()
}

// As people use it: an admin sets up and looks around, and a tenant, who sees what
// is theirs.
func TestPortalInBrowser(t *testing.T) {
	data := recorded(t)
	addresses := started(t, command(t.Context(), t, up(data)...))
	for at := recordedFrom.AddDate(0, 0, 7); at.Before(recordedFrom.AddDate(0, 0, 8)); at = at.Add(time.Hour) {
		said, err := json.Marshal(map[string]any{"device_id": hostile, "time": at, "metrics": map[string]int{"co2": 600, hostile: 1}})
		if err != nil {
			t.Fatal(err)
		}
		postMessage(t, addresses["ingest"], string(said))
	}
	b := newBrowser(t, addresses["portal"])
	const password = "correct horse battery"
	secret := b.setUp(t, addresses["setup"], "ada", password)
	b.look(t, "recovery-codes")
	b.open(t, "/account")
	b.logOut(t)
	b.look(t, "login")
	b.logIn(t, "ada", password, secret)

	const october = "from=2022-10-10&to=2022-10-24"
	t.Run("pages", func(t *testing.T) {
		for name, path := range map[string]string{
			"air-room": "/air?tenant=school&room=North%2F1%2FN1.01&" + october, "air": "/air?tenant=school&" + october, "air-empty": "/air?tenant=office", "air-wrong": "/air?tenant=school&low=much&" + october,
			"catalog": "/catalog", "catalog-product": "/catalog/iot-analytics", "mesh": "/mesh", "live": "/live",
			"operations": "/operations", "operations-deadletters": "/operations/deadletters", "operations-rejected": "/operations/rejected", "operations-parked": "/operations/parked",
			"operations-sheets": "/operations/sheets", "operations-quality": "/operations/quality", "operations-audit": "/operations/audit", "operations-console": "/operations/console",
			"users": "/users", "account": "/account",
		} {
			b.open(t, path)
			if strings.HasPrefix(name, "air-room") {
				b.waits(t, `!!document.querySelector("#chart canvas")`)
			}
			b.look(t, name)
			b.reachable(t, name)
			b.harmless(t, name)
		}
	})

	t.Run("a room's air and what was done about it", func(t *testing.T) {
		b.open(t, "/air?tenant=school&room=North%2F1%2FN1.01&"+october)
		b.waits(t, `!!document.querySelector("#chart canvas")`)
		for _, told := range []string{"window opened", hostile} {
			b.sees(t, told)
		}
		if text := js[string](t, b, `document.querySelector("main").textContent`); !strings.Contains(text, "900") || !strings.Contains(text, "1,200") {
			t.Error("the page does not say where the bands come from")
		}
		if text := js[string](t, b, `document.querySelector("main").textContent`); !strings.Contains(text, "900") || !strings.Contains(text, "1,200") {
			t.Error("the page does not say where the bands come from")
		}
		if js[bool](t, b, `[...document.querySelectorAll("b")].some((e) => e.textContent === "fan")`) {
			t.Error("the text of an action became an element")
		}
		b.do(t, chromedp.Focus("#chart", chromedp.ByQuery), chromedp.KeyEvent("+"))
		b.waits(t, `new URL(location.href).searchParams.has("zoom")`)
		zoomed := b.at(t)
		b.open(t, "/live")
		b.open(t, zoomed)
		b.waits(t, `!!document.querySelector("#chart canvas")`)
		if got := b.at(t); got != zoomed {
			t.Errorf("the address %s became %s", zoomed, got)
		}
	})

	t.Run("another tenant's", func(t *testing.T) {
		b.open(t, "/air?tenant=school&"+october)
		b.do(t, chromedp.SetValue(`select[name=tenant]`, "office", chromedp.ByQuery),
			chromedp.Evaluate(`document.querySelector("select[name=tenant]").dispatchEvent(new Event("change", {bubbles: true}))`, nil))
		b.waits(t, `new URL(location.href).searchParams.get("tenant") === "office"`)
		b.sees(t, "S2.02")
	})

	t.Run("what is shown, as a file", func(t *testing.T) {
		b.open(t, "/air?tenant=school&room=North%2F1%2FN1.01&"+october)
		text := js[string](t, b, `fetch(document.querySelector("a[href*='readings.csv']").href).then((r) => r.text())`)
		all, err := csv.NewReader(strings.NewReader(text)).ReadAll()
		if err != nil || len(all) < 2 {
			t.Fatalf("%d lines, %v: %.200s", len(all), err, text)
		}
		var got []string
		for _, row := range all[1:] {
			id, value := slices.Index(all[0], "reading_id"), slices.Index(all[0], "value")
			got = append(got, fmt.Sprintf("%s %v", row[id], number(t, row[value])))
		}
		var want []string
		for _, line := range rows(t, data, `SELECT reading_id, value FROM iot_analytics.readings WHERE tenant_id = 'school' AND metric = 'co2' AND room = 'N1.01'
			AND observed_at >= TIMESTAMPTZ '2022-10-10 00:00:00+00' AND observed_at < TIMESTAMPTZ '2022-10-24 00:00:00+00'`) {
			id, value, _ := strings.Cut(line, ",")
			want = append(want, fmt.Sprintf("%s %v", id, number(t, value)))
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
			t.Errorf("%d readings, want %d (-warehouse +file):\n%.1000s", len(got), len(want), diff)
		}
	})

	t.Run("names that harm", func(t *testing.T) {
		postMessage(t, addresses["ingest"], fmt.Sprintf(`{"device_id":"nobody's","time":%q,"metrics":{"co2":1}}`, hostile))
		waitFor(t, func() bool { return len(rows(t, data, "SELECT 1 FROM iot_telemetry_internal.rejected")) > 0 })
		for _, page := range []string{
			"/air?tenant=school&" + october, "/air?tenant=school&device=" + url.QueryEscape(hostile) + "&" + october, "/live", "/operations/rejected", "/operations/parked",
			"/operations", "/catalog/iot-analytics", "/users", "/operations/audit",
		} {
			b.open(t, page)
			b.harmless(t, page)
		}
	})

	t.Run("a live event", func(t *testing.T) {
		b.open(t, "/live")
		b.sees(t, "Live")
		// Of those that were on the page before none is new.
		const arrived = `[...document.querySelectorAll("main tbody tr.new")].some((row) => row.innerText.includes("telemetry.received"))`
		postMessage(t, addresses["ingest"], `{"device_id":"just-now","metrics":{"co2":777}}`)
		b.waits(t, arrived)
		b.do(t, chromedp.Click("#live-pause", chromedp.ByQuery), chromedp.Click("#live-clear", chromedp.ByQuery))
		postMessage(t, addresses["ingest"], `{"device_id":"just-now","metrics":{"co2":778}}`)
		b.waits(t, `document.getElementById("live-pause").textContent.startsWith("Resume, show ")`)
		if js[int](t, b, `document.querySelectorAll("main tbody tr").length`) != 0 {
			t.Error("the list goes on while it is paused")
		}
		b.do(t, chromedp.Click("#live-pause", chromedp.ByQuery))
		b.waits(t, arrived)
		b.do(t, chromedp.Click("main tbody tr a", chromedp.ByQuery))
		b.waits(t, `!!document.querySelector("dialog[open] .chain")`)
	})

	t.Run("the mesh by pointer and keyboard", func(t *testing.T) {
		b.open(t, "/mesh")
		b.waits(t, `!!document.querySelector("#graph svg .node")`)
		type view struct{ X, Y, Scale float64 }
		look := func() (v view) {
			t.Helper()
			place := js[string](t, b, `document.querySelector("#graph > svg > g").getAttribute("transform")`)
			if _, err := fmt.Sscanf(place, "translate(%g %g) scale(%g)", &v.X, &v.Y, &v.Scale); err != nil {
				t.Fatalf("%q: %v", place, err)
			}
			return v
		}
		near := func(a, b float64) bool { return math.Abs(a-b) < 0.01 }
		at := js[struct{ X, Y float64 }](t, b, `(() => { const c = document.querySelector("#graph > svg"); c.scrollIntoView({block: "center"}); const r = c.getBoundingClientRect(); return {X: Math.round(r.x + 40), Y: innerHeight / 2}; })()`)
		mouse := func(kind input.MouseType, x, y float64, more ...func(*input.DispatchMouseEventParams) *input.DispatchMouseEventParams) {
			t.Helper()
			e := input.DispatchMouseEvent(kind, x, y)
			for _, set := range more {
				e = set(e)
			}
			b.do(t, e)
		}
		left := func(e *input.DispatchMouseEventParams) *input.DispatchMouseEventParams {
			return e.WithButton(input.Left).WithButtons(1).WithClickCount(1)
		}
		before := look()
		mouse(input.MousePressed, at.X, at.Y, left)
		mouse(input.MouseMoved, at.X+30, at.Y+10, left)
		mouse(input.MouseMoved, at.X+70, at.Y-20, left)
		mouse(input.MouseReleased, at.X+70, at.Y-20, left)
		if now := look(); !near(now.X-before.X, 70) || !near(now.Y-before.Y, -20) || now.Scale != before.Scale {
			t.Errorf("dragged by 70 and -20, the drawing went from %v to %v", before, now)
		}
		if path := b.at(t); path != "/mesh" {
			t.Errorf("a drag leads to %s", path)
		}
		// The point that the pointer is at stays where it is.
		before = look()
		corner := js[struct{ X, Y float64 }](t, b, `(({x, y}) => ({X: x, Y: y}))(document.querySelector("#graph > svg").getBoundingClientRect())`)
		wheel := func(e *input.DispatchMouseEventParams) *input.DispatchMouseEventParams {
			return e.WithDeltaX(0).WithDeltaY(-100)
		}
		mouse(input.MouseWheel, at.X, at.Y, wheel, func(e *input.DispatchMouseEventParams) *input.DispatchMouseEventParams {
			return e.WithModifiers(input.ModifierCtrl)
		})
		b.waits(t, fmt.Sprintf(`!document.querySelector("#graph > svg > g").getAttribute("transform").includes("scale(%v)")`, before.Scale))
		now := look()
		x, y := at.X-corner.X, at.Y-corner.Y
		if now.Scale <= before.Scale || !near((x-before.X)/before.Scale, (x-now.X)/now.Scale) || !near((y-before.Y)/before.Scale, (y-now.Y)/now.Scale) {
			t.Errorf("zoomed by the wheel at %v, %v: from %v to %v", x, y, before, now)
		}
		b.do(t, chromedp.Focus("#graph > svg", chromedp.ByQuery))
		for _, key := range []struct {
			key  string
			want func(was, is view) bool
		}{
			{kb.ArrowLeft, func(was, is view) bool { return near(is.X, was.X+60) && is.Y == was.Y && is.Scale == was.Scale }},
			{kb.ArrowRight, func(was, is view) bool { return near(is.X, was.X-60) && is.Y == was.Y }},
			{kb.ArrowUp, func(was, is view) bool { return near(is.Y, was.Y+60) && is.X == was.X }},
			{kb.ArrowDown, func(was, is view) bool { return near(is.Y, was.Y-60) && is.X == was.X }},
			{"+", func(was, is view) bool { return near(is.Scale, 1.2*was.Scale) }},
			{"-", func(was, is view) bool { return near(is.Scale, was.Scale/1.2) }},
			{"0", func(was, is view) bool { return is.Scale < was.Scale && is.X >= 0 && is.Y >= 0 }},
		} {
			was := look()
			b.do(t, chromedp.KeyEvent(key.key))
			if is := look(); !key.want(was, is) {
				t.Errorf("%q took the drawing from %v to %v", key.key, was, is)
			}
		}

		// On a phone each domain is a line, until it is wanted.
		b.do(t, chromedp.EmulateViewport(390, 844))
		b.open(t, "/mesh")
		b.waits(t, `document.querySelectorAll("tbody.folded").length > 0 && document.querySelectorAll("tbody.folded").length === document.querySelectorAll("tbody[data-fold]").length`)
		if high := js[int](t, b, `document.documentElement.scrollHeight`); high > 5*844 {
			t.Errorf("the page is %d px high on a phone", high)
		}
		b.do(t, chromedp.Evaluate(`document.querySelector("tbody[data-fold] .group button").focus()`, nil), chromedp.KeyEvent("\r"))
		b.waits(t, `document.querySelectorAll("tbody.folded").length === document.querySelectorAll("tbody[data-fold]").length - 1 && document.querySelector("tbody[data-fold] .group button").ariaExpanded === "true"`)
		b.do(t, chromedp.Evaluate(`location.hash = "#table-iot_analytics.readings"`, nil))
		b.waits(t, `document.getElementById("table-iot_analytics.readings").checkVisibility()`)
		b.do(t, chromedp.EmulateViewport(1280, 900))
		b.waits(t, `!document.querySelector("tbody.folded, .group button")`)
	})

	t.Run("air that changes", func(t *testing.T) {
		measures := func(co2 int) {
			t.Helper()
			postMessage(t, addresses["ingest"], fmt.Sprintf(`{"device_id":%q,"time":%q,"metrics":{"co2":%d}}`, recordedDevice, time.Now().UTC().Format(time.RFC3339Nano), co2))
		}
		b.open(t, "/air?tenant=office")
		b.do(t, chromedp.Evaluate(`document.querySelector("#choose details").open = true; document.querySelector("#choose [name=low]").focus()`, nil), chromedp.KeyEvent("77"))
		measures(1234)
		b.sees(t, "1234")
		if js[string](t, b, `document.activeElement.name + document.activeElement.value`) != "low77" {
			t.Error("the page took what was being typed")
		}
		b.open(t, "/air?tenant=office&device="+recordedDevice)
		b.waits(t, `!!document.querySelector("#chart canvas") && document.querySelector("#live").textContent === "● live"`)
		b.do(t, chromedp.Focus("#chart", chromedp.ByQuery), chromedp.KeyEvent("+"))
		b.waits(t, `new URL(location.href).searchParams.has("zoom")`)
		zoomed := b.at(t)
		measures(4321)
		b.sees(t, "4321")
		if got := b.at(t); got != zoomed {
			t.Errorf("a reading changed what is seen from %s to %s", zoomed, got)
		}
		// Who comes back to the page sees how old it is, though nothing came.
		b.do(t, chromedp.Evaluate(`document.querySelector("[data-age]").textContent = "long ago"; document.dispatchEvent(new Event("visibilitychange"))`, nil))
		b.waits(t, `document.querySelector("[data-age]").textContent !== "long ago"`)
	})

	t.Run("a choice by keyboard", func(t *testing.T) {
		b.open(t, "/air?tenant=school&low=800&"+october)
		b.do(t, chromedp.Evaluate(`{
			document.querySelector("#choose details").open = true;
			const field = document.querySelector("#choose [name=metric]");
			field.focus();
			field.value = [...field.options].find((o) => !o.selected).value;
			field.dispatchEvent(new Event("change", {bubbles: true}));
		}`, nil))
		b.waits(t, `(new URL(location.href).searchParams.get("metric") ?? "co2") !== "co2"`)
		if !js[bool](t, b, `document.activeElement.name === "metric" && document.querySelector("#choose details").open && !new URL(location.href).searchParams.has("low")`) {
			t.Error("a choice takes the focus away, shuts what was open or keeps the thresholds of another metric")
		}
	})

	t.Run("a tenant", func(t *testing.T) {
		b.open(t, "/users")
		b.do(t, chromedp.SendKeys(`input[name=name]`, "tess", chromedp.ByQuery), chromedp.SetValue(`select[name=role]`, "tenant", chromedp.ByQuery),
			chromedp.SendKeys(`input[name=tenants]`, "school", chromedp.ByQuery), chromedp.Submit(`input[name=tenants]`, chromedp.ByQuery))
		b.sees(t, "Hand this link over")
		link := b.text(t, ".note code")
		b.open(t, "/account")
		b.logOut(t)
		b.setUp(t, link, "", password)
		b.open(t, "/air?"+october)
		b.sees(t, "N1.01")
		b.look(t, "air-tenant")
		for _, page := range []string{"/air?tenant=office&" + october, "/users", "/live", "/mesh", "/operations"} {
			b.open(t, page)
			b.sees(t, "not")
			if text := b.text(t, "body"); !strings.Contains(text, "Forbidden") || strings.Contains(text, "S2.02") || strings.Contains(text, "Office, Ltd") {
				t.Errorf("%s shows a tenant %q", page, text)
			}
		}
		b.look(t, "forbidden")
	})
}

// Who starts the demo sees at once what an action did: the fleet has days enough
// behind it that the action is compared with.
func TestDemoTellsWhatAnActionDid(t *testing.T) {
	if testing.Short() {
		t.Skip("four weeks of a fleet go through the mesh")
	}
	data := filepath.Join(t.TempDir(), "data")
	addresses := started(t, command(t.Context(), t, up(data, "--simulate", "--demo")...))
	b := newBrowser(t, addresses["portal"])
	for began := time.Now(); ; {
		if rows(t, data, "SELECT max(observed_at) > now() - INTERVAL 1 HOUR FROM iot_analytics.readings")[0] == "true" {
			break
		}
		if time.Since(began) > 5*time.Minute {
			t.Fatal("the weeks before now do not come to their end")
		}
		time.Sleep(time.Second) // the fleet needs the processors
	}
	b.open(t, "/login")
	b.do(t, chromedp.Evaluate(`[...document.querySelectorAll("button[name=user]")].find((e) => e.innerText.includes("mill-clinic")).click()`, nil), chromedp.WaitVisible(".me"))
	b.open(t, "/air?range=30d")
	// What follows an action takes two hours.
	action := js[string](t, b, `fetch(document.getElementById("air").dataset.rooms).then((r) => r.json()).then((a) => a.actions.filter((x) => x.at < Date.now() - 3 * 3600e3).at(-1).link)`)
	b.open(t, action)
	told := js[[]string](t, b, `[...document.querySelectorAll("#effect tbody tr")].map((row) => row.innerText)`)
	if len(told) != 6 {
		t.Errorf("the page tells of an action %q, want the mean and the slope over 30, 60 and 120 minutes", told)
	}
	for _, row := range told {
		if !strings.Contains(row, "comparable days") && !strings.Contains(row, "may be chance") || strings.Contains(row, "too few") {
			t.Errorf("the page tells of an action %q, want an interval", row)
		}
	}
	b.waits(t, `!!document.querySelector("#chart canvas")`)
	b.look(t, "air-demo")
}

// harmless sees that no name became a part of the page.
func (b *browser) harmless(t *testing.T, page string) {
	t.Helper()
	if js[bool](t, b, `document.title === "harmed" || !!document.querySelector("img[src=x]")`) {
		t.Errorf("%s: a name became an element", page)
	}
}
