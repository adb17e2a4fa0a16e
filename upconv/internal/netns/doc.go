// Package netns is about where sockets are made: the network namespace that programs run in (the
// origin), and those in which IPv4 destinations are reachable (egresses).
package netns
