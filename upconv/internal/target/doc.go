// Package target looks at other processes, and acts on them: their descriptors, memory, users,
// signals and stops, through pidfds, process_vm_readv(2), ptrace(2) and proc(5). It knows threads,
// which it is given as numbers of its own pid namespace, and neither sockets nor stopped calls.
//
// Whatever a process does, it can make a function of this package take long (its memory may come
// from a file system that does not answer), so none may be called under a lock that others need.
package target
