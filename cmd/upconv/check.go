package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/upconv/upconv/upconv"
	"github.com/upconv/upconv/upconv/policy"
)

func newCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE...",
		Short: "Check policy files",
		Long: `Read policy files, and say what is in them or everything that is wrong with them. Nothing is run.

A policy file is YAML; docs/policy.schema.json is its JSON Schema.

  version: 1
  egress:
    - to: [10.0.0.0/8, 192.168.0.0/16]
      via: direct
    - to: 203.0.113.7
      ports: 443, 8000-8999
      proto: tcp
      via: netns:partner
    - to: "*"
      via: netns:dualstack

The first rule that matches a destination decides its route. "to" is an address, a prefix or "*", in quotes;
"ports" one or several ports and ranges, all of them if left out; "proto" is tcp or udp, both if left out. "to"
and "ports" may be lists. For "via" see ROUTE in upconv run --help. Rules that never apply because earlier ones
take all of their destinations are errors.

"eam", beside "egress", maps IPv4 prefixes to IPv6 prefixes (RFC 7757), for destinations whose route is nat64:

  eam:
    - {ipv4: 192.0.2.0/24, ipv6: 2001:db8:aaaa::/120}

"udp" (full, connected or off) and "swapAt" (connect or socket), beside "egress" too, are the flags --udp and --swap-at of
upconv run, which win over the file:

  udp: connected
  swapAt: connect

With swapAt: socket all routes must be direct, reject or to one and the same netns.

The exit status is 0 if all files are good, and otherwise 125.`,
		Example: `  upconv check policy.yaml

  # In an editor that takes compilers' messages
  upconv check policy.yaml 2>&1 | grep '^upconv: ' | sed 's/^upconv: //'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("no file given: upconv check FILE... (try 'upconv check --help')")
			}
			return nil
		},
		ValidArgsFunction: completePolicyFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			bad := false
			for _, path := range args {
				file, err := policy.ReadFile(path)
				if err != nil {
					tell(cmd.ErrOrStderr(), err)
					bad = true
					continue
				}
				summarize(cmd.OutOrStdout(), file)
			}
			if bad {
				return exitStatus(upconv.ExitFailed)
			}
			return nil
		},
	}
}

// summarize says in a few lines what was understood.
func summarize(out io.Writer, file *policy.File) {
	fmt.Fprintf(out, "%s: good: %s", file.Name, count(file.Written, "rule"))
	if n := len(file.Mappings); n > 0 {
		fmt.Fprintf(out, ", %s", count(n, "eam mapping"))
	}
	routes := file.Routes()
	if len(routes) > 0 {
		fmt.Fprintf(out, "; routes %s", some(routes))
	}
	if file.UDP != policy.UDPFull {
		fmt.Fprintf(out, "; udp %s", file.UDP)
	}
	if file.SwapAt != policy.SwapAtConnect {
		fmt.Fprintf(out, "; swapAt %s", file.SwapAt)
		if !slices.ContainsFunc(routes, func(r policy.Route) bool { return r.Kind == policy.Netns }) {
			fmt.Fprint(out, ", which needs a netns route from --rule or --via")
		}
	}
	fmt.Fprintln(out)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// some lists the first routes.
func some(routes []policy.Route) string {
	const most = 6
	var texts []string
	for _, r := range routes[:min(most, len(routes))] {
		texts = append(texts, r.String())
	}
	if more := len(routes) - most; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ", ")
}

// tell prints an error, with the text and carets under what is wrong where it has a place.
func tell(out io.Writer, err error) {
	var (
		syntax *policy.SyntaxError
		file   policy.FileErrors
	)
	if errors.As(err, &file) {
		for _, e := range file {
			fmt.Fprintf(out, "upconv: %v\n%s\n", e, indent(e.Caret()))
		}
		return
	}
	fmt.Fprintf(out, "upconv: %v\n", err)
	if errors.As(err, &syntax) {
		fmt.Fprintln(out, indent(syntax.Caret()))
	}
}
