package upconv

import (
	"github.com/upconv/upconv/nsdial"
	"github.com/upconv/upconv/upconv/policy"
)

// egress is a namespace that sockets are made in.
type egress struct {
	ns     *nsdial.Namespace
	cookie uint64 // SO_NETNS_COOKIE
}

// openEgress opens every namespace that the policy names, but for those that are among known.
// cwd-independent: targets are names, absolute paths or policy.Host, which is the namespace of the
// calling thread.
func openEgress(p *policy.Policy, known map[string]*egress) (all map[string]*egress, home *egress, err error) {
	all = map[string]*egress{}
	var opened []*egress
	defer func() {
		if err != nil {
			for _, e := range opened {
				e.ns.Close()
			}
		}
	}()
	for _, target := range p.Namespaces() {
		ns, err := OpenNamespace(target)
		if err != nil {
			return nil, nil, err
		}
		e := &egress{ns: ns}
		opened = append(opened, e)
		if e.cookie, err = ns.Cookie(); err != nil {
			return nil, nil, err
		}
		for _, other := range known {
			if other.cookie == e.cookie {
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
