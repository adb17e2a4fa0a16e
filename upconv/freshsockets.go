package upconv

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/netns"
)

// freshSockets is what TCP sockets of the origin have that nobody has done anything to.
type freshSockets struct{ inet, inet6 defaults }

// of returns what those of an address family have.
func (f *freshSockets) of(domain int) *defaults {
	if domain == unix.AF_INET6 {
		return &f.inet6
	}
	return &f.inet
}

// learn reads it.
func (f *freshSockets) learn(o *netns.Origin) {
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		if fd, ok := o.Seed(domain); ok {
			f.of(domain).learn(fd, domain)
		}
	}
}
