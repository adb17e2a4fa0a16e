package supervisor

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/calls"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/internal/session"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// Plan is what a session is to be. The filter, which the listener is of, follows from it.
type Plan struct {
	rules  *session.Ruleset
	home   *netns.Egress // where the workers are to live; nil: where upconv was started
	needs  session.Needs
	udp    policy.UDPMode
	swapAt policy.SwapAt
}

// NewPlan opens the namespaces that a policy names. They are the plan's, until there is a session.
// The error says which of them cannot be opened.
func NewPlan(p *policy.Policy, mappings *nat64.Mappings, udp policy.UDPMode, swapAt policy.SwapAt) (*Plan, error) {
	egress, home, err := netns.OpenEgresses(p, nil)
	if err != nil {
		return nil, err
	}
	n := session.NeedsOf(p, udp)
	n.Sees = n.Swaps && session.MaySee()
	n.MakeAtSocket(p, swapAt, linux.HasCapability(unix.CAP_SYS_ADMIN))
	return &Plan{rules: session.NewRuleset(p, mappings, egress), home: home, needs: n, udp: udp, swapAt: swapAt}, nil
}

// Filter returns the filter that the listener of the session is to be of.
func (p *Plan) Filter() seccompx.Filter { return calls.Filter(p.needs) }

// EntersOrigin reports whether the session makes sockets in the origin.
func (p *Plan) EntersOrigin() bool { return p.needs.Crosses() || p.needs.AtSocket() }

// MissesDatagrams reports whether datagram sockets are not made in the egress at socket(2), as the
// user wants, for want of a capability.
func (p *Plan) MissesDatagrams() bool {
	wanted := p.needs
	wanted.MakeAtSocket(p.rules.Policy, p.swapAt, true)
	return wanted.Datagrams && !p.needs.Datagrams && p.udp == policy.UDPConnected
}

// canTake returns an error if a policy needs what the command was not started for: the filter that
// it runs under cannot be changed any more.
func (s *Session) canTake(p *policy.Policy) error {
	n := session.NeedsOf(p, s.udp)
	n.MakeAtSocket(p, s.swapAt, linux.HasCapability(unix.CAP_SYS_ADMIN))
	switch {
	case n.Swaps && !s.Needs.Swaps:
		return errors.New("it has routes that replace sockets, and the one that the command was started with had none: start it again")
	case n.Netns && !s.Needs.Netns:
		return errors.New("it has routes to network namespaces, and the one that the command was started with had none: start it again")
	case n.Rejects && !s.Needs.Rejects && !s.Needs.Swaps: // a send with MSG_FASTOPEN would get past it
		return errors.New("it has routes that refuse, and the one that the command was started with only had direct: start it again")
	case n.Inet6 && !s.Needs.Inet6 || n.Unix && !s.Needs.Unix:
		return errors.New("it has routes to an address family that the one which the command was started with had none to: start it again")
	case n.UDP && !s.Needs.UDP || n.Sends && !s.Needs.Sends || n.Receives && !s.Needs.Receives:
		return errors.New("it has routes for datagrams, and the one that the command was started with had none like that: start it again")
	case n.Streams && !s.Needs.Streams:
		return errors.New("it has stream sockets made in the egress at socket(2), and the one that the command was started with had none: start it again")
	case n.Datagrams && !s.Needs.Datagrams:
		return errors.New("it has datagram sockets made in the egress at socket(2), and the one that the command was started with had none: start it again")
	case p.Discovers() && s.Discovery == nil:
		return errors.New("it has nat64:auto, and the one that the command was started with did not: start it again")
	}
	return nil
}
