package upconv

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/netns"
	"github.com/upconv/upconv/upconv/nat64"
	"github.com/upconv/upconv/upconv/policy"
)

// reloads reads the policy file again whenever it is to, for ever. Apart from what passes signals
// on: a file can make it wait, a FIFO or one of a server that is not there.
func (p *process) reloads() {
	for range p.hangups {
		p.reload()
	}
}

// reload reads the policy file again. If anything is wrong with it, or it needs what the command
// was not started for, the policy in force stays.
func (p *process) reload() {
	began := time.Now()
	s := p.session
	rules, err := p.reread()
	result := unix.Errno(0)
	note := ""
	if err == nil {
		s.rules.Store(rules)
		note = "policy reloaded"
		s.log.Info("policy reloaded", "file", p.order.Config.File)
	} else {
		result, note = unix.EINVAL, err.Error()
		s.log.Warn("policy not reloaded, the one in force stays", "file", p.order.Config.File, "error", err)
	}
	const enough = 1000 // a file can be wrong in many places
	if len(note) > enough {
		note = note[:enough] + "..."
	}
	s.events.RecordReload(began, result, note)
}

func (p *process) reread() (*ruleset, error) {
	s, cfg := p.session, &p.order.Config
	file, err := policy.ReadFile(cfg.File)
	if err != nil {
		return nil, err
	}
	fromFlags := slices.DeleteFunc(slices.Clone(cfg.Rules), func(r policy.Rule) bool { return r.From.File != "" })
	changed, err := policy.New(append(fromFlags, file.Rules...), cfg.Via)
	if err != nil {
		return nil, err
	}
	mappings, err := nat64.NewMappings(file.Mappings)
	if err != nil {
		return nil, err
	}
	if err := cfg.sameModes(file); err != nil {
		return nil, err
	}
	if err := changed.CheckSwapAt(cfg.SwapAt); err != nil {
		return nil, err
	}
	// The filter that the program runs under cannot be changed any more.
	n := needsOf(changed, cfg.UDP)
	n.makeAtSocket(changed, s.swapAt, linux.HasCapability(unix.CAP_SYS_ADMIN))
	switch {
	case n.swaps && !s.needs.swaps:
		return nil, errors.New("it has routes that replace sockets, and the one that the command was started with had none: start it again")
	case n.netns && !s.needs.netns:
		return nil, errors.New("it has routes to network namespaces, and the one that the command was started with had none: start it again")
	case n.rejects && !s.needs.rejects && !s.needs.swaps: // a send with MSG_FASTOPEN would get past it
		return nil, errors.New("it has routes that refuse, and the one that the command was started with only had direct: start it again")
	case n.inet6 && !s.needs.inet6 || n.unix && !s.needs.unix:
		return nil, errors.New("it has routes to an address family that the one which the command was started with had none to: start it again")
	case n.udp && !s.needs.udp || n.sends && !s.needs.sends || n.receives && !s.needs.receives:
		return nil, errors.New("it has routes for datagrams, and the one that the command was started with had none like that: start it again")
	case n.streams && !s.needs.streams:
		return nil, errors.New("it has stream sockets made in the egress at socket(2), and the one that the command was started with had none: start it again")
	case n.datagrams && !s.needs.datagrams:
		return nil, errors.New("it has datagram sockets made in the egress at socket(2), and the one that the command was started with had none: start it again")
	case changed.Discovers() && s.discovery == nil:
		return nil, errors.New("it has nat64:auto, and the one that the command was started with did not: start it again")
	}
	before := s.rules.Load().egress
	egress, _, err := netns.OpenEgresses(changed, before)
	if err != nil {
		return nil, err
	}
	// Sockets that are in an egress of an earlier policy are still known to be, and what has just
	// been decided by that is still carried out.
	for target, e := range before {
		if egress[target] == nil {
			egress[target] = e
		} else if !slices.Contains(slices.Collect(maps.Values(egress)), e) {
			egress[fmt.Sprintf("/earlier/%d", e.Cookie)] = e
		}
	}
	return newRuleset(changed, mappings, egress), nil
}

// sameModes returns an error if a policy file that has been read again says something else of when
// and which sockets are replaced than what the command was started with. What a flag has said does
// not depend on the file.
func (cfg *Config) sameModes(file *policy.File) error {
	switch {
	case file.UDP != cfg.UDP && !cfg.UDPFixed:
		return fmt.Errorf("its udp is %s, and the command was started with %s: start it again", file.UDP, cfg.UDP)
	case file.SwapAt != cfg.SwapAt && !cfg.SwapAtFixed:
		return fmt.Errorf("its swapAt is %s, and the command was started with %s: start it again", file.SwapAt, cfg.SwapAt)
	}
	return nil
}
