package classify

import (
	"math"
	"reflect"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// valueOf is a text that is JSON as a value of CEL. What is not asked for is not read. A
// number is a double; only a whole one beyond 2⁵³, of which a double does not hold each,
// is an int.
func valueOf(text []byte) ref.Val {
	switch text[0] {
	case 'n':
		return types.NullValue
	case 't', 'f':
		return types.Bool(text[0] == 't')
	case '"':
		return types.String(unquoted(text))
	case '{':
		return &object{text: text}
	case '[':
		var elements []ref.Val
		for i := blank(text, 1); text[i] != ']'; {
			end := skip(text, i)
			elements = append(elements, valueOf(text[i:end]))
			if i = blank(text, end); text[i] == ',' {
				i = blank(text, i+1)
			}
		}
		return types.NewRefValList(types.DefaultTypeAdapter, elements)
	}
	f, _ := strconv.ParseFloat(string(text), 64)
	if math.Abs(f) >= 1<<53 {
		if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
			return types.Int(n)
		}
	}
	return types.Double(f)
}

// unquoted gives the characters of a string in quotes.
func unquoted(text []byte) string {
	for _, c := range text {
		if c == '\\' {
			plain, _ := jsontext.AppendUnquote(nil, text)
			return string(plain)
		}
	}
	return string(text[1 : len(text)-1])
}

// blank gives where the white space ends that begins at i.
func blank(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r') {
		i++
	}
	return i
}

// skip gives where the value ends that begins at i, of a text that is JSON.
func skip(text []byte, i int) int {
	for depth := 0; ; i++ {
		switch text[i] {
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		default:
			if depth > 0 {
				continue
			}
			for i < len(text) && text[i] != ',' && text[i] != '}' && text[i] != ']' && text[i] > ' ' {
				i++
			}
			return i
		}
		if depth == 0 {
			return i + 1
		}
	}
}

// object is an object as a map of CEL.
type object struct {
	text    []byte
	members map[string]ref.Val // of one that was asked for all
}

// each calls f with the name, in its quotes, and the value of each member, until it says
// that this is enough.
func (o *object) each(f func(name, value []byte) bool) {
	for i := blank(o.text, 1); o.text[i] != '}'; {
		end := skip(o.text, i)
		name := o.text[i:end]
		i = blank(o.text, blank(o.text, end)+1) // behind the colon
		end = skip(o.text, i)
		if !f(name, o.text[i:end]) {
			return
		}
		if i = blank(o.text, end); o.text[i] == ',' {
			i = blank(o.text, i+1)
		}
	}
}

func (o *object) find(want string) (value []byte) {
	o.each(func(name, text []byte) bool {
		if plain := name[1 : len(name)-1]; string(plain) == want || len(plain) > len(want) && unquoted(name) == want {
			value = text
		}
		return value == nil
	})
	return value
}

func (o *object) all() map[string]ref.Val {
	if o.members == nil {
		o.members = map[string]ref.Val{}
		o.each(func(name, value []byte) bool {
			o.members[unquoted(name)] = valueOf(value)
			return true
		})
	}
	return o.members
}

func (o *object) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	text := o.find(string(name))
	if text == nil {
		return nil, false
	}
	return valueOf(text), true
}

func (o *object) Get(key ref.Val) ref.Val {
	if v, ok := o.Find(key); ok {
		return v
	}
	return types.NewErr("no such key: %v", key.Value())
}

func (o *object) Contains(key ref.Val) ref.Val {
	_, ok := o.Find(key)
	return types.Bool(ok)
}

// plain is o as a map that CEL made itself.
func (o *object) plain() traits.Mapper {
	m := map[ref.Val]ref.Val{}
	for name, value := range o.all() {
		m[types.String(name)] = value
	}
	return types.NewRefValMap(types.DefaultTypeAdapter, m)
}

func (o *object) Size() ref.Val                               { return types.Int(len(o.all())) }
func (o *object) Iterator() traits.Iterator                   { return o.plain().Iterator() }
func (o *object) ConvertToNative(t reflect.Type) (any, error) { return o.plain().ConvertToNative(t) }
func (o *object) ConvertToType(t ref.Type) ref.Val            { return o.plain().ConvertToType(t) }
func (o *object) Equal(other ref.Val) ref.Val                 { return o.plain().Equal(other) }
func (o *object) Type() ref.Type                              { return types.MapType }
func (o *object) Value() any                                  { return o }

// string gives the member of a name if it is a string; another scalar as it is written.
func (o *object) string(name string) string {
	switch text := o.find(name); {
	case text == nil || text[0] == 'n':
		return ""
	case text[0] == '"':
		return unquoted(text)
	default:
		return string(text)
	}
}
