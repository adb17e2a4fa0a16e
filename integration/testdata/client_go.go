// usage: client_go dial|http|transfer ADDR:PORT
//
// dial and http print what they read. transfer sends 8 MB while it reads to the end, and prints the
// checksums of what went out and what came in.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(how, addr string) error {
	if how == "http" {
		resp, err := http.Get("http://" + addr + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(os.Stdout, resp.Body)
		return err
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if how == "dial" {
		_, err = io.Copy(os.Stdout, conn)
		return err
	}
	sent, sending := sha256.New(), make(chan error)
	go func() {
		data := io.LimitReader(rand.NewChaCha8([32]byte{1}), 8<<20)
		_, err := io.Copy(io.MultiWriter(conn, sent), data)
		conn.(*net.TCPConn).CloseWrite()
		sending <- err
	}()
	read := sha256.New()
	if _, err := io.Copy(read, conn); err != nil {
		return err
	}
	if err := <-sending; err != nil {
		return err
	}
	fmt.Printf("sent %x read %x\n", sent.Sum(nil), read.Sum(nil))
	return nil
}
