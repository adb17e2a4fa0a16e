// Package guard makes calls in the place of the kernel that are about sockets which are none of
// upconv's business: another thread could put a socket of an egress under the number, and another
// address into memory, before the kernel looks. The program sees no difference: names, rights,
// descriptors, credentials, partial results and signals are as natively.
package guard
