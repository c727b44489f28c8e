package mesh

// ReadingsWriter makes the data of an event of readings, one reading at a
// time. The zero value is ready.
type ReadingsWriter struct {
	b []byte
	n int
}

// Grow makes room for about so many bytes, before the first reading.
func (w *ReadingsWriter) Grow(bytes int) {
	if w.b == nil {
		w.b = make([]byte, 0, bytes)
	}
}

// Add appends a reading.
func (w *ReadingsWriter) Add(r *Reading) {
	w.open()
	w.b = append(r.appendJSON(w.b), "},"...)
}

// AddJoined appends a joined reading.
func (w *ReadingsWriter) AddJoined(r *JoinedReading) {
	w.open()
	w.b = append(r.appendJSON(w.b), "},"...)
}

func (w *ReadingsWriter) open() {
	if w.n == 0 {
		w.b = append(w.b, `{"readings":[`...)
	}
	w.b = append(w.b, '\n')
	w.n++
}

// Len is how many readings were added.
func (w *ReadingsWriter) Len() int { return w.n }

// Data ends the list and gives it. The writer must not be used after it.
func (w *ReadingsWriter) Data() []byte {
	if w.n == 0 {
		return []byte(`{"readings":[]}`)
	}
	w.b[len(w.b)-1] = '\n'
	return append(w.b, "]}"...)
}
