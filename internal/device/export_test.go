package device

// Formats gives the names of the readers, in the order of the table.
func Formats() []string {
	formats := []string{plain.format, topicValue.format}
	for _, r := range table() {
		formats = append(formats, r.format)
	}
	return formats
}
