package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// completeNamespaces completes the names of ip-netns(8), each with a prefix before it.
func completeNamespaces(prefix string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if strings.HasPrefix(toComplete, prefix+"/") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		entries, _ := os.ReadDir("/run/netns")
		var names []string
		for _, entry := range entries {
			if name := prefix + entry.Name(); strings.HasPrefix(name, toComplete) {
				names = append(names, name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeRoutes(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	names, _ := completeNamespaces("netns:")(cmd, args, toComplete)
	for _, route := range []string{"direct", "nat64:auto", "nat64:", "inet6:", "unix:/", "unix:@", "netns:host", "reject", "reject:ECONNREFUSED"} {
		if strings.HasPrefix(route, toComplete) {
			names = append(names, route)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func completePolicyFiles(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
}
