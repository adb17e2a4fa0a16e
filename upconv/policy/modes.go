package policy

import (
	"fmt"
	"slices"
	"strings"
)

// UDPMode says which calls on datagram sockets follow the policy.
type UDPMode uint8

// The modes for datagrams. The zero value is UDPFull.
const (
	// UDPFull: connect(2), and every sendto(2), sendmsg(2) and sendmmsg(2) with an address.
	UDPFull UDPMode = iota
	// UDPConnected: connect(2) only. Nothing on the send path is stopped, so that it costs nothing,
	// and what is sent through a socket that is not connected stays in the origin.
	UDPConnected
	// UDPOff: none. Datagram sockets are left alone.
	UDPOff
)

var udpModes = []string{UDPFull: "full", UDPConnected: "connected", UDPOff: "off"}

// String returns the mode as ParseUDPMode reads it.
func (m UDPMode) String() string { return nameOf(udpModes, m) }

// ParseUDPMode reads full, connected or off. The error is a *SyntaxError.
func ParseUDPMode(s string) (UDPMode, error) {
	return parseName[UDPMode]("UDP mode", s, udpModes, map[string]string{
		"on": "full", "all": "full", "yes": "full", "true": "full", "connect": "connected", "none": "off", "no": "off", "false": "off",
	})
}

// SwapAt is the call at which a socket of the egress takes the place of the program's own.
type SwapAt uint8

// The calls to swap at. The zero value is SwapAtConnect.
const (
	// SwapAtConnect: when the destination is known, at connect(2) or at the first send with an
	// address.
	SwapAtConnect SwapAt = iota
	// SwapAtSocket: socket(2) itself is answered with a socket of the egress. A connect, bind or
	// first send that turns out to be local swaps back. Only for policies whose routes are direct,
	// reject and those to one namespace, see Policy.CheckSwapAt. In the mode UDPConnected a
	// datagram socket that is not connected stays one of the egress, whatever is sent through it: a
	// send to a local address then arrives at the egress itself. In UDPOff it is for stream sockets
	// only.
	SwapAtSocket
)

var swapCalls = []string{SwapAtConnect: "connect", SwapAtSocket: "socket"}

// String returns the call as ParseSwapAt reads it.
func (a SwapAt) String() string { return nameOf(swapCalls, a) }

// ParseSwapAt reads connect or socket. The error is a *SyntaxError.
func ParseSwapAt(s string) (SwapAt, error) {
	return parseName[SwapAt]("call to swap at", s, swapCalls, nil)
}

func nameOf[T ~uint8](names []string, value T) string {
	if int(value) < len(names) {
		return names[value]
	}
	return fmt.Sprintf("%d", uint8(value))
}

// parseName returns the index of a name. others are what the names may be called by mistake.
func parseName[T ~uint8](what, s string, names []string, others map[string]string) (T, error) {
	if i := slices.Index(names, s); i >= 0 {
		return T(i), nil
	}
	lower := strings.ToLower(s)
	meant := others[lower]
	if meant == "" {
		meant = closest(lower, names)
	}
	msg := "it is " + strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
	if meant != "" {
		msg = fmt.Sprintf("did you mean %s?", meant)
	}
	return 0, &SyntaxError{What: what, Input: s, End: len(s), Msg: msg}
}

// CheckSwapAt returns an error if the policy's routes do not allow to swap at that call. At
// socket(2) the destination is not known: so there can be one namespace only where sockets are
// made, and no other address family.
func (p *Policy) CheckSwapAt(at SwapAt) error {
	if at != SwapAtSocket {
		return nil
	}
	namespace := ""
	fail := func(format string, args ...any) error {
		return fmt.Errorf("cannot swap at socket(2): %s; swap at connect(2) instead", fmt.Sprintf(format, args...))
	}
	for i := range p.rules {
		if wrong := notAtSocket(&p.rules[i].Route, &namespace); wrong != "" {
			return fail("%s: %s", p.ruleAt(i), wrong)
		}
	}
	if wrong := notAtSocket(&p.fallback, &namespace); wrong != "" {
		return fail("the route of what no rule matches, %s: %s", p.fallback, wrong)
	}
	if namespace == "" {
		return fail("no route is to a network namespace, and so there is none to make sockets in")
	}
	return nil
}

// ruleAt is what errors call a rule whose number helps to find it.
func (p *Policy) ruleAt(i int) string {
	if r := &p.rules[i]; r.From != (Source{}) {
		return fmt.Sprintf("rule %s, %s: %q", p.positions[i], r.From, r)
	}
	return fmt.Sprintf("rule %s, %q", p.positions[i], p.rules[i])
}

// notAtSocket returns why a route cannot be swapped to at socket(2), or "". namespace is that of
// the routes before it, "" where they have none yet.
func notAtSocket(r *Route, namespace *string) string {
	switch {
	case r.Crosses():
		return "a socket of another family can only be made when the destination is known"
	case r.Kind == Netns && *namespace == "":
		*namespace = r.Target
	case r.Kind == Netns && *namespace != r.Target:
		return fmt.Sprintf("a second namespace after %s, and before the destination is known there can be only one", *namespace)
	}
	return ""
}
