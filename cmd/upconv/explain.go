package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/upconv/upconv/upconv"
	"github.com/upconv/upconv/upconv/doctor"
	"github.com/upconv/upconv/upconv/explain"
	"github.com/upconv/upconv/upconv/policy"
)

// discover finds the prefixes of nat64:auto; tests put something else here.
var discover = func(netns string) ([]netip.Prefix, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return doctor.DiscoverIn(ctx, netns)
}

func newExplain() *cobra.Command {
	var (
		cfg    upconv.Config
		routes routeFlags
	)
	cmd := &cobra.Command{
		Use:   "explain [flags] DEST[:PORT][/udp]",
		Short: "Tell which way a destination takes, and why",
		Long: `Say which rule decides about a destination, which route it takes, what is really connected to, and what
the program is told of it. Nothing is run and nothing connected to. (For nat64:auto the resolvers are asked for the
prefix, as upconv run would ask them.)

The flags are those of upconv run; for its --isolate say --via netns:host. DEST is an IPv4 address. Without a PORT
all ports are explained, and where they differ each range of its own.

The exit status is 0, and 125 if the flags, the file or DEST are wrong.`,
		Example: `  upconv explain --config policy.yaml 203.0.113.7:443

  # A datagram, and what becomes of it in another mode
  upconv explain --config policy.yaml 203.0.113.7:53/udp
  upconv explain --config policy.yaml --udp connected 203.0.113.7:53/udp

  # As a service would see it that is started in the namespace "v6only"
  upconv explain --netns v6only --rule '*:25=reject' --via netns:dualstack 198.51.100.1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("not one destination: upconv explain [flags] DEST[:PORT][/udp] (try 'upconv explain --help')")
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return explainDestination(cmd, &cfg, &routes, args[0])
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	routes.addTo(cmd)
	flags.StringVar(&cfg.Netns, "netns", "", "as if the program were started in this network namespace: `NAME` of ip-netns(8) or /PATH")
	cmd.RegisterFlagCompletionFunc("netns", completeNamespaces(""))
	return cmd
}

// explainDestination prints what becomes of a destination, text, under the policy of the flags.
func explainDestination(cmd *cobra.Command, cfg *upconv.Config, routes *routeFlags, text string) error {
	dst, err := explain.ParseDestination(text)
	if err != nil {
		return err
	}
	if err := routes.readModes(cmd, cfg); err != nil {
		return err
	}
	if err := routes.readRoutes(cmd, cfg); err != nil {
		return err
	}
	if cmd.Flags().Changed("netns") && cfg.Netns == "" {
		return errNoNamespace
	}
	if !routed(cmd) {
		native, err := doctor.HasIPv4DefaultRoute(cfg.Netns)
		if err != nil {
			return err
		}
		if native {
			fmt.Fprintln(cmd.OutOrStdout(), "no --rule, --via or --config, and there is an IPv4 default route: upconv run has nothing to do here")
			cfg.SwapAt = policy.SwapAtConnect // nor has it sockets to answer socket(2) with
		} else {
			cfg.Via = policy.Route{Kind: policy.NAT64, Target: policy.AutoPrefix}
		}
	}
	x, err := explain.New(&explain.Config{Rules: cfg.Rules, Via: cfg.Via, Mappings: cfg.Mappings, UDP: cfg.UDP, SwapAt: cfg.SwapAt})
	if err != nil {
		return err
	}
	if x.Assigned, err = doctor.OwnAddresses(cfg.Netns); err != nil {
		return err
	}
	x.Prefixes = func() ([]netip.Prefix, error) { return discover(cfg.Netns) }
	for _, e := range x.Explain(dst) {
		printExplanation(cmd.OutOrStdout(), &e)
	}
	return nil
}

// printExplanation prints one explanation.
func printExplanation(out io.Writer, e *explain.Explanation) {
	fmt.Fprintf(out, "%s\n  rule      %s\n  route     %s\n  connects  %s\n  sees      %s\n", e.Destination, e.Rule, e.Route, e.Connects, e.Sees)
	for _, note := range e.Notes {
		fmt.Fprintf(out, "  note      %s\n", note)
	}
}
