// Package openfile is about what refers to an open file: the descriptors of this process and of
// others, and what the kernel remembers of their numbers.
package openfile
