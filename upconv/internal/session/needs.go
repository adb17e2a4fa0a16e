package session

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/policy"
)

// Needs are what a policy's routes have upconv do to sockets, beyond leaving them alone or
// refusing.
type Needs struct {
	Swaps   bool // other sockets take their place
	Netns   bool // of other network namespaces
	Inet6   bool // of the family AF_INET6
	Unix    bool // of the family AF_UNIX
	Sees    bool // they are looked at in the kernel before, see Worker.See
	Rejects bool // some destinations are refused

	UDP      bool // datagram sockets follow the policy
	Sends    bool // and so does what is sent to an address
	Receives bool // and some get sockets of another address family

	Streams, Datagrams bool // are made in the egress at socket(2)
}

// NeedsOf returns what the routes of a policy have upconv do.
func NeedsOf(p *policy.Policy, udp policy.UDPMode) (n Needs) {
	datagrams := func(r *policy.Route) {
		if r.Kind != policy.Direct && udp != policy.UDPOff {
			n.UDP, n.Sends = true, udp == policy.UDPFull
			n.Receives = n.Receives || r.Crosses()
		}
	}
	for i := range p.Rules() {
		if rule := &p.Rules()[i]; rule.Proto&policy.UDP != 0 {
			datagrams(&rule.Route)
		}
	}
	datagrams(p.Fallback())
	for _, r := range p.Routes() {
		switch r.Kind {
		case policy.Netns:
			n.Swaps, n.Netns = true, true
		case policy.NAT64, policy.Inet6:
			n.Swaps, n.Inet6 = true, true
		case policy.UnixPath:
			n.Swaps, n.Unix = true, true
		case policy.Reject:
			n.Rejects = true
		}
	}
	return n
}

// Crosses reports whether sockets are replaced by those of another family.
func (n Needs) Crosses() bool { return n.Inet6 || n.Unix }

// AtSocket reports whether any sockets are made in the egress at socket(2).
func (n *Needs) AtSocket() bool { return n.Streams || n.Datagrams }

// MakeAtSocket notes which sockets are made in the egress at socket(2). Datagram sockets are only
// if upconv can enter the origin, to make others there.
func (n *Needs) MakeAtSocket(p *policy.Policy, at policy.SwapAt, enters bool) {
	if at != policy.SwapAtSocket {
		return
	}
	note := func(r *policy.Route, proto policy.Proto) {
		if r.Kind == policy.Netns {
			n.Streams = n.Streams || proto&policy.TCP != 0
			n.Datagrams = n.Datagrams || proto&policy.UDP != 0 && n.UDP && enters
		}
	}
	for i := range p.Rules() {
		note(&p.Rules()[i].Route, p.Rules()[i].Proto)
	}
	note(p.Fallback(), policy.TCP|policy.UDP)
}

// Passes reports whether setsockopt(2) is not stopped for an option.
func (n Needs) Passes(row *sockstate.Option) bool {
	return row.Always && !n.tells(row) && (n.Sees || !row.Blind)
}

// tells reports whether a program that sets the option could find out that its socket is of another
// family.
func (n Needs) tells(row *sockstate.Option) bool {
	return n.Unix && row.Level != unix.SOL_SOCKET || n.Inet6 && (row.Level == unix.IPPROTO_IPV6 || row.Level == unix.IPPROTO_IP)
}
