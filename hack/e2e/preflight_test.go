package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// air is a namespace of this test's own, and the mesh in it.
const air = "preflight-air"

// TestPreflight reads the cluster with telemesh preflight, as a user would: the mesh
// that is there, one that is not applied yet, one that was applied with mistakes,
// and with the rights of nobody.
func TestPreflight(t *testing.T) {
	needCluster(t)
	telemesh := os.Getenv("E2E_TELEMESH")
	if telemesh == "" {
		t.Skip("no telemesh: hack/e2e.sh sets E2E_TELEMESH")
	}
	onCluster(t)
	run := func(t *testing.T, args ...string) (findings, int) {
		t.Helper()
		cmd := exec.Command(telemesh, append([]string{"preflight", "--format", "json"}, args...)...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		var all findings
		if err := json.Unmarshal(out, &all); err != nil {
			t.Fatalf("telemesh preflight %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
		}
		return all, cmd.ProcessState.ExitCode()
	}

	t.Run("the mesh", func(t *testing.T) {
		all, code := run(t)
		for _, f := range all {
			if f.Level == "missing" || f.Level == "failing" {
				t.Errorf("of a mesh that works: %s", f)
			}
		}
		if code != 0 {
			t.Errorf("exit status %d, want 0", code)
		}
		for _, want := range []string{"ok knative-serving", "ok knative-eventing", "ok ingress", "ok applied", "ok dead-letters", "unsafe brokers", "ok senders", "ok warehouse"} {
			all.want(t, want)
		}
	})

	// The flags are the whole cluster's: what they are has to be said.
	t.Run("flags", func(t *testing.T) {
		all, _ := run(t)
		flag := func(name string) string {
			return kubectl(t, "", "get", "configmap", "-n", "knative-eventing", "config-features", "-o", "jsonpath={.data."+name+"}")
		}
		if !strings.EqualFold(flag("authentication-oidc"), "enabled") {
			all.want(t, "unsafe authentication authentication-oidc is disabled")
			if _, code := run(t, "--strict"); code != 1 {
				t.Errorf("exit status with --strict is %d where anybody may send, want 1", code)
			}
		}
		if tls := flag("transport-encryption"); tls == "" || strings.EqualFold(tls, "disabled") {
			all.want(t, "unsafe encryption transport-encryption is disabled")
		}
	})

	image := kubectl(t, "", "get", "ksvc", "-n", "iot", "telemetry-flatten", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"brokers/air.yaml":  manifestOf("eventing.knative.dev/v1", "Broker", "air", "{}"),
		"triggers/air.yaml": manifestOf("eventing.knative.dev/v1", "Trigger", "flatten", `{broker: air, subscriber: {uri: "http://flatten.`+air+`.svc.cluster.local"}}`),
		"config/air.yaml": manifestOf("serving.knative.dev/v1", "Service", "flatten", fmt.Sprintf(`{template: {spec: {containers: [{image: %q,
			env: [{name: SECRET, valueFrom: {secretKeyRef: {name: needed, key: secret}}}]}]}}}`, image)),
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all, code := run(t, "--manifests", dir)
	all.want(t, "missing applied Telemesh is not applied: none of its 3 objects is there")
	all.want(t, "missing settings Secret preflight-air/needed: not there: Service preflight-air/flatten cannot start")
	all.want(t, "unsafe dead-letters Trigger preflight-air/flatten")
	if code != 1 {
		t.Errorf("exit status %d before all is applied, want 1", code)
	}

	kubectl(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": %q, "labels": {%q: "e2e"}}}`, air, mine), "create", "-f", "-")
	t.Cleanup(func() { kubectl(t, "", "delete", "namespace", air, "--wait=false") })
	kubectl(t, "", "apply", "-Rf", dir)
	until(t, time.Minute, "the mistakes", func() string {
		all, code = run(t, "--manifests", dir)
		for _, want := range []string{
			"unsafe dead-letters Trigger preflight-air/flatten: no dead letter sink",
			"missing settings Secret preflight-air/needed: not there",
			"failing applied Service preflight-air/flatten: ",
			"unsafe brokers Broker preflight-air/air: of class MTChannelBasedBroker on InMemoryChannel",
			"unsafe network namespace preflight-air: no NetworkPolicy is for all pods",
		} {
			if !all.has(want) {
				return fmt.Sprintf("no finding %q in\n%s", want, all)
			}
		}
		return ""
	})
	if code != 1 {
		t.Errorf("exit status %d with a Secret missing, want 1", code)
	}

	kubectl(t, "", "create", "secret", "generic", "needed", "-n", air, "--from-literal=secret=x")
	kubectl(t, "", "patch", "trigger", "flatten", "-n", air, "--type", "merge", "-p", `{"spec": {"delivery": {"deadLetterSink": {"uri": "http://dead.example"}}}}`)
	until(t, 3*time.Minute, "the mistakes put right", func() string {
		if all, code = run(t, "--manifests", dir); code != 0 || !all.has("ok dead-letters") || !all.has("ok applied all is applied and ready: 1 Broker, 1 Service, 1 Trigger") {
			return all.String()
		}
		return ""
	})

	// The rights of nobody: what is hidden is not missing.
	t.Run("nobody", func(t *testing.T) {
		kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
		if err := os.WriteFile(kubeconfig, impersonating(t, "system:serviceaccount:"+air+":default"), 0o600); err != nil {
			t.Fatal(err)
		}
		all, code := run(t, "--manifests", dir, "--kubeconfig", kubeconfig)
		for _, f := range all {
			if f.Level != "ok" && f.Level != "unknown" {
				t.Errorf("to a user who sees nothing: %s", f)
			}
		}
		all.want(t, "unknown reading you may not list brokers.eventing.knative.dev, ")
		all.want(t, "unknown reading you may not get secrets (preflight-air/needed)")
		if code != 0 {
			t.Errorf("exit status %d, want 0", code)
		}
		if _, code := run(t, "--manifests", dir, "--kubeconfig", kubeconfig, "--strict"); code != 1 {
			t.Errorf("exit status with --strict is %d where nothing was shown, want 1", code)
		}
	})
}

func manifestOf(apiVersion, kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec: %s\n", apiVersion, kind, name, air, spec)
}

// impersonating is the kubeconfig of a user who stands for another one.
func impersonating(t *testing.T, user string) []byte {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal([]byte(kubectl(t, "", "config", "view", "--raw", "--flatten", "--minify", "-o", "json")), &config); err != nil {
		t.Fatal(err)
	}
	users, _ := config["users"].([]any)
	if len(users) != 1 {
		t.Fatalf("kubeconfig has %d users, want 1", len(users))
	}
	first, _ := users[0].(map[string]any)
	credentials, _ := first["user"].(map[string]any)
	credentials["as"] = user
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// finding is a line of telemesh preflight --format json.
type finding struct {
	Level, Check, Says string
	Objects            []string
}

// String is level, check, objects and text.
func (f finding) String() string {
	text := f.Level + " " + f.Check + " "
	if len(f.Objects) > 0 {
		text += strings.Join(f.Objects, ", ") + ": "
	}
	return text + f.Says
}

type findings []finding

// has says whether a finding begins so.
func (all findings) has(begin string) bool {
	return slices.ContainsFunc(all, func(f finding) bool { return strings.HasPrefix(f.String(), begin) })
}

func (all findings) want(t *testing.T, begin string) {
	t.Helper()
	if !all.has(begin) {
		t.Errorf("no finding %q in\n%s", begin, all)
	}
}

func (all findings) String() string {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}
