package main

import (
	"database/sql"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
)

var linkPrinted = regexp.MustCompile(`http://\S+/setup/\S+`)

// While the portal runs, users are made and disabled beside it, and it knows at
// once; the audit log has both.
func TestUsersWhileUp(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	cmd := command(t.Context(), t, up(data)...)
	at := started(t, cmd)
	defer func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("telemesh up: %v", err)
		}
	}()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	read := func(resp *http.Response, err error) (int, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	link := linkPrinted.FindString(telemesh(t, "users", "add", "--role", "admin", "ann", "--data", data, "--portal", strings.TrimSuffix(at["portal"], "/")))
	_, page := read(client.Get(link))
	m := regexp.MustCompile(`type the secret: <code>([A-Z2-7 ]+)</code>`).FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("no secret at %s:\n%s", link, page)
	}
	code, err := totp.GenerateCode(strings.ReplaceAll(m[1], " ", ""), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"new": {"correct horse battery"}, "again": {"correct horse battery"}, "code": {code}}
	if status, page := read(client.PostForm(link, form)); status != http.StatusOK || !strings.Contains(page, "Recovery codes") {
		t.Fatalf("set up: %d\n%s", status, page)
	}
	if _, page := read(client.Get(at["portal"] + "users")); !strings.Contains(page, "Add a user") {
		t.Errorf("ann does not see the users:\n%s", page)
	}
	telemesh(t, "users", "add", "--role", "analyst", "bob", "--data", data)
	if _, page := read(client.Get(at["portal"] + "users")); !strings.Contains(page, "bob") {
		t.Error("the portal does not know bob")
	}
	// Of two admins one can be disabled.
	other := linkPrinted.FindString(telemesh(t, "users", "add", "--role", "admin", "carl", "--data", data))
	if cmd := command(t.Context(), t, "users", "disable", "ann", "--data", data); cmd.Run() == nil {
		t.Error("the only admin who can log in was disabled")
	}
	other = strings.TrimSuffix(at["portal"], "/") + other[strings.Index(other, "/setup/"):]
	_, page = read(http.Get(other))
	m = regexp.MustCompile(`type the secret: <code>([A-Z2-7 ]+)</code>`).FindStringSubmatch(page)
	if code, err = totp.GenerateCode(strings.ReplaceAll(m[1], " ", ""), time.Now()); err != nil {
		t.Fatal(err)
	}
	form.Set("code", code)
	if status, page := read(http.PostForm(other, form)); status != http.StatusOK {
		t.Fatalf("set up: %d\n%s", status, page)
	}
	telemesh(t, "users", "disable", "ann", "--data", data)
	if _, page := read(client.Get(at["portal"] + "users")); !strings.Contains(page, "Log in") || strings.Contains(page, "bob") {
		t.Errorf("ann, who is disabled, sees\n%s", page)
	}
	if out := telemesh(t, "audit", "verify", "--data", data); !strings.Contains(out, "ok: 8 entries") {
		t.Errorf("audit verify: %s", out)
	}
}

func TestAuditVerifyFindsTampering(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	telemesh(t, "replay", "--data", data, write(t, filepath.Join(t.TempDir(), "m.ndjson"), `{"device_id":"a","time":"2026-03-01T10:00:00Z","metrics":{"co2":812}}`))
	for _, name := range []string{"ann", "bob"} {
		telemesh(t, "users", "add", "--role", "admin", name, "--data", data)
	}
	telemesh(t, "audit", "verify", "--data", data)
	db, err := sql.Open("sqlite", filepath.Join(data, "portal.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("UPDATE audit SET who = 'nobody' WHERE seq = 1"); err == nil || !strings.Contains(err.Error(), "append-only") {
		t.Errorf("the database lets entries be changed: %v", err)
	}
	if _, err := db.Exec("DROP TRIGGER audit_update; UPDATE audit SET who = 'nobody' WHERE seq = 1"); err != nil {
		t.Fatal(err)
	}
	out, err := command(t.Context(), t, "audit", "verify", "--data", data).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "entry 1 is not what was written") || !strings.Contains(string(out), "hint: ") {
		t.Errorf("audit verify of a log that was changed: %v\n%s", err, out)
	}
}

func TestUpWarnsOfPlainHTTP(t *testing.T) {
	for address, want := range map[string]bool{"0.0.0.0:0": true, "127.0.0.1:0": false} {
		at := started(t, command(t.Context(), t, append(up(filepath.Join(t.TempDir(), "data")), "--portal", address)...))
		if _, warned := at["warning"]; warned != want {
			t.Errorf("up --portal %s: warned %v, want %v", address, warned, want)
		}
	}
}
