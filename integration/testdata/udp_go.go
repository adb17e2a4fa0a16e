// udp_go ADDRESS:PORT: Go's ways to send a datagram, each of which must come back.
package main

import (
	"fmt"
	"log"
	"net"
	"time"

	"os"
)

func main() {
	log.SetFlags(0)
	to, err := net.ResolveUDPAddr("udp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	data := make([]byte, 100)
	for _, network := range []string{"udp", "udp4"} {
		conn, err := net.Dial(network, os.Args[1])
		if err != nil {
			log.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(conn, "echo 1")
		n, err := conn.Read(data)
		fmt.Println("Dial", network, string(data[:n]), err, conn.RemoteAddr())
		for _, bind := range []string{":0", "0.0.0.0:0"} {
			conn, err := net.ListenPacket(network, bind)
			if err != nil {
				log.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			for range 3 {
				_, err = conn.WriteTo([]byte("echo 2"), to)
				n, from, err2 := conn.ReadFrom(data)
				fmt.Println("ListenPacket", network, bind, string(data[:n]), err, from, err2)
			}
			_, err = conn.(*net.UDPConn).WriteToUDPAddrPort([]byte("echo 3"), to.AddrPort())
			n, _, flags, from, err2 := conn.(*net.UDPConn).ReadMsgUDP(data, make([]byte, 100))
			fmt.Println("ReadMsgUDP", network, bind, string(data[:n]), flags, err, from, err2)
			conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			_, _, err = conn.ReadFrom(data)
			fmt.Println(err.(net.Error).Timeout())
		}
	}
}
