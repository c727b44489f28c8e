package microbit_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/microbit"
)

func TestRecordedGivesWhatWasRecorded(t *testing.T) {
	at := time.Date(2026, 3, 2, 9, 0, 0, 1000, time.UTC)
	want := []microbit.Frame{
		{Device: "zuvig", Characteristic: microbit.TemperatureData, At: at, Value: []byte{21}},
		{Device: zuvig, Characteristic: microbit.UARTText, At: at.Add(time.Hour), Value: []byte("a \"text\"\nwith # \xff")},
		{Device: "é", Characteristic: microbit.UARTText, At: at, Value: bytes.Repeat([]byte{0}, microbit.MaxText)},
		{Device: "empty", Characteristic: microbit.ButtonA, At: at, Value: []byte{}},
	}
	var file bytes.Buffer
	for _, f := range want {
		if err := microbit.Record(&file, f); err != nil {
			t.Fatal(err)
		}
	}
	var got []microbit.Frame
	for f, err := range microbit.Recorded(&file) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

func TestRecordedSaysWhichLineIsNone(t *testing.T) {
	const good = `{"device":"zuvig","characteristic":"c","at":"2026-03-02T10:00:00+01:00","value":"0A"}`
	for name, test := range map[string]struct {
		file string
		want []string // errors, "" for a frame
	}{
		"empty":              {"", nil},
		"no end of line":     {good, []string{""}},
		"blank lines":        {"\n" + good + "\r\n\n\n" + good + "\n\n", []string{"", ""}},
		"cut off":            {good + "\n" + good[:40], []string{"", "line 2: no frame"}},
		"an end of a zip":    {"\x00\x01\n" + good, []string{"line 1: no frame", ""}},
		"no device":          {`{"characteristic":"c","at":"2026-03-02T10:00:00Z","value":"00"}`, []string{"line 1: a frame without device"}},
		"no characteristic":  {`{"device":"d","at":"2026-03-02T10:00:00Z","value":"00"}`, []string{"line 1: a frame without characteristic"}},
		"no time":            {`{"device":"d","characteristic":"c","value":"00"}`, []string{`line 1: a frame without time`}},
		"a time that is not": {`{"device":"d","characteristic":"c","at":"noon","value":"00"}`, []string{"line 1: no frame"}},
		"no hexadecimal":     {`{"device":"d","characteristic":"c","at":"2026-03-02T10:00:00Z","value":"0"}`, []string{`line 1: "value" is not hexadecimal`}},
		"long":               {good + "\n" + strings.Repeat("x", 1<<20) + "\n" + good, []string{"", "line 2: longer than 16384 bytes", ""}},
		"long, the last":     {good + "\n\n" + strings.Repeat("x", 1<<20), []string{"", "line 3: longer than 16384 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			i := 0
			for f, err := range microbit.Recorded(strings.NewReader(test.file)) {
				switch {
				case i >= len(test.want):
					t.Errorf("more than %d: %+v, %v", i, f, err)
				case test.want[i] == "":
					want := microbit.Frame{Device: "zuvig", Characteristic: "c", At: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC), Value: []byte{10}}
					if err != nil || !cmp.Equal(f, want) {
						t.Errorf("%d: %+v, %v; want %+v", i, f, err, want)
					}
				case err == nil || !strings.Contains(err.Error(), test.want[i]):
					t.Errorf("%d: %+v, %v; want %q", i, f, err, test.want[i])
				}
				i++
			}
			if i != len(test.want) {
				t.Errorf("%d frames and errors, want %d", i, len(test.want))
			}
		})
	}
}

func TestRecordedEndsWithAnErrorOfReading(t *testing.T) {
	broken := errors.New("the card is gone")
	var errs []error
	for _, err := range microbit.Recorded(io.MultiReader(strings.NewReader("\n"), iotest.ErrReader(broken))) {
		errs = append(errs, err)
	}
	if len(errs) != 1 || !errors.Is(errs[0], broken) {
		t.Errorf("errors %v, want %v alone", errs, broken)
	}
}

func TestTexts(t *testing.T) {
	long := strings.Repeat("x", microbit.MaxText)
	for name, test := range map[string]struct {
		sent string
		want []string
		lost int
	}{
		"hash":               {"a#b#c", []string{"a", "b"}, 0},
		"MakeCode's line":    {"co2:12\r\nx:1\r\n", []string{"co2:12", "x:1"}, 0},
		"both ends":          {"a#\nb#\r\n", []string{"a", "b"}, 0},
		"empty":              {"##\n \n#", nil, 0},
		"the longest":        {long + "#a#", []string{long, "a"}, 0},
		"longer":             {"b#" + long + "x#a#", []string{"b", "a"}, 1},
		"much longer, twice": {strings.Repeat(long, 9) + "#a#" + strings.Repeat(long, 9) + "#", []string{"a"}, 2},
	} {
		for _, size := range []int{1, 7, 20, 1 << 20} {
			got, lost := microbit.Texts(slices.Collect(slices.Chunk([]byte(test.sent), size))...)
			if !slices.Equal(got, test.want) || lost != test.lost {
				t.Errorf("%s in notifications of %d: %.60q, %d lost; want %.60q, %d", name, size, got, lost, test.want, test.lost)
			}
		}
	}
	if held := microbit.Held(slices.Collect(slices.Chunk(bytes.Repeat([]byte("x"), 1<<20), 20))...); held > 2*microbit.MaxText {
		t.Errorf("a text without end holds %d bytes", held)
	}
}

// Whatever a file holds, each line is a frame or an error, and a frame is
// recorded as it was read.
func FuzzRecorded(f *testing.F) {
	f.Add([]byte(`{"device":"zuvig","characteristic":"c","at":"2026-03-02T10:00:00+01:00","value":"0A"}` + "\n\x00\n{}"))
	f.Fuzz(func(t *testing.T, file []byte) {
		n := 0
		for frame, err := range microbit.Recorded(bytes.NewReader(file)) {
			if n++; err != nil {
				continue
			}
			var again bytes.Buffer
			if err := microbit.Record(&again, frame); err != nil {
				continue // a year that no JSON can tell
			}
			for back, err := range microbit.Recorded(&again) {
				if diff := cmp.Diff(frame, back); err != nil && len(frame.Device)+len(frame.Characteristic) < 1000 || err == nil && diff != "" {
					t.Fatalf("%+v is read as %+v, %v", frame, back, err)
				}
			}
		}
		if lines := bytes.Count(file, []byte("\n")) + 1; n > lines {
			t.Fatalf("%d frames and errors of %d lines", n, lines)
		}
	})
}

// Texts do not depend on how they are cut into notifications.
func FuzzTexts(f *testing.F) {
	f.Add([]byte("co2:1#\r\n#x"), 3)
	f.Fuzz(func(t *testing.T, sent []byte, size int) {
		if size < 1 {
			return
		}
		whole, lost := microbit.Texts(sent)
		cut, lostToo := microbit.Texts(slices.Collect(slices.Chunk(sent, size))...)
		if !slices.Equal(whole, cut) || lost != lostToo {
			t.Fatalf("%q, %d lost at once; %q, %d lost in pieces of %d", whole, lost, cut, lostToo, size)
		}
		for _, text := range whole {
			if text == "" || len(text) > microbit.MaxText || strings.ContainsAny(text, "#\n") {
				t.Fatalf("text %q", text)
			}
		}
	})
}
