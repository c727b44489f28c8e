package classify

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/go-cmp/cmp"
)

// plain is a value as encoding/json gives it.
func plain(v ref.Val) any {
	switch v := v.(type) {
	case types.Null:
		return nil
	case types.Bool:
		return bool(v)
	case types.Double:
		return float64(v)
	case types.Int:
		return float64(v)
	case types.String:
		return string(v)
	case traits.Mapper:
		all := map[string]any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			name := it.Next()
			all[string(name.(types.String))] = plain(v.Get(name))
		}
		return all
	case traits.Lister:
		all := []any{}
		for i := range int(v.Size().(types.Int)) {
			all = append(all, plain(v.Get(types.Int(i))))
		}
		return all
	}
	return v
}

// What is JSON is read as everybody reads it, whatever stands between the values.
func FuzzValueOf(f *testing.F) {
	for _, text := range []string{
		`{"a":1,"b":[1,-2.5e3,"x",null,true,false],"c":{"d":"é\"\\\n"},"":{}}`, "{ \"a\" :\t1 ,\n\"b\" : [ ] , \"c\" : [ { } ] }", `"x"`, `12345678901234567890`,
		`9007199254740993`, `{"\u0061":"\ud83d\ude00","b\\":"}]"}`, `[[[[]]],{"a":[{}]}]`, `0`, `1e999`, ` "" `, `{"a":"\\\""}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !jsontext.Value(text).IsValid() {
			return
		}
		var want any
		if err := json.Unmarshal(text, &want); err != nil {
			return // a number beyond all
		}
		trimmed := bytes.TrimSpace(text)
		if diff := cmp.Diff(want, plain(valueOf(trimmed))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
		if o, ok := valueOf(trimmed).(*object); ok {
			for name := range want.(map[string]any) {
				if o.find(name) == nil {
					t.Errorf("%q: %q is not found", text, name)
				}
			}
		}
	})
}
