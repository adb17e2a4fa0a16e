package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/upconv/upconv/cmd/upconv/internal/demo"
	"github.com/upconv/upconv/upconv"
)

func newDemo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work, in throw-away namespaces, without privileges",
		Long: `Show an IPv4-only client failing where there is no IPv4, and working there under upconv run.

Everything happens in network namespaces inside a user namespace that the demo makes for itself: an
origin with IPv6 only, an egress with IPv4, and a web server. No privileges are needed, nothing
outside is touched, no packet leaves, and it all vanishes with the demo's processes. The client is
curl where that is installed, and otherwise one that is built in.

Every step is checked, and every figure is measured while you watch. The exit status is 0 if all of
it really happened, 1 if a step failed, and 125 if this user may not make user namespaces.`,
		Example: `  upconv demo

  # Without colours
  NO_COLOR=1 upconv demo`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return asStatus(demo.Run(os.Stdout, os.Stderr))
		},
	}
	// The demo starts itself again under these.
	cmd.AddCommand(&cobra.Command{
		Use:    demo.StageCommand,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return asStatus(demo.Stage(cmd.Context(), os.Stdout))
		},
	}, &cobra.Command{
		Use:    demo.GetCommand + " URL",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return asStatus(demo.Get(cmd.Context(), os.Stdout, args[0]))
		},
	}, &cobra.Command{
		Use:    demo.BenchCommand + " CONNECT BULK",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return asStatus(demo.Bench(os.Stdin, os.Stdout, args[0], args[1]))
		},
	})
	return cmd
}

// asStatus turns what the demo returns into what execute takes: an error is still to be told.
func asStatus(status int, err error) error {
	if err != nil {
		return &upconv.Error{Status: status, Err: err}
	}
	return exitStatus(status)
}
