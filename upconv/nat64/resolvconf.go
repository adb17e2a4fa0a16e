package nat64

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// resolvConf is what resolv.conf(5) says about how to ask.
type resolvConf struct {
	servers  []string // address:port, the scope of an IPv6 address included
	timeout  time.Duration
	attempts int
	tcp      bool // use-vc
}

// The limits and defaults of resolv.conf(5) as the GNU C library has them.
const (
	maxNameservers  = 3
	maxTimeout      = 30
	maxAttempts     = 5
	defaultTimeout  = 5 * time.Second
	defaultAttempts = 2
)

// parseResolvConf reads the text of resolv.conf(5). As in the C library, what cannot be understood
// is passed over.
func parseResolvConf(text string) resolvConf {
	conf := resolvConf{timeout: defaultTimeout, attempts: defaultAttempts}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || line[0] == '#' || line[0] == ';' {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if _, err := netip.ParseAddr(fields[1]); err == nil && len(conf.servers) < maxNameservers {
				conf.servers = append(conf.servers, net.JoinHostPort(fields[1], "53"))
			}
		case "options":
			for _, option := range fields[1:] {
				name, value, _ := strings.Cut(option, ":")
				n, err := strconv.Atoi(value)
				switch {
				case name == "use-vc":
					conf.tcp = true
				case err != nil || n < 1:
				case name == "timeout":
					conf.timeout = time.Duration(min(n, maxTimeout)) * time.Second
				case name == "attempts":
					conf.attempts = min(n, maxAttempts)
				}
			}
		}
	}
	return conf
}
