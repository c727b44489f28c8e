package users

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/alexedwards/argon2id"
)

// strength is the work of hashing a password, as OWASP recommends it. Hashes of
// another one are renewed when their user logs in.
// https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id
var strength = &argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

// nobodys is the hash of a password that is nobody's: it was random and is
// forgotten. Who has no password is compared with it.
const nobodys = "$argon2id$v=19$m=19456,t=2,p=1$/uiuRPMEJe46/JwQ4CcICw$/LUPqgOyQsIql13UE/VcrmaI1tqq4OCWiuZXwrv5utI"

const (
	// hashers bounds the memory of log-ins: 19 MiB each.
	hashers = 3
	// queued is how long a log-in waits for its turn.
	queued = 10 * time.Second
	// longestQueue is how many wait: about as many as have their turn within queued.
	longestQueue = 100

	shortest = 12  // characters; NIST SP 800-63B asks for 8 where there is a second factor
	longest  = 256 // bytes
)

// ErrBusy is that of more log-ins than can be looked at.
var ErrBusy = errors.New("too many people log in at the moment: try again")

// ErrPassword is that of a password that is not taken.
var ErrPassword = fmt.Errorf("a password has %d characters or more, at most %d bytes, not one alone and not the name", shortest, longest)

// acceptable says whether a password may be chosen. Its length is what counts.
// https://pages.nist.gov/800-63-4/sp800-63b.html#password
func acceptable(password, name string) error {
	different := map[rune]bool{}
	for _, r := range password {
		different[r] = true
	}
	if utf8.RuneCountInString(password) < shortest || len(password) > longest || len(different) < 5 || strings.EqualFold(password, name) {
		return ErrPassword
	}
	return nil
}

// turn waits for room to hash a password.
func (s *Store) turn(ctx context.Context) (done func(), err error) {
	if s.waiting.Add(1) > longestQueue {
		s.waiting.Add(-1)
		return nil, ErrBusy
	}
	defer s.waiting.Add(-1)
	wait, cancel := context.WithTimeout(ctx, queued)
	defer cancel()
	select {
	case s.hashing <- struct{}{}:
		s.hashed()
		return func() { <-s.hashing }, nil
	case <-wait.Done():
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, ErrBusy
	}
}

func (s *Store) hash(ctx context.Context, password string) (string, error) {
	done, err := s.turn(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	return argon2id.CreateHash(password, strength)
}

// matches says whether a password is that of a hash. Where the hash is empty it
// does the same work, and says no. weak: the hash took less work than a new one.
func (s *Store) matches(ctx context.Context, password, hash string) (ok, weak bool, err error) {
	known := hash != ""
	if !known {
		hash = nobodys
	}
	if len(password) > longest {
		password, known = "", false
	}
	done, err := s.turn(ctx)
	if err != nil {
		return false, false, err
	}
	defer done()
	ok, params, err := argon2id.CheckHash(password, hash)
	if err != nil {
		return false, false, fmt.Errorf("compare password: %w", err)
	}
	return ok && known, *params != *strength, nil
}
