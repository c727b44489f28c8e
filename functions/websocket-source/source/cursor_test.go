package source

import (
	"math/rand/v2"
	"strconv"
	"testing"
)

// The cursor is that of the last frame up to which all are accepted, in whatever order they
// are.
func TestCursorFollows(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		c, err := openCursor("/seq", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		frames, done, accepted := make([]frame, 40), make([]func(), 40), make([]bool, 40)
		for i := range frames {
			frames[i] = frame{cursor: strconv.Itoa(i), hasCursor: random.IntN(3) > 0}
			done[i] = c.take(&frames[i])
		}
		for _, i := range random.Perm(len(frames)) {
			done[i]()
			accepted[i] = true
			want := ""
			for j := 0; j < len(frames) && accepted[j]; j++ {
				if frames[j].hasCursor {
					want = frames[j].cursor
				}
			}
			if got, known := c.get(); got != want || known != (want != "") {
				t.Fatalf("seed %d: accepted %v: the cursor is %q, want %q", seed, accepted, got, want)
			}
		}
	}
}

// A frame that the broker never accepts, as one that is too large for it, has no memory of
// all that is accepted or passed over behind it.
func TestCursorForgets(t *testing.T) {
	c, err := openCursor("/seq", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	first := c.take(&frame{cursor: "0", hasCursor: true})
	for n := 1; n <= 1000; n++ {
		c.take(&frame{cursor: strconv.Itoa(n), hasCursor: n%2 == 0})()
	}
	if n := c.pending.Len(); n > 2 {
		t.Errorf("%d frames are remembered, want one and what is behind it", n)
	}
	if _, known := c.get(); known {
		t.Error("the cursor is behind a frame that is not accepted")
	}
	first()
	if got, _ := c.get(); got != "1000" || c.pending.Len() != 0 {
		t.Errorf("the cursor is %q, want 1000; %d frames are remembered", got, c.pending.Len())
	}
}
