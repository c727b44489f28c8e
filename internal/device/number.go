package device

import (
	"bytes"
	"math"
	"strconv"
)

// parseNumber gives the float64 nearest to a JSON number, and whether the two
// are the same number to whoever prints the float64 with as many digits as
// tell it from its neighbours. Beyond the range of float64 it is infinite.
func parseNumber(literal []byte) (f float64, exact bool) {
	if f, ok := parseShort(literal); ok {
		return f, true
	}
	f, err := strconv.ParseFloat(string(literal), 64)
	if err != nil { // out of range, since document has checked the syntax
		return math.Inf(1), false
	}
	var buf [32]byte
	digits, exponent := decimal(literal)
	if len(digits) <= 15 && f != 0 && exponent > -300 {
		return f, true // IEEE 754: every decimal of 15 digits survives, unless it is subnormal
	}
	back, backExponent := decimal(strconv.AppendFloat(buf[:0], f, 'e', -1, 64))
	return f, bytes.Equal(digits, back) && exponent == backExponent
}

// powers are the powers of ten that a float64 holds exactly.
var powers = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// parseShort reads numbers of at most 15 digits without exponent: digits and
// power of ten are exact, so that their quotient is the nearest float64 (W. D.
// Clinger, "How to Read Floating Point Numbers Accurately", 1990).
func parseShort(literal []byte) (float64, bool) {
	if len(literal) > 17 { // sign, point and 15 digits
		return 0, false
	}
	var mantissa uint64
	digits, fraction := 0, 0
	point, negative := false, false
	for i, c := range literal {
		switch {
		case isDigit(c):
			mantissa = mantissa*10 + uint64(c-'0')
			digits++
			if point {
				fraction++
			}
		case c == '.':
			point = true
		case c == '-' && i == 0:
			negative = true
		default:
			return 0, false
		}
	}
	if digits > 15 {
		return 0, false
	}
	f := float64(mantissa) / powers[fraction]
	if negative {
		f = -f
	}
	return f, true
}

// decimal gives the digits of a number from the first to the last that is not
// zero, and the power of ten that counts the first one. Zero has no digits.
func decimal(literal []byte) (digits []byte, exponent int) {
	mantissa := literal
	if e := bytes.IndexAny(literal, "eE"); e >= 0 {
		mantissa = literal[:e]
		exponent, _ = strconv.Atoi(string(literal[e+1:])) // saturates: as good as any so far out
	}
	whole, fraction, _ := bytes.Cut(bytes.TrimPrefix(mantissa, []byte("-")), []byte("."))
	all := append(append(make([]byte, 0, 32), whole...), fraction...)
	digits = bytes.TrimLeft(all, "0")
	exponent += len(whole) - (len(all) - len(digits))
	digits = bytes.TrimRight(digits, "0")
	if len(digits) == 0 {
		return nil, 0
	}
	return digits, exponent
}

func isDigit(c byte) bool { return c-'0' <= 9 }
