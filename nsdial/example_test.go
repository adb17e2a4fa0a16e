//go:build linux

package nsdial_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/upconv/upconv/nsdial"
	"golang.org/x/sys/unix"
)

// A web client whose network is that of `ip netns add blue`.
func ExampleOpenName() {
	blue, err := nsdial.OpenName("blue")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer blue.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: blue.DialContext}}
	resp, err := client.Get("http://192.0.2.1/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
}

// A web server and its client in the namespace the program was started in, which
// takes no privileges. The transport uses an abstract Unix socket, which belongs
// to a network namespace just as a port does.
func ExampleNamespace_DialContext() {
	ns, err := nsdial.OpenCurrent()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ns.Close()

	l, err := ns.Listen(context.Background(), "unix", "@nsdial-example")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s", ns)
	})}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()

	client := &http.Client{Transport: &http.Transport{
		// For TCP: DialContext: ns.DialContext
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ns.DialContext(ctx, "unix", "@nsdial-example")
		},
	}}
	resp, err := client.Get("http://example/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", body)
	// Output: hello from current netns
}

// A socket of any kind, to be used with system calls.
func ExampleNamespace_Socket() {
	ns, err := nsdial.OpenCurrent()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ns.Close()
	fd, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer unix.Close(fd)
	fmt.Println("made")
	// Output: made
}
