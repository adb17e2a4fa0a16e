package main

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/upconv/upconv/upconv"
	"github.com/upconv/upconv/upconv/policy"
)

// routeFlags are the values of the flags that say where destinations go, and which calls follow
// that.
type routeFlags struct {
	rules                  []string
	via, file, udp, swapAt string
}

// addTo adds the flags to a command.
func (f *routeFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.via, "via", "", "`ROUTE` of every IPv4 destination that is not local and no rule matches")
	flags.StringArrayVar(&f.rules, "rule", nil, "`DEST=ROUTE`; may be given several times, the first that matches wins")
	flags.StringVar(&f.file, "config", "", "policy `FILE`, whose rules come after those of --rule (see upconv check --help)")
	flags.StringVar(&f.udp, "udp", "full", "datagrams: `MODE` is full (connect(2) and sends with an address), connected\n(connect(2) only) or off")
	flags.StringVar(&f.swapAt, "swap-at", "connect", "replace sockets when their destination is known, or already at socket(2): `CALL`\nis connect or socket")
	cmd.RegisterFlagCompletionFunc("via", completeRoutes)
	cmd.RegisterFlagCompletionFunc("rule", cobra.NoFileCompletions)
	cmd.RegisterFlagCompletionFunc("config", completePolicyFiles)
	cmd.RegisterFlagCompletionFunc("udp", cobra.FixedCompletions([]string{"full", "connected", "off"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("swap-at", cobra.FixedCompletions([]string{"connect", "socket"}, cobra.ShellCompDirectiveNoFileComp))
}

// readModes puts what --udp and --swap-at say into cfg.
func (f *routeFlags) readModes(cmd *cobra.Command, cfg *upconv.Config) (err error) {
	if cfg.UDP, err = policy.ParseUDPMode(f.udp); err != nil {
		return fmt.Errorf("--udp: %w", err)
	}
	if cfg.SwapAt, err = policy.ParseSwapAt(f.swapAt); err != nil {
		return fmt.Errorf("--swap-at: %w", err)
	}
	cfg.UDPFixed, cfg.SwapAtFixed = cmd.Flags().Changed("udp"), cmd.Flags().Changed("swap-at")
	return nil
}

// routed reports whether any of the flags is given.
func routed(cmd *cobra.Command) bool {
	flags := cmd.Flags()
	return flags.Changed("via") || flags.Changed("rule") || flags.Changed("config")
}

// readRoutes puts what the flags say into cfg, and what the policy file says and no flag does. A
// via without its flag is one that another flag stands for.
func (f *routeFlags) readRoutes(cmd *cobra.Command, cfg *upconv.Config) error {
	for _, text := range f.rules {
		rule, err := policy.ParseRule(text)
		if err != nil {
			return fmt.Errorf("--rule: %w", err)
		}
		cfg.Rules = append(cfg.Rules, rule)
	}
	if f.via != "" || cmd.Flags().Changed("via") {
		route, err := policy.ParseRoute(f.via)
		if err != nil {
			return fmt.Errorf("--via: %w", err)
		}
		cfg.Via = route
	}
	if !cmd.Flags().Changed("config") {
		return nil
	}
	if f.file == "" {
		return errors.New("--config: no file given")
	}
	// What a long file is parsed into is many small things, all of them in use until the end: there
	// is little garbage to collect.
	before := debug.SetGCPercent(400)
	policy, err := policy.ReadFile(f.file)
	debug.SetGCPercent(before)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	cfg.Rules = append(cfg.Rules, policy.Rules...)
	cfg.Mappings, cfg.File = policy.Mappings, policy.Name
	if !cfg.UDPFixed {
		cfg.UDP = policy.UDP
	}
	if !cfg.SwapAtFixed {
		cfg.SwapAt = policy.SwapAt
	}
	return nil
}

var errNoNamespace = errors.New("--netns: no namespace given; it is a name of ip-netns(8) or a path")
