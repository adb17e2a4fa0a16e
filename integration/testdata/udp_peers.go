// udp_peers PORT PEER...: as programs with peers do, it has one socket, bound to a port, that is
// read all the time, and sends to everybody. Each peer is sent fifty datagrams, and sends fifty
// back, some answers and some not. Sends are of one kind or the other by turns: WriteTo, and
// batches, which are sendmmsg(2).
package main

import (
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
)

const each = 50

func main() {
	log.SetFlags(0)
	at, err := net.ResolveUDPAddr("udp4", ":"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	conn, err := net.ListenUDP("udp4", at)
	if err != nil {
		log.Fatal(err)
	}
	conn.SetReadBuffer(4 << 20)
	var mu sync.Mutex
	got := map[string]map[string]bool{} // by peer
	all := make(chan struct{})
	go func() {
		batch := ipv4.NewPacketConn(conn)
		messages := make([]ipv4.Message, 16)
		for i := range messages {
			messages[i].Buffers = [][]byte{make([]byte, 2000)}
		}
		for {
			n, err := batch.ReadBatch(messages, 0)
			if err != nil {
				log.Fatal("read: ", err)
			}
			mu.Lock()
			total := 0
			for _, m := range messages[:n] {
				from := m.Addr.(*net.UDPAddr).AddrPort()
				peer := netip.AddrPortFrom(from.Addr().Unmap(), from.Port()).String()
				if got[peer] == nil {
					got[peer] = map[string]bool{}
				}
				got[peer][string(m.Buffers[0][:m.N])] = true
			}
			for _, texts := range got {
				total += len(texts)
			}
			mu.Unlock()
			if total == each*len(os.Args[2:]) {
				close(all)
				return
			}
		}
	}()
	batch := ipv4.NewPacketConn(conn)
	for i := range each {
		var messages []ipv4.Message
		for _, peer := range os.Args[2:] {
			to, err := net.ResolveUDPAddr("udp4", peer)
			if err != nil {
				log.Fatal(err)
			}
			text := fmt.Appendf(nil, "to %s: %d", peer, i)
			if i%2 == 0 {
				if _, err := conn.WriteTo(text, to); err != nil {
					log.Fatal("write: ", err)
				}
				continue
			}
			messages = append(messages, ipv4.Message{Buffers: [][]byte{text}, Addr: to})
		}
		for len(messages) > 0 {
			n, err := batch.WriteBatch(messages, 0)
			if err != nil {
				log.Fatal("write of many: ", err)
			}
			messages = messages[n:]
		}
		time.Sleep(time.Millisecond) // nobody's buffer shall overflow
	}
	select {
	case <-all:
	case <-time.After(10 * time.Second):
	}
	mu.Lock()
	for _, peer := range os.Args[2:] {
		answers := 0
		for text := range got[peer] {
			if strings.HasPrefix(text, "to "+peer+": ") {
				answers++
			}
		}
		fmt.Println(peer, len(got[peer]), "of which answers", answers)
	}
	fmt.Println(len(got), "peers")
}
