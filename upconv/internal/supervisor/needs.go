package supervisor

import (
	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/sockstate"
	"github.com/upconv/upconv/upconv/policy"
)

// What a policy's routes have upconv do to sockets, beyond leaving them alone or refusing.
type needs struct {
	swaps   bool // other sockets take their place
	netns   bool // of other network namespaces
	inet6   bool // of the family AF_INET6
	unix    bool // of the family AF_UNIX
	sees    bool // and they are looked at in the kernel, see sight.go
	rejects bool // some destinations are refused

	udp      bool // datagram sockets follow the policy
	sends    bool // and so does what is sent to an address
	receives bool // and some get sockets of another address family

	streams, datagrams bool // are made in the egress at socket(2), see atsocket.go
}

// needsOf returns what the routes of a policy have upconv do.
func needsOf(p *policy.Policy, udp policy.UDPMode) (n needs) {
	datagrams := func(r *policy.Route) {
		if r.Kind != policy.Direct && udp != policy.UDPOff {
			n.udp, n.sends = true, udp == policy.UDPFull
			n.receives = n.receives || r.Crosses()
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
			n.swaps, n.netns = true, true
		case policy.NAT64, policy.Inet6:
			n.swaps, n.inet6 = true, true
		case policy.UnixPath:
			n.swaps, n.unix = true, true
		case policy.Reject:
			n.rejects = true
		}
	}
	return n
}

// crosses reports whether sockets are replaced by those of another family.
func (n needs) crosses() bool { return n.inet6 || n.unix }

// atSocket reports whether any sockets are made in the egress at socket(2).
func (n *needs) atSocket() bool { return n.streams || n.datagrams }

// makeAtSocket notes which sockets are. Datagram sockets are where upconv can enter the origin too,
// to make others there.
func (n *needs) makeAtSocket(p *policy.Policy, at policy.SwapAt, enters bool) {
	if at != policy.SwapAtSocket {
		return
	}
	note := func(r *policy.Route, proto policy.Proto) {
		if r.Kind == policy.Netns {
			n.streams = n.streams || proto&policy.TCP != 0
			n.datagrams = n.datagrams || proto&policy.UDP != 0 && n.udp && enters
		}
	}
	for i := range p.Rules() {
		note(&p.Rules()[i].Route, p.Rules()[i].Proto)
	}
	note(p.Fallback(), policy.TCP|policy.UDP)
}

// passes reports whether setsockopt(2) is not stopped for an option.
func (n needs) passes(row *sockstate.Option) bool {
	return row.Always && !n.tells(row) && (n.sees || !row.Blind)
}

// tells reports whether a program that sets the option could find out that its socket is of another
// family.
func (n needs) tells(row *sockstate.Option) bool {
	return n.unix && row.Level != unix.SOL_SOCKET || n.inet6 && (row.Level == unix.IPPROTO_IPV6 || row.Level == unix.IPPROTO_IP)
}
