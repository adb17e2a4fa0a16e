//go:build linux

// Package nsdial makes sockets in other network namespaces.
//
// A socket belongs to the network namespace of the thread that created it, for
// good, whoever holds the descriptor afterwards. So a program that stays where
// it is can use several networks at once: it only needs a thread over there
// that calls socket(2) for it. A [Namespace] keeps such threads.
//
//	blue, err := nsdial.OpenName("blue") // made with: ip netns add blue
//	if err != nil {
//		return err
//	}
//	defer blue.Close()
//	client := &http.Client{Transport: &http.Transport{DialContext: blue.DialContext}}
//
// A goroutine of the caller never changes its namespace, with the one exception
// of [Namespace.Enter], which is asked to do that. The threads that do change
// theirs are started when they are first needed, are locked to goroutines of
// this package, and are ended, never handed back to the Go runtime.
//
// # Privileges
//
// Opening a namespace takes the permission to open its file. Using it takes
// setns(2), that is CAP_SYS_ADMIN in the user namespace that owns it and in the
// caller's own, unless the calling process already lives there: then everything
// works for everybody. See [OpenCurrent].
//
// # Only the network
//
// A network namespace is not a mount namespace: /sys, and files such as
// /etc/resolv.conf, /etc/hosts and /etc/services, stay those of the process.
// In particular the convention of ip-netns(8) that /etc/netns/NAME/resolv.conf
// replaces /etc/resolv.conf is not followed; see [Namespace.Resolver].
package nsdial
