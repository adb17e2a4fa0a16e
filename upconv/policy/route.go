package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/nat64"
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
	// ProxyV2 has a UnixPath begin with a PROXY protocol v2 header that carries the original
	// addresses.
	ProxyV2 bool
	// TargetRoot has the path of a UnixPath looked up from the root directory of the process that
	// connects, instead of upconv's: as the program sees it.
	TargetRoot bool
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
		return "unix:" + r.Target + r.options()
	case Reject:
		if r.Errno == defaultReject {
			return "reject"
		}
		return "reject:" + unix.ErrnoName(r.Errno)
	}
	return "direct"
}

// options returns what follows the socket of a UnixPath. There is at least a "?" where the path has
// one.
func (r Route) options() string {
	switch {
	case r.ProxyV2 && r.TargetRoot:
		return "?proxy=v2&root=target"
	case r.ProxyV2:
		return "?proxy=v2"
	case r.TargetRoot:
		return "?root=target"
	case strings.Contains(r.Target, "?"):
		return "?"
	}
	return ""
}

// Prefix returns the prefix of a NAT64; ok is false if that is still to be found ("auto"), and for
// other routes. It does not allocate.
func (r *Route) Prefix() (p nat64.Prefix, ok bool) {
	if r.Kind != NAT64 || r.Target == AutoPrefix {
		return nat64.Prefix{}, false
	}
	prefix, err := netip.ParsePrefix(r.Target)
	if err != nil {
		return nat64.Prefix{}, false
	}
	p, err = nat64.NewPrefix(prefix)
	return p, err == nil
}

// Addr returns the address of an Inet6, with its zone: the name or the number of an interface where
// it is link-local. For other routes it is the zero Addr.
func (r *Route) Addr() netip.Addr {
	if r.Kind != Inet6 {
		return netip.Addr{}
	}
	addr, _ := netip.ParseAddr(r.Target)
	return addr
}

// Crosses reports whether the route leads to sockets of another address family.
func (r *Route) Crosses() bool { return r.Kind == NAT64 || r.Kind == Inet6 || r.Kind == UnixPath }

// AutoPrefix stands for the prefix that nat64.Discover finds.
const AutoPrefix = "auto"

// defaultReject is what a plain "reject" answers: what connect(2) says where there is no IPv4.
const defaultReject = unix.ENETUNREACH

// routeForms are all that ParseRoute reads.
const routeForms = "direct, nat64:auto, nat64:PREFIX/LEN, inet6:ADDR, unix:/PATH, unix:@NAME, netns:NAME, netns:/PATH, netns:host, reject, reject:ERRNO"

// ParseRoute reads a route as written in flags and policies, for example "netns:blue" or
// "reject:ECONNREFUSED". The error is a *SyntaxError that points at the part that is wrong.
//
// What follows the last "?" of unix:PATH are options, joined by "&": proxy=v2 and root=target (see
// Route). A path that has a "?" itself therefore needs one more at its end.
func ParseRoute(s string) (Route, error) {
	kind, target, more := strings.Cut(s, ":")
	t := &routeText{whole: s, kind: kind, target: target, hasTarget: more}
	if more && target == "" {
		return t.lacks("something must follow %q", kind+":")
	}
	switch kind {
	case "direct":
		if more {
			return t.wrongTarget("direct takes no argument")
		}
		return Route{Kind: Direct}, nil
	case "netns":
		return t.parseNetns()
	case "reject":
		return t.parseReject()
	case "nat64":
		return t.parseNAT64()
	case "inet6":
		return t.parseInet6()
	case "unix":
		return t.parseUnix()
	}
	if meant := closest(strings.ToLower(kind), []string{"direct", "netns", "nat64", "inet6", "unix", "reject"}); meant != "" {
		return t.wrong(0, kind, "no such route; did you mean %s?", meant)
	}
	return t.wrong(0, kind, "no such route; routes are %s", routeForms)
}

// routeText is a route as it is written: KIND or KIND:TARGET.
type routeText struct {
	whole        string
	kind, target string
	hasTarget    bool // there is a colon
}

// wrong says what is wrong with a part of the text, which starts there at start.
func (t *routeText) wrong(start int, part, format string, args ...any) (Route, error) {
	return Route{}, &SyntaxError{What: "route", Input: t.whole, Start: start, End: start + len(part), Msg: fmt.Sprintf(format, args...)}
}

// wrongTarget says what is wrong with the target.
func (t *routeText) wrongTarget(format string, args ...any) (Route, error) {
	return t.wrong(t.targetAt(), t.target, format, args...)
}

// lacks says what is missing at the end.
func (t *routeText) lacks(format string, args ...any) (Route, error) {
	return t.wrong(len(t.whole), "", format, args...)
}

// targetAt returns where the target starts.
func (t *routeText) targetAt() int { return len(t.kind) + 1 }

func (t *routeText) parseNetns() (Route, error) {
	switch {
	case !t.hasTarget:
		return t.lacks("netns needs a namespace: netns:NAME, netns:/PATH or netns:host")
	case !strings.HasPrefix(t.target, "/") && strings.Contains(t.target, "/"):
		return t.wrongTarget("a namespace is a name without slashes or an absolute path")
	case t.target == "." || t.target == "..":
		return t.wrongTarget("not a name that a namespace can have")
	}
	return Route{Kind: Netns, Target: t.target}, nil
}

func (t *routeText) parseReject() (Route, error) {
	if !t.hasTarget {
		return Route{Kind: Reject, Errno: defaultReject}, nil
	}
	errno, ok := errnoByName(t.target)
	if !ok {
		if meant := closest(strings.ToUpper(t.target), errnoNames()); meant != "" {
			return t.wrongTarget("not the name of an errno; did you mean %s?", meant)
		}
		return t.wrongTarget("not the name of an errno such as ECONNREFUSED")
	}
	return Route{Kind: Reject, Errno: errno}, nil
}

