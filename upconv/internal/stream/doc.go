// Package stream connects streams: it puts the new socket under the program's descriptor, begins
// the connection and says what the program is told; it waits where the kernel's own wait would tell
// something else. It says what bind(2) says of a port that a stream has taken along, what
// connect(2) says where the policy refuses, and asks programs that have restricted themselves what
// they may.
package stream
