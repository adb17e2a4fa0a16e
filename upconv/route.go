package upconv

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// RouteKind says in which way a destination is reached.
type RouteKind uint8

// The kinds of route. The zero value is Direct.
const (
	Direct   RouteKind = iota // left alone: the program's own socket, in the origin
	Netns                     // a socket made in another network namespace
	NAT64                     // AF_INET6 through a NAT64 (RFC 6146)
	Inet6                     // one fixed IPv6 address
	UnixPath                  // a stream socket in the file system or the abstract name space
	Reject                    // an errno at once
)

// Host is the name of the network namespace that upconv itself was started in (netns:host).
const Host = "host"

// Route is where a destination goes. It is comparable and immutable.
type Route struct {
	Kind RouteKind
	// Target is what follows the kind: for Netns a name of ip-netns(8), an absolute path or Host;
	// for NAT64 "auto" or a prefix; for Inet6 an address; for UnixPath a path or @NAME. Else empty.
	Target string
	// Errno is what Reject answers.
	Errno unix.Errno
}

// String returns the route as it is written in flags, policies and events.
func (r Route) String() string {
	switch r.Kind {
	case Netns:
		return "netns:" + r.Target
	case NAT64:
		return "nat64:" + r.Target
	case Inet6:
		return "inet6:" + r.Target
	case UnixPath:
		return "unix:" + r.Target
	case Reject:
		if r.Errno == defaultReject {
			return "reject"
		}
		return "reject:" + unix.ErrnoName(r.Errno)
	}
	return "direct"
}

// ErrNotBuilt is wrapped by the errors for routes that are understood but do not work yet.
var ErrNotBuilt = errors.New("not built yet")

// built reports whether connections can be sent along the route; if not, an ErrNotBuilt.
func (r Route) built() error {
	switch r.Kind {
	case Direct, Netns, Reject:
		return nil
	}
	return fmt.Errorf("route %q: %w (routes that work: %s)", r, ErrNotBuilt, routesBuilt)
}

// defaultReject is what a plain "reject" answers: what connect(2) says where there is no IPv4.
const defaultReject = unix.ENETUNREACH

const routesBuilt = "direct, netns:NAME, netns:/PATH, netns:host, reject, reject:ERRNO"

// ParseRoute reads a route as written in flags and policies, for example "netns:blue" or
// "reject:ECONNREFUSED". The error is a *SyntaxError that points at the part that is wrong.
func ParseRoute(s string) (Route, error) {
	kind, target, more := strings.Cut(s, ":")
	at := len(kind) + 1 // where target starts in s
	fail := func(part, format string, args ...any) (Route, error) {
		start := at
		if part == kind {
			start = 0
		}
		return Route{}, &SyntaxError{What: "route", Input: s, Start: start, End: start + len(part), Msg: fmt.Sprintf(format, args...)}
	}
	if more && target == "" {
		at = len(s)
		return fail("", "something must follow %q", kind+":")
	}
	switch kind {
	case "direct":
		if more {
			return fail(target, "direct takes no argument")
		}
		return Route{Kind: Direct}, nil
	case "netns":
		if !more {
			at = len(s)
			return fail("", "netns needs a namespace: netns:NAME, netns:/PATH or netns:host")
		}
		if !strings.HasPrefix(target, "/") && strings.Contains(target, "/") {
			return fail(target, "a namespace is a name without slashes or an absolute path")
		}
		if target == "." || target == ".." {
			return fail(target, "not a name that a namespace can have")
		}
		return Route{Kind: Netns, Target: target}, nil
	case "reject":
		if !more {
			return Route{Kind: Reject, Errno: defaultReject}, nil
		}
		errno, ok := errnoByName(target)
		if !ok {
			return fail(target, "not the name of an errno such as ECONNREFUSED")
		}
		return Route{Kind: Reject, Errno: errno}, nil
	case "nat64":
		if !more {
			at = len(s)
			return fail("", "nat64 needs a prefix: nat64:PREFIX/LEN or nat64:auto")
		}
		if target != "auto" {
			prefix, err := netip.ParsePrefix(target)
			if err != nil || !prefix.Addr().Is6() || prefix.Addr().Is4In6() {
				return fail(target, "not an IPv6 prefix such as 2001:db8:64::/96")
			}
			switch prefix.Bits() {
			case 32, 40, 48, 56, 64, 96:
			default:
				at += strings.IndexByte(target, '/') + 1
				return fail(strconv.Itoa(prefix.Bits()), "RFC 6052 knows the lengths 32, 40, 48, 56, 64 and 96")
			}
			if prefix != prefix.Masked() {
				return fail(target, "has bits set beyond its length; meant %s?", prefix.Masked())
			}
		}
		return Route{Kind: NAT64, Target: target}, nil
	case "inet6":
		if !more {
			at = len(s)
			return fail("", "inet6 needs an address: inet6:ADDR")
		}
		addr, err := netip.ParseAddr(target)
		if err != nil || !addr.Is6() || addr.Is4In6() {
			return fail(target, "not an IPv6 address")
		}
		return Route{Kind: Inet6, Target: target}, nil
	case "unix":
		if !more {
			at = len(s)
			return fail("", "unix needs a socket: unix:/PATH or unix:@NAME")
		}
		if target[0] != '/' && target[0] != '@' {
			return fail(target, "a Unix socket is an absolute path or @NAME")
		}
		if len(target) > 107 {
			return fail(target, "longer than the 107 bytes that unix(7) allows")
		}
		return Route{Kind: UnixPath, Target: target}, nil
	}
	return fail(kind, "no such route; routes are %s", routesBuilt)
}

// errnoByName finds an errno by its kernel name, for example "ECONNREFUSED".
func errnoByName(name string) (unix.Errno, bool) {
	if !strings.HasPrefix(name, "E") {
		return 0, false
	}
	for e := unix.Errno(1); e < 134; e++ { // EHWPOISON, 133, is the last one
		if unix.ErrnoName(e) == name {
			return e, true
		}
	}
	// Two names of one number: ErrnoName knows only the first.
	switch name {
	case "EWOULDBLOCK":
		return unix.EWOULDBLOCK, true
	case "EDEADLOCK":
		return unix.EDEADLOCK, true
	case "EOPNOTSUPP":
		return unix.EOPNOTSUPP, true
	}
	return 0, false
}

// SyntaxError says what is wrong with a piece of text and where.
type SyntaxError struct {
	What       string // what the text should have been: "rule", "route"
	Input      string // the whole text
	Start, End int    // the part that is wrong, as byte offsets into Input
	Msg        string
}

// Error returns one line that names the part.
func (e *SyntaxError) Error() string {
	if part := e.Input[e.Start:e.End]; part != "" && part != e.Input {
		return fmt.Sprintf("%s %q: %q: %s", e.What, e.Input, part, e.Msg)
	}
	return fmt.Sprintf("%s %q: %s", e.What, e.Input, e.Msg)
}

// Caret returns two lines, the text and carets under the part that is wrong, for a terminal.
func (e *SyntaxError) Caret() string {
	width := max(1, e.End-e.Start)
	return e.Input + "\n" + strings.Repeat(" ", e.Start) + strings.Repeat("^", width)
}
