// family_go ADDR:PORT says whom it is connected to, who it is, and what it reads.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	conn, err := net.Dial("tcp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	text, err := io.ReadAll(conn)
	fmt.Println(conn.RemoteAddr(), conn.LocalAddr().(*net.TCPAddr).IP, string(text), err)
}
