package mesh

// ReadingsWriter makes the data of an event of readings, one reading at a
// time. The zero value is ready.
type ReadingsWriter struct {
	b    []byte
	n    int
	last lastInstants
}

// lastInstants are the instants of the reading that a buffer got last: the
// next one mostly has the same, and a copy costs a fraction of a conversion.
type lastInstants struct{ observed, received lastInstant }

type lastInstant struct {
	at       Instant
	from, to int // its text in the buffer; to is 0 before the first
}

func (l *lastInstant) append(b []byte, name string, at Instant) []byte {
	b = append(append(b, name...), '"')
	if l.to > 0 && l.at == at {
		b = append(b, b[l.from:l.to]...)
	} else {
		l.at, l.from = at, len(b)
		b = at.AppendText(b)
		l.to = len(b)
	}
	return append(b, '"')
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
	w.b = append(r.appendJSON(w.b, &w.last), "},"...)
}

// AddJoined appends a joined reading.
func (w *ReadingsWriter) AddJoined(r *JoinedReading) {
	w.open()
	w.b = append(r.appendJSON(w.b, &w.last), "},"...)
}

func (w *ReadingsWriter) open() {
	if w.n == 0 {
		w.b = append(w.b, `{"readings":[`...)
	}
	w.b = append(w.b, '\n')
	w.n++
}

// Data ends the list and gives it. The writer must not be used after it.
func (w *ReadingsWriter) Data() []byte {
	if w.n == 0 {
		return []byte(`{"readings":[]}`)
	}
	w.b[len(w.b)-1] = '\n'
	return append(w.b, "]}"...)
}
