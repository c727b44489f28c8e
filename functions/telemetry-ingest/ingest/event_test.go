package ingest

import "testing"

func TestDecodeHeader(t *testing.T) {
	for value, want := range map[string]string{
		"plain":                           "plain",
		"Euro%20%E2%82%AC%20%f0%9f%98%80": "Euro € 😀", // the example of the HTTP binding
		`"quoted"`:                        "quoted",
		`"with \"quotes\" and \\"`:        `with "quotes" and \`,
		`"%41"`:                           "A",
		"%22x%22":                         `"x"`,
		"%2541":                           "%41",
		"100%":                            "100%",
		"100%4":                           "100%4",
		"%zz%4z":                          "%zz%4z",
		"%ff":                             "%ff", // no UTF-8
		`"`:                               `"`,
		`""`:                              "",
		`say "x"`:                         `say "x"`,
		"":                                "",
	} {
		if got := decodeHeader(value); got != want {
			t.Errorf("decodeHeader(%q) = %q, want %q", value, got, want)
		}
	}
}
