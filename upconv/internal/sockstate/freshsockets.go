package sockstate

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/netns"
)

// FreshSockets is what TCP sockets of the origin have that nobody has done anything to.
type FreshSockets struct{ inet, inet6 Defaults }

// Of returns what those of an address family have.
func (f *FreshSockets) Of(domain int) *Defaults {
	if domain == unix.AF_INET6 {
		return &f.inet6
	}
	return &f.inet
}

// Learn reads it.
func (f *FreshSockets) Learn(o *netns.Origin) {
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		if fd, ok := o.Seed(domain); ok {
			f.Of(domain).learn(fd, domain)
		}
	}
}
