package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image/png"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
	"github.com/pquerna/otp/totp"
)

// browser is a tab of a headless Chromium that looks at a portal.
type browser struct {
	ctx    context.Context
	portal string // http://HOST
}

// newBrowser starts Chromium. Where there is none the test is skipped: hack/test.sh
// installs it.
func newBrowser(t *testing.T, portal string) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("no Chromium on this machine")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.Flag("lang", "en"))
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	// What runs first starts Chromium, which ends with the context of that.
	if err := chromedp.Run(ctx, chromedp.EmulateViewport(1280, 900)); err != nil {
		t.Fatal(err)
	}
	return &browser{ctx, strings.TrimSuffix(portal, "/")}
}

// pageWithin is how long a page may take on a machine that is busy with others.
const pageWithin = 30 * time.Second

func (b *browser) do(t *testing.T, actions ...chromedp.Action) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, pageWithin)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		var html string
		_ = chromedp.Run(b.ctx, chromedp.OuterHTML("body", &html))
		t.Fatalf("%v, at %s\n%s", err, b.at(t), html[:min(len(html), 4000)])
	}
}

// open goes to a path of the portal.
func (b *browser) open(t *testing.T, path string) {
	t.Helper()
	b.do(t, chromedp.Navigate(b.portal+path), chromedp.WaitVisible("main"))
}

// at is the path and query that the tab shows.
func (b *browser) at(t *testing.T) string {
	t.Helper()
	var location string
	if err := chromedp.Run(b.ctx, chromedp.Location(&location)); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(location, b.portal)
}

// text is what a person reads in an element.
func (b *browser) text(t *testing.T, selector string) string {
	t.Helper()
	var text string
	b.do(t, chromedp.Text(selector, &text, chromedp.ByQuery))
	return text
}

// js gives the value of an expression; a Promise is waited for.
func js[V any](t *testing.T, b *browser, expression string) V {
	t.Helper()
	var value V
	b.do(t, chromedp.Evaluate(expression, &value, awaited))
	return value
}

// sees waits for text on the page, or on the one that comes.
func (b *browser) sees(t *testing.T, text string) {
	t.Helper()
	wanted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	b.waits(t, fmt.Sprintf("document.body.innerText.includes(%s)", wanted))
}

// waits waits until an expression is true.
func (b *browser) waits(t *testing.T, expression string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, pageWithin)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var holds bool
		// It fails while the tab goes from one page to the next.
		if err := chromedp.Run(ctx, chromedp.Evaluate(expression, &holds)); err == nil && holds {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s is not so, at %s\n%s", expression, b.at(t), b.text(t, "body"))
		}
	}
}

// secretOf reads the QR code that a page shows, as an app for codes does.
func (b *browser) secretOf(t *testing.T) string {
	t.Helper()
	_, shown, _ := strings.Cut(js[string](t, b, `document.querySelector("img.qr").src`), ",")
	raw, err := base64.StdEncoding.DecodeString(shown)
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(picture)
	if err != nil {
		t.Fatal(err)
	}
	// Told that it is nothing but a code: it misses three of a thousand else.
	read, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_PURE_BARCODE: true})
	if err != nil {
		t.Fatalf("read the QR code: %v", err)
	}
	key, err := url.Parse(read.GetText())
	if err != nil || key.Scheme != "otpauth" || key.Query().Get("secret") == "" {
		t.Fatalf("the QR code says %q, %v", read.GetText(), err)
	}
	return key.Query().Get("secret")
}

