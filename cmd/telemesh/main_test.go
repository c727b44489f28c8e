package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/telemesh/telemesh/cmd/microbit-gateway/gateway"
	"github.com/telemesh/telemesh/functions"
	pubsub "github.com/telemesh/telemesh/functions/pubsub-source/source"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/function"
)

// asMain makes the test binary the command, asPuller the Pub/Sub source, asGateway the
// gateway of micro:bits.
const (
	asMain    = "TELEMESH_TEST_AS_MAIN"
	asPuller  = "TELEMESH_TEST_AS_PULLER"
	asGateway = "TELEMESH_TEST_AS_GATEWAY"
)

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		os.Exit(run())
	}
	if os.Getenv(asPuller) != "" {
		function.Main("pubsub-source", pubsub.Start)
		os.Exit(0)
	}
	if os.Getenv(asGateway) != "" {
		os.Exit(gateway.Main(clockOfTest()))
	}
	testscript.Main(m, map[string]func(){
		"telemesh": func() { os.Exit(run()) },
		"telemesh-moody": func() {
			functions.Table["moody"] = moody
			os.Exit(run())
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(env *testscript.Env) error {
		// Addresses that are free, for what a script starts and then speaks with.
		for _, name := range []string{"PORTAL", "BROKERS"} {
			free, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Setenv(name, free.Addr().String())
			if err := free.Close(); err != nil {
				return err
			}
		}
		if dir, ok := dataset.Find(t, "transactions"); ok {
			env.Setenv("TRANSACTIONS", dir)
		}
		return nil
	}, Condition: func(cond string) (bool, error) {
		if name, ok := strings.CutPrefix(cond, "data:"); ok { // as [data:transactions]
			_, there := dataset.Find(t, name)
			return there, nil
		}
		return false, fmt.Errorf("there is no condition %q", cond)
	}})
}

func executable(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// command is telemesh as a process of its own.
func command(ctx context.Context, t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, executable(t), args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	return cmd
}

// telemesh runs the command to its end, which has to be a good one, and gives
// what it prints.
func telemesh(t testing.TB, args ...string) string {
	t.Helper()
	cmd := command(t.Context(), t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("telemesh %s: %v\n%s%s", strings.Join(args, " "), err, &out, &errs)
	}
	return out.String()
}

// rows runs a query on a data folder and gives its lines, without the header.
func rows(t testing.TB, data, sql string) []string {
	t.Helper()
	out := strings.TrimSuffix(telemesh(t, "query", "--data", data, "--format", "csv", sql), "\n")
	_, lines, ok := strings.Cut(out, "\n")
	if !ok {
		return nil
	}
	return strings.Split(lines, "\n")
}

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
