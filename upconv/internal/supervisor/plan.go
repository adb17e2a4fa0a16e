package supervisor

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// Plan is what a session is to be. The filter, which the listener is of, follows from it.
type Plan struct {
	rules  *ruleset
	home   *netns.Egress // where the workers are to live; nil: where upconv was started
	needs  needs
	udp    policy.UDPMode
	swapAt policy.SwapAt
}

// NewPlan opens the namespaces that a policy names. They are the plan's, until there is a session.
func NewPlan(p *policy.Policy, mappings *nat64.Mappings, udp policy.UDPMode, swapAt policy.SwapAt) (*Plan, error) {
	egress, home, err := netns.OpenEgresses(p, nil)
	if err != nil {
		return nil, err
	}
	n := needsOf(p, udp)
	n.sees = n.swaps && maySee()
	n.makeAtSocket(p, swapAt, linux.HasCapability(unix.CAP_SYS_ADMIN))
	return &Plan{rules: newRuleset(p, mappings, egress), home: home, needs: n, udp: udp, swapAt: swapAt}, nil
}

// Filter returns the filter that the listener of the session is to be of.
func (p *Plan) Filter() seccompx.Filter { return filter(p.needs) }

// EntersOrigin reports whether the session makes sockets in the origin.
func (p *Plan) EntersOrigin() bool { return p.needs.crosses() || p.needs.atSocket() }

// MissesDatagrams reports whether datagram sockets are not made in the egress at socket(2), as the
// user wants, for want of a capability.
func (p *Plan) MissesDatagrams() bool {
	wanted := p.needs
	wanted.makeAtSocket(p.rules.policy, p.swapAt, true)
	return wanted.datagrams && !p.needs.datagrams && p.udp == policy.UDPConnected
}

// canTake returns an error if a policy needs what the command was not started for: the filter that
// it runs under cannot be changed any more.
func (s *Session) canTake(p *policy.Policy) error {
	n := needsOf(p, s.udp)
	n.makeAtSocket(p, s.swapAt, linux.HasCapability(unix.CAP_SYS_ADMIN))
	switch {
	case n.swaps && !s.needs.swaps:
		return errors.New("it has routes that replace sockets, and the one that the command was started with had none: start it again")
	case n.netns && !s.needs.netns:
		return errors.New("it has routes to network namespaces, and the one that the command was started with had none: start it again")
	case n.rejects && !s.needs.rejects && !s.needs.swaps: // a send with MSG_FASTOPEN would get past it
		return errors.New("it has routes that refuse, and the one that the command was started with only had direct: start it again")
	case n.inet6 && !s.needs.inet6 || n.unix && !s.needs.unix:
		return errors.New("it has routes to an address family that the one which the command was started with had none to: start it again")
	case n.udp && !s.needs.udp || n.sends && !s.needs.sends || n.receives && !s.needs.receives:
		return errors.New("it has routes for datagrams, and the one that the command was started with had none like that: start it again")
	case n.streams && !s.needs.streams:
		return errors.New("it has stream sockets made in the egress at socket(2), and the one that the command was started with had none: start it again")
	case n.datagrams && !s.needs.datagrams:
		return errors.New("it has datagram sockets made in the egress at socket(2), and the one that the command was started with had none: start it again")
	case p.Discovers() && s.discovery == nil:
		return errors.New("it has nat64:auto, and the one that the command was started with did not: start it again")
	}
	return nil
}