func (t *routeText) parseNAT64() (Route, error) {
	if !t.hasTarget {
		return t.lacks("nat64 needs a prefix: nat64:PREFIX/LEN or nat64:auto")
	}
	if t.target == AutoPrefix {
		return Route{Kind: NAT64, Target: t.target}, nil
	}
	addr, bits, slash := strings.Cut(t.target, "/")
	bitsAt := t.targetAt() + len(addr) + 1
	prefix, err := netip.ParsePrefix(t.target)
	if err != nil {
		if slash && isAddr6(addr) {
			return t.wrong(bitsAt, bits, "RFC 6052 knows the lengths 32, 40, 48, 56, 64 and 96")
		}
		return t.wrongTarget("not an IPv6 prefix such as 2001:db8:64::/96")
	}
	p, err := nat64.NewPrefix(prefix)
	if wrong := (*nat64.PrefixError)(nil); errors.As(err, &wrong) {
		if wrong.Length {
			return t.wrong(bitsAt, bits, "%s", wrong.Msg)
		}
		return t.wrongTarget("%s", wrong.Msg)
	}
	return Route{Kind: NAT64, Target: p.String()}, nil
}

func (t *routeText) parseInet6() (Route, error) {
	if !t.hasTarget {
		return t.lacks("inet6 needs an address: inet6:ADDR")
	}
	if bare, ok := strings.CutPrefix(t.target, "["); ok {
		if bare, ok = strings.CutSuffix(bare, "]"); ok && isAddr6(bare) {
			return t.wrongTarget("without brackets: inet6:%s", bare)
		}
	}
	addr, err := netip.ParseAddr(t.target)
	zoneAt := t.targetAt() + strings.IndexByte(t.target, '%') // if there is one
	switch {
	case err != nil || !addr.Is6() || addr.Is4In6():
		return t.wrongTarget("not an IPv6 address (the port is the program's)")
	case addr.IsUnspecified() || addr.IsMulticast():
		return t.wrongTarget("not an address to connect to")
	case addr.IsLinkLocalUnicast() && addr.Zone() == "":
		return t.wrongTarget("a link-local address needs its interface: %s%%eth0", t.target)
	case !addr.IsLinkLocalUnicast() && addr.Zone() != "":
		return t.wrong(zoneAt, "%"+addr.Zone(), "only a link-local address has an interface")
	case len(addr.Zone()) >= unix.IFNAMSIZ || strings.ContainsAny(addr.Zone(), "/ \x00"):
		return t.wrong(zoneAt+1, addr.Zone(), "not a name that an interface can have")
	}
	return Route{Kind: Inet6, Target: addr.String()}, nil
}

func (t *routeText) parseUnix() (Route, error) {
	if !t.hasTarget {
		return t.lacks("unix needs a socket: unix:/PATH or unix:@NAME")
	}
	path, options := t.target, ""
	if i := strings.LastIndexByte(path, '?'); i >= 0 {
		path, options = path[:i], path[i+1:]
	}
	at := t.targetAt()
	switch {
	case path == "" || path[0] != '/' && path[0] != '@':
		return t.wrong(at, path, "a Unix socket is an absolute path or @NAME")
	case path == "@":
		return t.wrong(at, path, "no name after the @")
	case path[0] == '/' && len(path) > MaxUnixPath:
		return t.wrong(at, path, "%d bytes long, and unix(7) allows %d", len(path), MaxUnixPath)
	case len(path) > MaxUnixPath+1: // the @ stands for a byte of zero
		return t.wrong(at, path, "the name is %d bytes long, and unix(7) allows %d", len(path)-1, MaxUnixPath)
	case strings.Contains(path, "\x00"):
		return t.wrong(at, path, "has a byte of zero in it")
	}
	route := Route{Kind: UnixPath, Target: path}
	if options == "" {
		return route, nil
	}
	return t.parseUnixOptions(route, at+len(path)+1, options)
}

// parseUnixOptions adds options, which start in the text at start, to a UnixPath.
func (t *routeText) parseUnixOptions(route Route, start int, options string) (Route, error) {
	at := start
	for option := range strings.SplitSeq(options, "&") {
		key, value, _ := strings.Cut(option, "=")
		switch {
		case option == "proxy=v2" && !route.ProxyV2:
			route.ProxyV2 = true
		case option == "root=target" && route.Target[0] == '@':
			return t.wrong(at, option, "an abstract name is not looked up in a directory")
		case option == "root=target" && !route.TargetRoot:
			route.TargetRoot = true
		case option == "proxy=v2" || option == "root=target":
			return t.wrong(at, option, "given twice")
		case key == "proxy" || key == "root":
			return t.wrong(at, option, "not %q; options are proxy=v2 and root=target", value)
		default:
			return t.wrong(at, option, "no such option; options are proxy=v2 and root=target (a path that has a \"?\" itself ends in another)")
		}
		at += len(option) + 1
	}
	return route, nil
}

// MaxUnixPath is how long a path may be: sun_path less the byte of zero that ends it, unix(7).
const MaxUnixPath = 107

func isAddr6(s string) bool {
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Is6()
}

// errnoByName finds an errno by its kernel name, for example "ECONNREFUSED".
func errnoByName(name string) (unix.Errno, bool) {
	if !strings.HasPrefix(name, "E") {
		return 0, false
	}
	for e := unix.Errno(1); e <= lastErrno; e++ {
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

const lastErrno = unix.EHWPOISON

func errnoNames() (names []string) {
	for e := unix.Errno(1); e <= lastErrno; e++ {
		if name := unix.ErrnoName(e); name != "" {
			names = append(names, name)
		}
	}
	return names
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
