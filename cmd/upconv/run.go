package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/upconv/upconv/upconv"
	"github.com/upconv/upconv/upconv/doctor"
	"github.com/upconv/upconv/upconv/policy"
)

const (
	runLong = `Run CMD and send its IPv4 connections and datagrams where they can go.

The first --rule that matches a destination decides its route, or else the first rule of the --config file
that does; what no rule matches takes the route of --via, or direct if that is not given (but see --isolate).
Local destinations (0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, 255.255.255.255 and the addresses of
CMD's own network namespace) are left alone unless a rule names just them.

Without --rule, --via and --config all IPv4 destinations take nat64:auto, unless CMD's network namespace has an
IPv4 default route: then there is nothing to do and CMD is run as it is.

DEST is ADDR, CIDR or *, then optionally :PORT or :LO-HI, then optionally /tcp or /udp.
ROUTE is one of
  direct            leave it alone
  nat64:auto        over IPv6 through the NAT64 that CMD's resolvers tell of (RFC 7050)
  nat64:PREFIX/LEN  over IPv6 through the NAT64 of this prefix, for example 2001:db8:64::/96 (RFC 6052)
  inet6:ADDR        to this IPv6 address instead, same port
  unix:/PATH        to this Unix socket instead; PATH?proxy=v2 has it begin with a PROXY v2 header that carries the
                    original addresses, PATH?root=target looks PATH up as CMD sees it
  unix:@NAME        to this abstract Unix socket instead; also with ?proxy=v2
  netns:NAME        through the network namespace NAME of ip-netns(8)
  netns:/PATH       through the network namespace at PATH, for example /proc/PID/ns/net
  netns:host        through the network namespace that upconv was started in
  reject            fail at once with ENETUNREACH
  reject:ERRNO      fail at once with ERRNO, for example ECONNREFUSED
CMD goes on seeing IPv4 sockets, whatever is in their place. TCP and UDP take all of these; unix: then is a socket of
the type SOCK_STREAM or SOCK_DGRAM.

--udp says what of datagrams follows the rules. With full it is connect(2) on a datagram socket and each sendto(2),
sendmsg(2) and sendmmsg(2) with an address. A filter cannot see what a sendmsg(2) is for, so that those of TCP and Unix
sockets are stopped for a moment too. With connected it is connect(2) only: nothing is stopped where something is
sent, and a send with an address on a socket that is not connected goes as without upconv (but see --swap-at). With off
datagram sockets are left alone.

--swap-at says when a socket of CMD is replaced. With connect that is when its destination is known. With socket already
socket(2) returns one of the network namespace that the routes lead to, and a connect, a bind or (with --udp full) a send
that is local brings it back: for programs that set options that must be on the final socket and, with --udp connected, for those
that send many datagrams without connect(2). All routes must be direct, reject or to one and the same netns. With --udp
connected nothing looks at what is sent without connect(2): it is at full speed, all of it leaves from that namespace, and
what is for 127.0.0.1 arrives at that namespace's own 127.0.0.1. So that is for programs that send nothing there, or may.
Without CAP_SYS_ADMIN it is for TCP only.

The exit status is CMD's own; 128+N if signal N ended it; 125 if upconv failed before CMD ran; 126 if
CMD could not be executed; 127 if it was not found. As a service's main process (systemd) upconv ends by signal N itself.

With --config, SIGHUP to upconv reads the file again, and is not passed on to CMD. If something is wrong with the
file, or it needs what CMD was not started for (a route to another address family, another udp or swapAt), the
policy in force stays.

If upconv dies, CMD is killed with it. When CMD ends so does upconv, and a supervisor stays in the
background as long as descendants of CMD live on.`

	runExample = `  # No privileges: on a host without IPv4, through the network's NAT64
  upconv run -- curl http://203.0.113.10/

  # No privileges: curl starts where there is no network at all, and reaches 203.0.113.10 through here
  upconv run --isolate -- curl http://203.0.113.10/

  # A service in the namespace "v6only"; IPv4 goes out through the namespace "dualstack"
  upconv run --netns v6only --via netns:dualstack -- ./service

  # One address elsewhere, one port refused, and a record of every decision
  upconv run --rule '198.51.100.0/24:443/tcp=netns:partner' --rule '*:25=reject:ECONNREFUSED' \
      --via netns:dualstack --events decisions.jsonl -- ./service

  # The rules from a file
  upconv run --config policy.yaml -- ./service

  # A service that connects its datagram sockets, and sends much by sendmsg(2) over TCP
  upconv run --udp connected --via netns:dualstack -- ./service

  # One that sends many datagrams without connect(2), and none to its own namespace
  upconv run --swap-at socket --udp connected --via netns:dualstack -- ./service`
)

