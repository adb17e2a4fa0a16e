package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/upconv/upconv/upconv/doctor"
)

func newDoctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this kernel and this user can do",
		Long: `Try out everything that upconv needs or can make use of, and say what is missing and what that costs.

The exit status is 0 if upconv run can work here, and 1 if it cannot.

About no_new_privs: the kernel lets a process install a seccomp filter if it has CAP_SYS_ADMIN, or if it
has given up gaining privileges by execve(2). With CAP_SYS_ADMIN upconv leaves commands as they are; without,
it sets no_new_privs, which all their descendants inherit and nobody can take back.`,
		Example: "  upconv doctor",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			able := true
			for _, c := range doctor.Diagnose() {
				mark := "ok"
				switch {
				case !c.OK && c.Needed:
					mark, able = "MISSING", false
				case !c.OK:
					mark = "-"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%-8s %-26s %s\n", mark, c.Name, c.Found)
				if c.Cost != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "%36s%s\n", "", strings.ReplaceAll(c.Cost, "\n", "\n"+strings.Repeat(" ", 36)))
				}
			}
			if !able {
				fmt.Fprintln(cmd.OutOrStdout(), "\nupconv run cannot work here.")
				return exitStatus(1)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "\nupconv run can work here.")
			return nil
		},
	}
}
