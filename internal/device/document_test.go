package device

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

var payload = []byte(`{"deviceId":"room-1","timestamp":"2022-10-06T13:23:00+0200","metrics":{"co2__ppm":661.0,"occupancy__p":0,"rel_humidity__0":0.526,"temp_in__degC":21.5,"battery_mv":2987}}`)

// jsontextReads walks over all tokens of a value, as strict as jsontext is by
// default.
func jsontextReads(d *jsontext.Decoder, text []byte) error {
	d.Reset(bytes.NewBuffer(text))
	if err := d.SkipValue(); err != nil {
		return err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

func BenchmarkDocument(b *testing.B) {
	b.Run("document", func(b *testing.B) {
		var d document
		b.SetBytes(int64(len(payload)))
		for b.Loop() {
			if err := d.parse(payload); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("jsontext", func(b *testing.B) {
		var d jsontext.Decoder
		buf := bytes.NewBuffer(nil)
		b.SetBytes(int64(len(payload)))
		for b.Loop() {
			buf.Reset()
			buf.Write(payload)
			d.Reset(buf)
			for {
				_, err := d.ReadToken()
				if err == io.EOF {
					break
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
