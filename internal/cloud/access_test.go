package cloud

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/dataset"
)

func TestSampleOfAccess(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(dataset.Root(t), "docs", "sample", "access.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseAccess("access.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	want := &Access{
		Platform: []string{"ops@example.org", "group:data-platform@example.org"},
		Tenants: map[string][]string{
			"linden-school":   {"anna@linden.example", "domain:linden.example"},
			"harbour-offices": {"facilities@harbour.example"},
		}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseAccess (-want +got):\n%s", diff)
	}
}

// SESSION_USER() is in lower case.
func TestMembersAreLowerCase(t *testing.T) {
	got, err := ParseAccess("f", []byte("tenants: {A: [Anna@Example.ORG]}"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]string{"A": {"anna@example.org"}}, got.Tenants); diff != "" {
		t.Errorf("tenants (-want +got):\n%s", diff)
	}
}

func TestAccessErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "f: empty; to give access to nobody, write `tenants: {}`",
		"- a":                                    "f:1: field (the whole): want a mapping",
		"tenant: {}":                             "f:1: field tenant: unknown; there are platform and tenants",
		"platform: []\nplatform: []":             "f:2: field platform: stands there twice",
		"platform: a@b.c":                        "f:1: field platform: want a list of members",
		"tenants: [a]":                           "f:1: field tenants: want a mapping",
		"tenants:\n  a:\n  - anna":               `f:3: field tenants.a: "anna": want an e-mail address, domain:DOMAIN or group:ADDRESS`,
		"tenants:\n  a:\n  - [x]":                "f:3: field tenants.a: want an e-mail address, domain:DOMAIN or group:ADDRESS",
		"tenants:\n  a:\n  - domain:x@y.z":       `f:3: field tenants.a: "domain:x@y.z": want an e-mail address, domain:DOMAIN or group:ADDRESS`,
		"tenants:\n  a:\n  - group:y.z":          `f:3: field tenants.a: "group:y.z": want an e-mail address, domain:DOMAIN or group:ADDRESS`,
		"tenants:\n  a: [a@b.c,\n    A@b.c]":     `f:3: field tenants.a: "A@b.c" stands there twice`,
		"tenants:\n  '*': [a@b.c]":               `f:2: field tenants: "*" is no tenant; who sees every row stands under platform`,
		"tenants:\n  1: [a@b.c]":                 `f:2: field tenants: the key "1" is no string; put it in quotes`,
		"platform: []\n---\nplatform: [a@b.c]\n": "f: more than one document",
	} {
		if _, err := ParseAccess("f", []byte(text)); err == nil || err.Error() != want {
			t.Errorf("ParseAccess(%q) = %v, want %s", text, err, want)
		}
	}
	if _, err := ParseAccess("f", []byte("platform: [")); err == nil {
		t.Error("ParseAccess takes what is no YAML")
	}
}
