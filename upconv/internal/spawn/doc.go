// Package spawn starts a process by a plan that is complete before clone(2), and tells which of its
// steps have failed. In between the child makes raw system calls only.
package spawn
