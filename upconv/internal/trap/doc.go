// Package trap is about stopped calls that upconv itself waits for: who may have a thread or a turn
// for that, so that a program can hold up none but its own, and what ends such a wait: signals,
// stops and tracers, which the kernel would heed. It knows nothing of sockets.
package trap
