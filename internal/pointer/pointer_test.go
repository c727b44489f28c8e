package pointer_test

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/pointer"
)

func TestFind(t *testing.T) {
	const document = `{"op":"utx","a/b":{"m~n":[10,{"k":"\u00fc"}]},"x":{"hash":"h"},"":0}`
	want := map[string]string{"/op": `"utx"`, "/a~1b/m~0n/0": "10", "/a~1b/m~0n/1/k": `"\u00fc"`, "/x": `{"hash":"h"}`, "/x/hash": `"h"`,
		"/": "0", "/x/none": "", "/op/0": "", "/a~1b/m~0n/2": ""}
	var places pointer.Places
	var names []string
	for p := range want {
		if !pointer.Valid(p) {
			t.Errorf("Valid(%q) = false", p)
		}
		places.Add(p, len(names))
		names = append(names, p)
	}
	values := make([]jsontext.Value, len(names))
	if err := places.Find(jsontext.Value(document), values, nil); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for i, name := range names {
		got[name] = string(values[i])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	for _, p := range []string{"", "x", "/a~", "/~2"} {
		if pointer.Valid(p) {
			t.Errorf("Valid(%q) = true", p)
		}
	}
	if got := pointer.Text(jsontext.Value(`"\u00fc"`)) + pointer.Text(jsontext.Value(`1.0`)); got != "ü1.0" {
		t.Errorf("Text gives %s", got)
	}
}

func TestInstant(t *testing.T) {
	for _, test := range []struct {
		text, unit string
		want       mesh.Instant
		ok         bool
	}{
		{"1767225600", "s", 1767225600e6, true}, {"1767225600.000001", "s", 1767225600000001, true}, {"-1", "ms", -1000, true},
		{"1767225600000001", "us", 1767225600000001, true}, {"1767225600000001999", "ns", 1767225600000001, true},
		{"1767225600000", "s", 0, false}, {"1e400", "ms", 0, false}, {`"1"`, "s", 0, false},
	} {
		if got, ok := pointer.Instant(test.text, test.unit); got != test.want || ok != test.ok {
			t.Errorf("Instant(%s, %s) = %d, %v, want %d, %v", test.text, test.unit, got, ok, test.want, test.ok)
		}
	}
}
