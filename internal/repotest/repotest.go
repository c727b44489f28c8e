// Package repotest holds the architecture of the repository as tests: what
// belongs together is there together, what must not depend on something does
// not.
package repotest
