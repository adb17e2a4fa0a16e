// resolve_go NAME ADDRESS looks a name up with Go's own resolver, and an address.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
)

func main() {
	r := &net.Resolver{PreferGo: true}
	addrs, err := r.LookupHost(context.Background(), os.Args[1])
	slices.Sort(addrs)
	fmt.Println(addrs, err)
	if err != nil {
		os.Exit(1)
	}
	fmt.Println(r.LookupTXT(context.Background(), os.Args[1]))
	fmt.Println(r.LookupAddr(context.Background(), os.Args[2]))
	_, err = r.LookupHost(context.Background(), "nonesuch.example")
	fmt.Println(err)
}
