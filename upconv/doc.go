// Package upconv runs a command under a policy, and has its calls to IPv4 destinations take other
// ways: [Run]. It is the front door: the processes that take part, how they are started, and how
// they end. What becomes of a call is package internal/supervisor's.
package upconv
