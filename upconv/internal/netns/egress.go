package netns

import (
	"github.com/upconv/upconv/nsdial"
	"github.com/upconv/upconv/upconv/policy"
)

// Egress is a namespace that sockets are made in.
type Egress struct {
	NS     *nsdial.Namespace
	Cookie uint64 // SO_NETNS_COOKIE
}

// OpenEgresses opens every namespace that the policy names, but for those that are among known.
// cwd-independent: targets are names, absolute paths or policy.Host, which is the namespace of the
// calling thread.
func OpenEgresses(p *policy.Policy, known map[string]*Egress) (all map[string]*Egress, home *Egress, err error) {
	all = map[string]*Egress{}
	var opened []*Egress
	defer func() {
		if err != nil {
			for _, e := range opened {
				e.NS.Close()
			}
		}
	}()
	for _, target := range p.Namespaces() {
		ns, err := Open(target)
		if err != nil {
			return nil, nil, err
		}
		e := &Egress{NS: ns}
		opened = append(opened, e)
		if e.Cookie, err = ns.Cookie(); err != nil {
			return nil, nil, err
		}
		for _, other := range known {
			if other.Cookie == e.Cookie {
				ns.Close()
				opened = opened[:len(opened)-1]
				e = other
				break
			}
		}
		all[target] = e
		if home == nil {
			home = e
		}
	}
	return all, home, nil
}
