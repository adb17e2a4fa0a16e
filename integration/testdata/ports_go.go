// Ports_go dials ADDR:PORT 200 times with a local address, which has Go bind each socket to port 0.
// All connections are open at a time. It prints how many there are, or what went wrong.
package main

import (
	"fmt"
	"net"
	"os"
)

func main() {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4zero}}
	var open []net.Conn
	for range 200 {
		conn, err := dialer.Dial("tcp4", os.Args[1])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		open = append(open, conn)
	}
	fmt.Println(len(open))
}
