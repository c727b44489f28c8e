// Package tenancy answers who held a device at an instant, and since when that
// is known: the as-of lookup that everything in Telemesh stands on.
//
// Assignments come of the history of placements by replaying it (Assignments),
// are served by assignment-port, and are looked up in an Index, of which a
// Client keeps one up to date.
//
// The version of an assignment is the position in the log of placements of what
// last changed who held the device then. So an index that knows more gives a
// version that is equal or higher, and an equal one means the same tenant: of
// two stamps of a reading the one with the higher version is right, in whatever
// order they arrive.
package tenancy