func newRun() *cobra.Command {
	var (
		cfg    upconv.Config
		routes routeFlags
	)
	cmd := &cobra.Command{
		Use:     "run [flags] -- CMD [ARG...]",
		Short:   "Run a command that may use IPv4 where there is none",
		Long:    runLong,
		Example: runExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("no command given: upconv run [flags] -- CMD [ARG...] (try 'upconv run --help')")
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.Args = args
			return runCommand(cmd, &cfg, &routes)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // flags behind CMD are CMD's
	flags.SortFlags = false
	routes.addTo(cmd)
	flags.StringVar(&cfg.Netns, "netns", "", "start CMD in this network namespace: `NAME` of ip-netns(8) or /PATH")
	flags.BoolVar(&cfg.Isolate, "isolate", false, "start CMD in a new network namespace with only loopback; no privileges\nneeded; --via is then netns:host unless given")
	flags.StringVar(&cfg.Events, "events", "", "append one JSON object per decision to `FILE`; - is standard error")
	flags.StringVar(&cfg.LogLevel, "log-level", "warn", "upconv's own messages, on standard error: debug, info, warn or error")
	flags.StringVar(&cfg.LogFormat, "log-format", "text", "text or json")
	cmd.RegisterFlagCompletionFunc("netns", completeNamespaces(""))
	cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// runCommand runs cfg.Args as the flags say.
func runCommand(cmd *cobra.Command, cfg *upconv.Config, routes *routeFlags) error {
	if err := routes.readModes(cmd, cfg); err != nil {
		return err
	}
	switch {
	case cfg.Isolate && cfg.Netns != "":
		return errors.New("--isolate and --netns both say where the command starts; choose one")
	case cmd.Flags().Changed("netns") && cfg.Netns == "":
		return errNoNamespace
	case cmd.Flags().Changed("events") && cfg.Events == "":
		return errors.New("--events: no file given; - is standard error")
	case cfg.Isolate && !cmd.Flags().Changed("via"):
		routes.via = "netns:" + policy.Host
	case !routed(cmd):
		return runUnrouted(cfg)
	}
	if err := routes.readRoutes(cmd, cfg); err != nil {
		return err
	}
	return run(cfg)
}

// run runs the command and returns its exit status as an error.
func run(cfg *upconv.Config) error {
	status, err := upconv.Run(cfg)
	if err != nil {
		return &upconv.Error{Status: status, Err: err}
	}
	return exitStatus(status)
}

// runUnrouted is for a command line without any route.
func runUnrouted(cfg *upconv.Config) error {
	native, err := doctor.HasIPv4DefaultRoute(cfg.Netns)
	if err != nil {
		return err
	}
	if !native {
		cfg.Via = policy.Route{Kind: policy.NAT64, Target: policy.AutoPrefix}
		return run(cfg)
	}
	log, err := upconv.NewLogger(cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return err
	}
	log.Warn("nothing to do: there is an IPv4 default route, and no --via or --rule was given; running the command as it is")
	return upconv.Exec(cfg.Args, cfg.Netns)
}

// indent moves every line to the right, below the message that it belongs to.
func indent(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") }
