package tenancy

// Layered says whether what has changed stands beside what has not.
func (x *Index) Layered() bool { return x.over != nil }
