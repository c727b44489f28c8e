package gateway

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/telemesh/telemesh/internal/microbit/bluetest"
)

// parsed gives the configuration that a command makes of its flags and the
// environment, or its error.
func parsed(t *testing.T, args ...string) (cfg config, err error) {
	t.Helper()
	cfg = config{}
	cmd := &cobra.Command{Use: "run", SilenceUsage: true, SilenceErrors: true, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := fromEnvironment(cmd.Flags()); err != nil {
			return err
		}
		return cfg.complete(cmd)
	}}
	cfg.sendFlags(cmd)
	cmd.SetArgs(args)
	return cfg, cmd.Execute()
}

func TestFlagsAndEnvironment(t *testing.T) {
	t.Setenv("TELEMESH_MICROBIT_DEVICE", "zuvig = desk-1, C8:2e:11:22:33:44=desk-2,gupot")
	t.Setenv("TELEMESH_MICROBIT_MAX_BYTES", "1000000")
	t.Setenv("TELEMESH_MICROBIT_BATCH", "20")
	t.Setenv("TELEMESH_MICROBIT_TOKEN_FILE", "") // as systemd has what is not set
	cfg, err := parsed(t, "--batch", "30", "--name", "pi")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"zuvig", "C8:2e:11:22:33:44", "gupot"}, cfg.ble.Devices); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	// An address comes back in capitals.
	for called, want := range map[string]string{"zuvig": "desk-1", "C8:2E:11:22:33:44": "desk-2", "gupot": "gupot", "other": "other"} {
		if got := cfg.deviceID(called); got != want {
			t.Errorf("deviceID(%s) = %s, want %s", called, got, want)
		}
	}
	if cfg.batch != 30 || cfg.maxBytes != 1_000_000 || cfg.tokenFile != "" || cfg.source() != "/microbit-gateway/pi" {
		t.Errorf("batch %d, max-bytes %d, token-file %q, source %s; want 30 of the flag, 1000000 of the environment, none and that of pi", cfg.batch, cfg.maxBytes, cfg.tokenFile, cfg.source())
	}
}

func TestFlagsRefuse(t *testing.T) {
	for want, args := range map[string][]string{
		"--batch is 0":           {"--batch", "0"},
		"--linger is -1s":        {"--linger", "-1s"},
		"there is no folder":     {"--spool", ""},
		"are both desk-1":        {"--device", "zuvig=desk-1", "--device", "gupot=desk-1"},
		`invalid argument "many`: {"--batch", "many"},
	} {
		if _, err := parsed(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v = %v, want an error that says %q", args, err, want)
		}
	}
	t.Setenv("TELEMESH_MICROBIT_LINGER", "soon")
	if _, err := parsed(t); err == nil || !strings.Contains(err.Error(), "TELEMESH_MICROBIT_LINGER: ") {
		t.Errorf("a wrong variable = %v, want an error with its name", err)
	}
}

// Without a home there is no folder for a replay, either.
func TestReplayWithoutHome(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("HOME", "")
	t.Setenv("XDG_STATE_HOME", "")
	cmd := root(SystemClock)
	cmd.SetArgs([]string{"replay", write(t, "")})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "there is no folder") {
		t.Errorf("replay = %v, want an error that there is no folder", err)
	}
}

// A micro:bit shows six digits, of which the first ones may be 0.
func TestPairAsksForDigits(t *testing.T) {
	for typed, want := range map[string]bool{"012345\n": true, " 012345 \r\n": true, "12345": true, "012346\n": false, "none\n": false, "": false} {
		z := bluetest.Start(t)
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", z.Address)
		z.Add(bluetest.MicroBit{Address: "C8:2E:11:22:33:44", Passkey: 12345})
		cmd := root(SystemClock)
		cmd.SetArgs([]string{"pair", "C8:2E:11:22:33:44"})
		cmd.SetIn(strings.NewReader(typed))
		cmd.SetOut(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); (err == nil) != want {
			t.Errorf("pair with %q typed = %v, want it paired: %v", typed, err, want)
		}
	}
}

// Addresses and tokens that cannot be are errors before anything is read.
func TestOpenRefuses(t *testing.T) {
	empty := write(t, "\n")
	for want, change := range map[string]func(*config){
		`ingest "localhost:8082"`:    func(c *config) { c.ingest = "localhost:8082" },
		`ingest "ftp://host/"`:       func(c *config) { c.ingest = "ftp://host/" },
		"a token belongs in a file":  func(c *config) { c.ingest = "http://user:secret@host/" },
		"does not hold one token":    func(c *config) { c.tokenFile = empty },
		"no such file or directory":  func(c *config) { c.tokenFile = empty + ".not" },
		`keep "all" is neither`:      func(c *config) { c.keep = "all" },
		"1000 bytes are too few: wa": func(c *config) { c.maxBytes = 1000 },
	} {
		cfg := configOf(t, "http://127.0.0.1:1/")
		change(&cfg)
		_, err := open(cfg, SystemClock, new(logs).logger())
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("open = %v, want an error that says %q, and no secret", err, want)
		}
	}
}

// Who has the token is told when others read it on the way.
func TestATokenInPlainTextIsToldOf(t *testing.T) {
	token := write(t, "secret\n")
	for address, want := range map[string]bool{
		"http://ingest.example.org/": true, "http://10.0.0.7:8082/": true,
		"https://ingest.example.org/": false, "http://127.0.0.1:8082/": false, "http://localhost:8082/": false, "http://[::1]:8082/": false,
	} {
		var log logs
		if _, err := newSender(address, token, log.logger()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "plain http"); got != want {
			t.Errorf("%s: told is %v, want %v", address, got, want)
		}
	}
}

// The page names flags that there are.
func TestDocumentedFlags(t *testing.T) {
	page, err := os.ReadFile("../../../docs/microbit.md")
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile("--([a-z][a-z-]+)").FindAllSubmatch(page, -1)
	if len(flags) < 8 {
		t.Errorf("docs/microbit.md names %d flags", len(flags))
	}
	known := map[string]bool{"now": true} // of systemctl
	for _, cmd := range root(SystemClock).Commands() {
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	}
	for _, f := range flags {
		if !known[string(f[1])] {
			t.Errorf("docs/microbit.md names --%s, and there is no such flag", f[1])
		}
	}
}

// The unit is one that systemd takes, locks the program up, and sets variables
// that there are.
func TestSystemdUnit(t *testing.T) {
	unit, err := os.ReadFile("../telemesh-microbit.service")
	if err != nil {
		t.Fatal(err)
	}
	run, _, err := root(SystemClock).Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	variables := regexp.MustCompile(`TELEMESH_MICROBIT_([A-Z_]+)`).FindAllSubmatch(unit, -1)
	if len(variables) < 3 {
		t.Errorf("the unit names %d variables, want those of ingest, token and spool", len(variables))
	}
	for _, v := range variables {
		if name := strings.ReplaceAll(strings.ToLower(string(v[1])), "_", "-"); run.Flags().Lookup(name) == nil {
			t.Errorf("the unit sets %s, and there is no flag --%s", v[0], name)
		}
	}

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "telemesh-microbit.service")
	if err := os.WriteFile(file, bytes.ReplaceAll(unit, []byte("/usr/local/bin/telemesh-microbit"), []byte(self)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", "--man=no", file}, {"security", "--offline=true", "--threshold=25", "--no-pager", file}} {
		if out, err := exec.Command(analyze, args...).CombinedOutput(); err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}
