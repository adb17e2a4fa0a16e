// Command upconv lets programs that only know IPv4 work where there is no IPv4.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/upconv/upconv/upconv"
)

// Before main the goroutine is in the main thread; upconv.SupervisorMain needs it to stay there.
func init() { runtime.LockOSThread() }

func main() {
	if upconv.IsSupervisor() {
		upconv.SupervisorMain()
	}
	os.Exit(execute(newRoot()))
}

// exitStatus is an error that has been told already, or needs no words: only its status is left.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// execute runs the command line and returns the exit status. Everything that keeps a command from
// being run, wrong usage too, ends with 125, as for env(1) or timeout(1).
func execute(root *cobra.Command) int {
	err := root.Execute()
	var (
		status exitStatus
		own    *upconv.Error
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	tell(root.ErrOrStderr(), err)
	if errors.As(err, &own) {
		return own.Status
	}
	return upconv.ExitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "upconv",
		Short: "Let programs that only know IPv4 work where there is no IPv4",
		Long: `upconv runs a program whose network namespace has no IPv4, and lets it use IPv4 all the same.

It stops the program's connect(2), and its sends of datagrams, with a seccomp filter, makes an equivalent socket where the
destination is reachable, and swaps it in under the same descriptor. The kernel moves the data:
no proxy, no preload, no change to the program, native throughput.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, args []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w (try '%s --help')", err, cmd.CommandPath())
	})
	root.AddCommand(newRun(), newCheck(), newExplain(), newDemo(), newDoctor(), newVersion())
	return root
}
