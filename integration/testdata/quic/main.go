// quic serve ADDR:PORT             serves QUIC: HTTP/3, and streams that echo
// quic get [udp4] ADDR:PORT BYTES  posts so many bytes by HTTP/3, reads as many back
// quic echo [udp4] ADDR:PORT BYTES does so on three streams of QUIC at once, from one socket
//
// With udp4 the socket is AF_INET; otherwise it is what quic-go makes by itself, AF_INET6 for both
// families.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

const echoes = "upconv-echo"

func main() {
	log.SetFlags(0)
	args := os.Args[1:]
	network := "udp"
	if len(args) > 1 && args[1] == "udp4" {
		network = "udp4"
		args = append(args[:1], args[2:]...)
	}
	if len(args) < 2 {
		log.Fatal("usage: quic serve ADDR:PORT | get [udp4] ADDR:PORT BYTES | echo [udp4] ADDR:PORT BYTES")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	var err error
	switch args[0] {
	case "serve":
		err = serve(args[1])
	case "get":
		err = get(ctx, network, args[1], args[2])
	case "echo":
		err = echo(ctx, network, args[1], args[2])
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(addr string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}, NextProtos: []string{echoes, http3.NextProtoH3}}
	listener, err := quic.ListenAddr(addr, config, nil)
	if err != nil {
		return err
	}
	fmt.Println("serving")
	web := &http3.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			log.Print(err)
			return
		}
		w.Write(body)
	})}
	for {
		conn, err := listener.Accept(context.Background())
		if err != nil {
			return err
		}
		if conn.ConnectionState().TLS.NegotiatedProtocol == http3.NextProtoH3 {
			go web.ServeQUICConn(conn)
			continue
		}
		go func() {
			for {
				stream, err := conn.AcceptStream(context.Background())
				if err != nil {
					return
				}
				go func() {
					io.Copy(stream, stream)
					stream.Close()
				}()
			}
		}()
	}
}

// transport is one socket.
func transport(network string) (*quic.Transport, error) {
	conn, err := net.ListenUDP(network, nil)
	return &quic.Transport{Conn: conn}, err
}

func dial(ctx context.Context, t *quic.Transport, addr, proto string) (*quic.Conn, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	return t.Dial(ctx, to, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}}, nil)
}

func get(ctx context.Context, network, addr, size string) error {
	t, err := transport(network)
	if err != nil {
		return err
	}
	defer t.Close()
	data := noise(size)
	client := &http.Client{Transport: &http3.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		Dial: func(ctx context.Context, addr string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
			to, err := net.ResolveUDPAddr("udp", addr)
			if err != nil {
				return nil, err
			}
			return t.Dial(ctx, to, tlsConfig, config)
		},
	}}
	for range 2 { // the second over the same connection
		request, err := http.NewRequestWithContext(ctx, "POST", "https://"+addr+"/", bytes.NewReader(data))
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		fmt.Println(response.Proto, response.Status, len(body), sha256.Sum256(body) == sha256.Sum256(data))
	}
	return nil
}

func echo(ctx context.Context, network, addr, size string) error {
	t, err := transport(network)
	if err != nil {
		return err
	}
	defer t.Close()
	data := noise(size)
	conn, err := dial(ctx, t, addr, echoes)
	if err != nil {
		return err
	}
	fmt.Println("connected to", conn.RemoteAddr(), conn.ConnectionState().TLS.NegotiatedProtocol)
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			stream, err := conn.OpenStreamSync(ctx)
			if err != nil {
				log.Fatal(err)
			}
			go func() {
				stream.Write(data)
				stream.Close()
			}()
			back, err := io.ReadAll(stream)
			fmt.Println(len(back), sha256.Sum256(back) == sha256.Sum256(data), err)
		})
	}
	group.Wait()
	return conn.CloseWithError(0, "")
}

func noise(size string) []byte {
	n, err := strconv.Atoi(size)
	if err != nil {
		log.Fatal(err)
	}
	data := make([]byte, n)
	rand.Read(data)
	return data
}
