// Package repotest holds tests of the repository itself: which package may import which, that packages and
// commands are documented, and that the examples in the documents parse.
package repotest
