// usage: client_poller ADDR:PORT
//
// Reads the greeting over 20 sockets that the runtime's poller has, edge-triggered, before they are
// connected.
package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

func main() {
	where := netip.MustParseAddrPort(os.Args[1])
	results := make(chan string)
	const connections = 20
	for range connections {
		go func() {
			text, err := read(where)
			if err != nil {
				text += err.Error() + "\n"
			}
			results <- text
		}()
	}
	for range connections {
		fmt.Print(<-results)
	}
}

func read(where netip.AddrPort) (string, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	file := os.NewFile(uintptr(fd), "socket") // non-blocking, so the poller takes it
	defer file.Close()
	if err := file.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return "", err
	}
	begun := false
	var result error
	err = raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			result = syscall.Connect(int(fd), &syscall.SockaddrInet4{Addr: where.Addr().As4(), Port: int(where.Port())})
			return result != syscall.EINPROGRESS
		}
		if _, err := syscall.Getpeername(int(fd)); err == syscall.ENOTCONN {
			return false // woken early: an unconnected socket is writable, too
		}
		result = nil
		return true
	})
	if err != nil || result != nil {
		return "", fmt.Errorf("connect: %v, %v", err, result)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	data, err := io.ReadAll(conn)
	return string(data), err
}
