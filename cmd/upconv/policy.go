package main

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/upconv/upconv/upconv"
)

// routeFlags adds the flags that say where destinations go.
func routeFlags(cmd *cobra.Command, rules *[]string, via, file *string) {
	flags := cmd.Flags()
	flags.StringVar(via, "via", "", "`ROUTE` of every IPv4 destination that is not local and no rule matches")
	flags.StringArrayVar(rules, "rule", nil, "`DEST=ROUTE`; may be given several times, the first that matches wins")
	flags.StringVar(file, "config", "", "policy `FILE`, whose rules come after those of --rule (see upconv check --help)")
	cmd.RegisterFlagCompletionFunc("via", completeRoutes)
	cmd.RegisterFlagCompletionFunc("rule", cobra.NoFileCompletions)
	cmd.RegisterFlagCompletionFunc("config", completePolicyFiles)
}

// routed reports whether any of the flags is given.
func routed(cmd *cobra.Command) bool {
	flags := cmd.Flags()
	return flags.Changed("via") || flags.Changed("rule") || flags.Changed("config")
}

// readRoutes puts what the flags say into cfg. A via without its flag is one that another flag stands for.
func readRoutes(cmd *cobra.Command, cfg *upconv.Config, rules []string, via, file string) error {
	for _, text := range rules {
		rule, err := upconv.ParseRule(text)
		if err != nil {
			return fmt.Errorf("--rule: %w", err)
		}
		cfg.Rules = append(cfg.Rules, rule)
	}
	if via != "" || cmd.Flags().Changed("via") {
		route, err := upconv.ParseRoute(via)
		if err != nil {
			return fmt.Errorf("--via: %w", err)
		}
		cfg.Via = route
	}
	if !cmd.Flags().Changed("config") {
		return nil
	}
	if file == "" {
		return errors.New("--config: no file given")
	}
	// What a long file is parsed into is many small things, all of them in use until the end: there is little garbage to collect.
	before := debug.SetGCPercent(400)
	policy, err := upconv.ReadPolicyFile(file)
	debug.SetGCPercent(before)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	cfg.Rules = append(cfg.Rules, policy.Rules...)
	cfg.Mappings, cfg.File = policy.Mappings, policy.Name
	return nil
}

var errNoNamespace = errors.New("--netns: no namespace given; it is a name of ip-netns(8) or a path")
