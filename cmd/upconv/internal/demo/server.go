package demo

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/upconv/upconv/nsdial"
)

const (
	pageAddr  = serverAddr + ":80"
	pageAddr6 = "[" + serverAddr6 + "]:80"
	pageURL   = "http://" + serverAddr + "/"
	pageURL6  = "http://[" + serverAddr6 + "]/"

	connectAddr = serverAddr + ":9"  // accepts and closes
	bulkAddr    = serverAddr + ":19" // sends as many bytes as it is asked for
)

// page is what the web server answers a client.
func page(client, server netip.Addr) string {
	return fmt.Sprintf("Hello %s, this is %s.\n", client, server)
}

// server is everything that listens in the server's namespace.
type server struct {
	mu       sync.Mutex
	visitors []netip.AddrPort // clients of the web server

	connected chan netip.AddrPort // each peer of the other two ports
}

func newServer(ctx context.Context, ns *nsdial.Namespace) (*server, error) {
	s := &server{connected: make(chan netip.AddrPort, max(batch, 16))}
	for _, l := range []struct {
		addr  string
		serve func(net.Listener)
	}{
		{pageAddr, func(l net.Listener) { http.Serve(l, s) }},
		{pageAddr6, func(l net.Listener) { http.Serve(l, s) }},
		{connectAddr, func(l net.Listener) { s.accept(l, func(net.Conn) {}) }},
		{bulkAddr, func(l net.Listener) { s.accept(l, send) }},
	} {
		listener, err := ns.Listen(ctx, "tcp", l.addr)
		if err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
		context.AfterFunc(ctx, func() { listener.Close() })
		go l.serve(listener)
	}
	return s, nil
}

// ServeHTTP answers with the page.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	client, err := netip.ParseAddrPort(r.RemoteAddr)
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if err != nil || !ok {
		http.Error(w, "who is there?", http.StatusInternalServerError)
		return
	}
	s.mu.Lock()
	s.visitors = append(s.visitors, client)
	s.mu.Unlock()
	io.WriteString(w, page(client.Addr(), local.AddrPort().Addr().Unmap()))
}

// newVisitors returns the clients of the web server since the last call.
func (s *server) newVisitors() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	visitors := s.visitors
	s.visitors = nil
	return visitors
}

// accept serves connections one after the other.
func (s *server) accept(l net.Listener, serve func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.connected <- conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		serve(conn)
		conn.Close()
	}
}

// send reads a number (8 bytes, big endian) and sends as many bytes.
func send(conn net.Conn) {
	var n int64
	if binary.Read(conn, binary.BigEndian, &n) != nil {
		return
	}
	for buf := make([]byte, bulkBuffer); n > 0; n -= int64(len(buf)) {
		if n < int64(len(buf)) {
			buf = buf[:n]
		}
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}
