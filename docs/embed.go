// Package docs holds the parts of the documents that the program shows itself.
package docs

import _ "embed" // the list of errors

// Errors is errors.md: every error id with what is said under it.
//
//go:embed errors.md
var Errors string
