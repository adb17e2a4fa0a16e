// Package calls has the table of calls: one row for each, of which the filter, the finding of a
// handler and socketcall(2) are made. Its handlers decide what a call is about, and leave it to the
// packages below.
package calls
