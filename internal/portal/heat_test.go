package portal

import (
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What stands in the steps of the hours of the week can be read in both schemes: a
// contrast of 4.5 (WCAG 2.2, 1.4.3), which a page shows only where its values lie in
// the step.
func TestHeatCanBeRead(t *testing.T) {
	css, err := os.ReadFile("style/air.css")
	if err != nil {
		t.Fatal(err)
	}
	steps := regexp.MustCompile(`\.(heat-\d) \{ background: (#\w+); color: (#\w+); \}`).FindAllStringSubmatch(string(css), -1)
	if len(steps) != 2*heatSteps {
		t.Fatalf("%d steps, want %d in each of two schemes", len(steps), heatSteps)
	}
	for _, step := range steps {
		back, front := luminance(t, step[2]), luminance(t, step[3])
		if contrast := (max(back, front) + 0.05) / (min(back, front) + 0.05); contrast < 4.5 {
			t.Errorf("%s: %s on %s has a contrast of %.2f", step[1], step[3], step[2], contrast)
		}
	}
}

// luminance is the relative luminance of a colour, #rgb or #rrggbb.
// https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
func luminance(t *testing.T, colour string) (sum float64) {
	t.Helper()
	digits := strings.TrimPrefix(colour, "#")
	if len(digits) == 3 {
		digits = string([]byte{digits[0], digits[0], digits[1], digits[1], digits[2], digits[2]})
	}
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(digits[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}
