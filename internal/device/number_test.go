package device

import (
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"testing"
)

func TestNumbersKeepTheirValue(t *testing.T) {
	for literal, want := range map[string]bool{ // want: whether a float64 holds it
		"0": true, "-0.0": true, "0e5": true, "1": true, "-1.50": true, "0.1": true, "661.0": true,
		"123456789012345": true, "1234567890123456": true, "67.96099945281145": true,
		"1e22": true, "1e23": true, "1E+2": true, "100e-2": true, "4.9e-324": false, "5e-324": true,
		"9007199254740992": true, "9007199254740993": false, "9007199254740994": true, "-9007199254740993": false,
		"18446744073709551616": false, "0.50000000000000000000000": true, "0.1000000000000000055": false,
		"1.7976931348623157e308": true, "1e-400": false, "0.00000000000000000000000001": true,
	} {
		f, exact := parseNumber([]byte(literal))
		if nearest, err := strconv.ParseFloat(literal, 64); err != nil || math.Float64bits(f) != math.Float64bits(nearest) || exact != want {
			t.Errorf("parseNumber(%s) = %v, %v, want %v, %v", literal, f, exact, nearest, want)
		}
	}
	for _, literal := range []string{"1e309", "-1e999", "1e400"} {
		if f, _ := parseNumber([]byte(literal)); !math.IsInf(f, 0) {
			t.Errorf("parseNumber(%s) = %v, want no finite number", literal, f)
		}
	}
}

// The value is the nearest float64, and where it is said to be exact its
// shortest text is the same number as the literal.
func TestNumbersOfAnyForm(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 50_000 {
		digits := func(n int) string {
			s := ""
			for range n {
				s += string(rune('0' + random.IntN(10)))
			}
			return s
		}
		literal := strconv.Itoa(random.IntN(10))
		if literal != "0" {
			literal += digits(random.IntN(20))
		}
		if random.IntN(2) == 0 {
			literal = "-" + literal
		}
		if random.IntN(2) == 0 {
			literal += "." + digits(1+random.IntN(20))
		}
		if random.IntN(4) == 0 {
			literal += []string{"e", "E-", "e+"}[random.IntN(3)] + digits(1+random.IntN(2))
		}
		f, exact := parseNumber([]byte(literal))
		if nearest, _ := strconv.ParseFloat(literal, 64); math.Float64bits(f) != math.Float64bits(nearest) {
			t.Fatalf("parseNumber(%s) = %v, want %v", literal, f, nearest)
		}
		sent, _ := new(big.Rat).SetString(literal)
		shown, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'e', -1, 64))
		if want := sent.Cmp(shown) == 0; exact != want {
			t.Fatalf("parseNumber(%s) is exact: %v, want %v", literal, exact, want)
		}
	}
}
