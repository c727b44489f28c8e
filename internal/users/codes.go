package users

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"net/url"
	"strings"
	"time"

	"github.com/boombuler/barcode"
	"github.com/boombuler/barcode/qr"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"
)

// codes is what apps for one-time codes take without being told: six digits of
// SHA-1, a new one every 30 s (RFC 6238).
var codes = totp.ValidateOpts{Period: 30, Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}

// skew is how many steps a code may be early or late: clocks differ, and people
// take their time (RFC 6238, section 5.2).
const skew = 1

// newSecret is a secret for one-time codes: 160 bits, as RFC 4226 recommends.
func newSecret() string {
	b := make([]byte, 20)
	rand.Read(b) // never fails
	return base32.StdEncoding.EncodeToString(b)
}

// stepOf gives the time step at about now whose code this is; 0: none.
func stepOf(secret, code string, now time.Time) (step int64, err error) {
	for i := -skew; i <= skew; i++ {
		at := now.Add(time.Duration(i) * 30 * time.Second)
		want, err := totp.GenerateCodeCustom(secret, at, codes)
		if err != nil {
			return 0, fmt.Errorf("make one-time code: %w", err)
		}
		if subtle.ConstantTimeCompare([]byte(code), []byte(want)) == 1 {
			step = at.Unix() / 30
		}
	}
	return step, nil
}

// pixels of one square of a QR code, and squares of the white around it, without
// which it is not found.
const (
	square = 5
	quiet  = 4
)

// Picture is the QR code by which an app takes the secret of a user, as PNG. It says
// no more than apps have to be told: the fewer its squares, the more cameras read it.
// https://github.com/google/google-authenticator/wiki/Key-Uri-Format
func Picture(secret, name, host string) ([]byte, error) {
	if name == "" {
		name = "admin"
	}
	if host != "" && !strings.Contains(name, "@") {
		name += "@" + host // who has several can tell them apart
	}
	key := url.URL{Scheme: "otpauth", Host: "totp", Path: "/Telemesh:" + name, RawQuery: "secret=" + secret + "&issuer=Telemesh"}
	code, err := qr.Encode(key.String(), qr.M, qr.Auto)
	if err == nil {
		code, err = barcode.Scale(code, square*code.Bounds().Dx(), square*code.Bounds().Dy())
	}
	if err != nil {
		return nil, fmt.Errorf("picture of a secret: %w", err)
	}
	all := image.NewGray(code.Bounds().Inset(-quiet * square))
	draw.Draw(all, all.Bounds(), image.White, image.Point{}, draw.Src)
	draw.Draw(all, code.Bounds(), code, image.Point{}, draw.Src)
	var b bytes.Buffer
	if err := png.Encode(&b, all); err != nil {
		return nil, fmt.Errorf("picture of a secret: %w", err)
	}
	return b.Bytes(), nil
}

// recoveries is how many recovery codes a user has.
const recoveries = 10

// lower32 is base 32 as people type it.
var lower32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newRecovery gives a user new recovery codes, of 80 bits each, in place of those
// they had.
func (s *Store) newRecovery(ctx context.Context, tx queryer, id string) ([]string, error) {
	if _, err := tx.ExecContext(ctx, "DELETE FROM recovery_codes WHERE user_id = $1", id); err != nil {
		return nil, fmt.Errorf("make recovery codes: %w", err)
	}
	var all []string
	for range recoveries {
		b := make([]byte, 10)
		rand.Read(b) // never fails
		code := lower32.EncodeToString(b)
		if _, err := tx.ExecContext(ctx, "INSERT INTO recovery_codes (user_id, hash) VALUES ($1, $2)", id, digest(code)); err != nil {
			return nil, fmt.Errorf("make recovery codes: %w", err)
		}
		all = append(all, code[:4]+"-"+code[4:8]+"-"+code[8:12]+"-"+code[12:])
	}
	return all, nil
}

// typed is a code as it is compared: people put spaces and dashes into it.
func typed(code string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' {
			return -1
		}
		return r
	}, strings.ToLower(strings.TrimSpace(code)))
}

// takeCode uses up a one-time code or a recovery code of a user: of several
// who come with the same one, only one gets true. What a secret makes for a step
// is taken once, and none of an earlier step after it.
func (s *Store) takeCode(ctx context.Context, q queryer, id, secret, code string) (ok, recovery bool, err error) {
	code = typed(code)
	if secret == "" {
		return false, false, nil
	}
	step, err := stepOf(secret, code, s.now())
	if err != nil {
		return false, false, err
	}
	if step != 0 {
		ok, err := one(q.ExecContext(ctx, "UPDATE users SET step = $2 WHERE id = $1 AND secret = $3 AND step < $2", id, step, secret))
		if err != nil {
			return false, false, fmt.Errorf("take code: %w", err)
		}
		return ok, false, nil
	}
	ok, err = one(q.ExecContext(ctx, "UPDATE recovery_codes SET used_at = $3 WHERE user_id = $1 AND hash = $2 AND used_at IS NULL", id, digest(code), s.now().UnixMicro()))
	if err != nil {
		return false, false, fmt.Errorf("take code: %w", err)
	}
	return ok, true, nil
}

// RecoveryLeft is how many recovery codes a user has not used.
func (s *Store) RecoveryLeft(ctx context.Context, id string) (n int, err error) {
	err = s.db.QueryRowContext(ctx, "SELECT count(*) FROM recovery_codes WHERE user_id = $1 AND used_at IS NULL", id).Scan(&n)
	return n, err
}
