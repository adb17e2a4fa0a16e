package upconv

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

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
	changed, mappings, err := p.reread()
	if err == nil {
		err = p.session.Replace(changed, mappings)
	}
	result := unix.Errno(0)
	note := ""
	if err == nil {
		note = "policy reloaded"
		p.log.Info("policy reloaded", "file", p.order.Config.File)
	} else {
		result, note = unix.EINVAL, err.Error()
		p.log.Warn("policy not reloaded, the one in force stays", "file", p.order.Config.File, "error", err)
	}
	const enough = 1000 // a file can be wrong in many places
	if len(note) > enough {
		note = note[:enough] + "..."
	}
	p.events.RecordReload(began, result, note)
}

// reread reads the policy file.
func (p *process) reread() (*policy.Policy, *nat64.Mappings, error) {
	cfg := &p.order.Config
	file, err := policy.ReadFile(cfg.File)
	if err != nil {
		return nil, nil, err
	}
	fromFlags := slices.DeleteFunc(slices.Clone(cfg.Rules), func(r policy.Rule) bool { return r.From.File != "" })
	changed, err := policy.New(append(fromFlags, file.Rules...), cfg.Via)
	if err != nil {
		return nil, nil, err
	}
	mappings, err := nat64.NewMappings(file.Mappings)
	if err != nil {
		return nil, nil, err
	}
	if err := cfg.sameModes(file); err != nil {
		return nil, nil, err
	}
	if err := changed.CheckSwapAt(cfg.SwapAt); err != nil {
		return nil, nil, err
	}
	return changed, mappings, nil
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
