// Package session has what all that decides about stopped calls needs: a call and what becomes of
// it, what a process has once ([Node]), what a listener has ([Session]), what a thread that decides
// has ([Worker]); looks at sockets in the kernel; making sockets in other namespaces, and putting
// them under a program's number.
//
// The packages above each have a Session and a Worker of their own, which embed those of the
// package below. So a package has its own state, sees what is below it, and nothing else.
package session
