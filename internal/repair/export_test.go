package repair

// Paged is Rows with pages of another size.
var Paged = rows
