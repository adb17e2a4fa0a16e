// Package linux has what the kernel's interfaces are to the rest of upconv: system calls on sockets
// and files that return an errno and allocate nothing, socket addresses, and structures as they lie
// in a program's memory. It decides nothing.
//
// Descriptors are the caller's before and after a call, unless it says that it makes or closes one.
package linux