// setUp takes the link that makes a user, and gives the secret of their codes.
func (b *browser) setUp(t *testing.T, link, name, password string) (secret string) {
	t.Helper()
	b.open(t, strings.TrimPrefix(link, b.portal))
	secret = b.secretOf(t)
	code, err := totp.GenerateCode(secret, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if name != "" {
		b.do(t, chromedp.SendKeys(`input[name=name]`, name))
	}
	b.do(t,
		chromedp.SendKeys(`input[name=new]`, password),
		chromedp.SendKeys(`input[name=again]`, password),
		chromedp.SendKeys(`input[name=code]`, code),
		chromedp.Submit(`input[name=code]`),
	)
	b.sees(t, "ecovery codes")
	return secret
}

// logIn logs in with the code of the next half minute: that of this one was
// taken by whoever set the user up.
func (b *browser) logIn(t *testing.T, name, password, secret string) {
	t.Helper()
	b.do(t, chromedp.WaitVisible(`input[name=password]`),
		chromedp.SendKeys(`input[name=name]`, name), chromedp.SendKeys(`input[name=password]`, password), chromedp.Submit(`input[name=password]`),
		chromedp.WaitVisible(`input[name=code]`))
	code, err := totp.GenerateCode(secret, time.Now().Add(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	b.do(t, chromedp.SendKeys(`input[name=code]`, code), chromedp.Submit(`input[name=code]`), chromedp.WaitVisible(`.me`))
}

func (b *browser) logOut(t *testing.T) {
	t.Helper()
	b.do(t, chromedp.Click(`form[action="/logout"] button`), chromedp.WaitVisible(`input[name=password]`))
}

// screenshots of what the tests see are for people to look at.
const screenshots = "../../.cache/screenshots"

// look takes pictures of a page: as wide as a desk's and as a phone's, light and
// dark. No page is wider than its screen.
func (b *browser) look(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(screenshots, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, screen := range []struct {
		name          string
		width, height int64
	}{{"desk", 1280, 900}, {"phone", 390, 844}} {
		for _, scheme := range []string{"light", "dark"} {
			var picture []byte
			b.do(t, chromedp.EmulateViewport(screen.width, screen.height),
				emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
				chromedp.Evaluate(`new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`, nil, awaited),
				chromedp.FullScreenshot(&picture, 100))
			if wide := js[int64](t, b, "document.documentElement.scrollWidth"); wide > screen.width {
				t.Errorf("%s is %d px wide on a screen of %d", name, wide, screen.width)
			}
			if err := os.WriteFile(filepath.Join(screenshots, fmt.Sprintf("%s-%s-%s.png", name, screen.name, scheme)), picture, 0o666); err != nil {
				t.Fatal(err)
			}
			b.accessible(t, name+", "+scheme)
		}
	}
	b.do(t, chromedp.EmulateViewport(1280, 900), emulation.SetEmulatedMedia())
}

// accessible has axe look for what keeps people out.
func (b *browser) accessible(t *testing.T, name string) {
	t.Helper()
	axe, err := os.ReadFile("../../internal/portal/web/node_modules/axe-core/axe.min.js")
	if err != nil {
		// Where everything is built it is no reason to look away.
		if os.Getenv("CI") != "" {
			t.Fatalf("hack/portal.sh has to run before: %v", err)
		}
		t.Skip("hack/portal.sh has not been run: axe is not here")
	}
	b.do(t, chromedp.Evaluate(string(axe), nil))
	type violation struct {
		ID, Impact, Help string
		Nodes            []struct {
			HTML           string
			FailureSummary string
		}
	}
	for _, v := range js[[]violation](t, b, `axe.run().then((r) => r.violations)`) {
		if v.Impact == "serious" || v.Impact == "critical" {
			t.Errorf("%s: %s: %s: %s: %+v", name, v.Impact, v.ID, v.Help, v.Nodes)
		}
	}
}

// reachable tabs through a page, as who has no mouse does: each control is come
// to, and shows that it is.
func (b *browser) reachable(t *testing.T, name string) {
	t.Helper()
	const controls = `[...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']")]
		.filter((e) => !e.disabled && e.tabIndex >= 0 && e.checkVisibility({visibilityProperty: true}) && !e.closest("details:not([open]) > :not(summary)"))`
	b.do(t, chromedp.Evaluate(`document.activeElement.blur(); window.reached = new Set(); window.unseen = [];
		document.addEventListener("focusin", (e) => {
			window.reached.add(e.target);
			const s = getComputedStyle(e.target);
			const drawn = e.target.querySelector("svg a > rect, svg a > path, svg g.node > rect");
			if (drawn && parseFloat(getComputedStyle(drawn).strokeWidth) > 2) return;
			if (e.target.matches(":focus-visible") && s.outlineStyle === "none" && s.boxShadow === "none") window.unseen.push(e.target.outerHTML.slice(0, 120));
		}, true)`, nil))
	n := js[int](t, b, controls+".length")
	for range 3*n + 20 { // a field for an instant has several stops
		b.do(t, chromedp.KeyEvent("\t"))
	}
	// Of a group of radio buttons one is come to.
	missed := js[[]string](t, b, controls+`.filter((e) => !window.reached.has(e) && e.type !== "radio").map((e) => e.outerHTML.slice(0, 160))`)
	if len(missed) > 0 {
		t.Errorf("%s: no Tab leads to %q", name, missed)
	}
	if unseen := js[[]string](t, b, "window.unseen"); len(unseen) > 0 {
		t.Errorf("%s: nothing shows that the focus is on %q", name, unseen)
	}
}

func awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
