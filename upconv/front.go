package upconv

import "github.com/upconv/upconv/upconv/policy"

// What package policy says, under the names that this package has for it.
type (
	Policy    = policy.Policy
	Rule      = policy.Rule
	Route     = policy.Route
	RouteKind = policy.RouteKind
	Proto     = policy.Proto
	Decision  = policy.Decision
	UDPMode   = policy.UDPMode
	SwapAt    = policy.SwapAt
)

const (
	TCP = policy.TCP
	UDP = policy.UDP

	Direct   = policy.Direct
	Netns    = policy.Netns
	NAT64    = policy.NAT64
	Inet6    = policy.Inet6
	UnixPath = policy.UnixPath
	Reject   = policy.Reject

	UDPFull      = policy.UDPFull
	UDPConnected = policy.UDPConnected
	UDPOff       = policy.UDPOff

	SwapAtConnect = policy.SwapAtConnect
	SwapAtSocket  = policy.SwapAtSocket

	RuleLocal   = policy.RuleLocal
	RuleDefault = policy.RuleDefault
)
