package demo

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	batch   = 50 // connects in a row
	batches = 10 // of each side

	bulk       = 32 << 20 // bytes over one connection
	bulkBuffer = 256 << 10
	bulkRounds = 16          // of each side, at most
	bulkTime   = time.Second // no new round after that
)

// task is what the bench client is told to do, as JSON on standard input; it answers with a result.
type (
	task struct {
		Connects int   // so many
		Bytes    int64 // receive so many over one connection
	}
	result struct {
		Took []time.Duration // each connect(2), or from the request to the last byte
	}
)

// Bench is a client that connects and receives when told so, and says how long each took. It ends
// with its input and returns the exit status.
func Bench(in io.Reader, out io.Writer, connectTo, bulkFrom string) (status int, err error) {
	connectPeer, err := netip.ParseAddrPort(connectTo)
	if err != nil {
		return exitStep, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tasks, results := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var t task
		switch err := tasks.Decode(&t); {
		case errors.Is(err, io.EOF):
			return 0, nil
		case err != nil:
			return exitStep, err
		}
		var r result
		for range t.Connects {
			took, err := timeConnect(connectPeer)
			if err != nil {
				return exitStep, err
			}
			r.Took = append(r.Took, took)
		}
		if t.Bytes > 0 {
			took, err := timeReceive(bulkFrom, t.Bytes)
			if err != nil {
				return exitStep, err
			}
			r.Took = append(r.Took, took)
		}
		if err := results.Encode(r); err != nil {
			return exitStep, err
		}
	}
}

// timeConnect times one blocking connect(2) alone: not socket(2), not close(2).
func timeConnect(peer netip.AddrPort) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	sa := &unix.SockaddrInet4{Addr: peer.Addr().As4(), Port: int(peer.Port())}
	began := time.Now()
	err = unix.Connect(fd, sa)
	took := time.Since(began)
	return took, os.NewSyscallError("connect", err)
}

// timeReceive times n bytes over one connection, which is made before.
func timeReceive(address string, n int64) (time.Duration, error) {
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	buf := make([]byte, bulkBuffer)
	began := time.Now()
	if err := binary.Write(conn, binary.BigEndian, n); err != nil {
		return 0, err
	}
	for n > 0 {
		got, err := conn.Read(buf)
		if err != nil {
			return 0, fmt.Errorf("%d bytes are missing: %w", n, err)
		}
		n -= int64(got)
	}
	return time.Since(began), nil
}

// bencher is a running bench client.
type bencher struct {
	name    string
	tasks   *json.Encoder
	results *json.Decoder
	hangUp  func() error // ends it, and returns how it ended, also when called again
}

// newBencher starts a bench client by the given function, which is to run it with these standard
// streams and return when it has ended.
func newBencher(name string, run func(stdin io.Reader, stdout io.Writer) error) (*bencher, error) {
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		inRead.Close()
		inWrite.Close()
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		err := run(inRead, outWrite)
		inRead.Close()
		outWrite.Close() // the client's copy is gone too: now results end
		ended <- err
	}()
	return &bencher{
		name:    name,
		tasks:   json.NewEncoder(inWrite),
		results: json.NewDecoder(outRead),
		hangUp: sync.OnceValue(func() error {
			inWrite.Close()
			err := <-ended
			outRead.Close()
			return err
		}),
	}, nil
}

// do has a task done whose connections the server is to see from the egress.
func (b *bencher) do(ctx context.Context, t task, s *server) ([]time.Duration, error) {
	var r result
	err := b.tasks.Encode(t)
	if err == nil {
		err = b.results.Decode(&r)
	}
	if err != nil {
		if ended := b.hangUp(); ended != nil {
			err = ended // which is why
		}
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	want := t.Connects
	if t.Bytes > 0 {
		want++
	}
	if len(r.Took) != want {
		return nil, fmt.Errorf("%s: %d figures instead of %d", b.name, len(r.Took), want)
	}
	for range want {
		select {
		case peer := <-s.connected:
			if peer.Addr().String() != egressAddr {
				return nil, fmt.Errorf("%s: the server saw a connection from %s instead of %s", b.name, peer.Addr(), egressAddr)
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: the server did not see every connection", b.name)
		}
	}
	return r.Took, nil
}

// cost is what was measured, each for native and for upconv.
type cost struct {
	connect [2]time.Duration // median
	receive [2]time.Duration // median, for bulk bytes
	rounds  int              // of receive
}

// measure has both clients take turns.
func measure(ctx context.Context, s *server, clients [2]*bencher) (*cost, error) {
	var connects, receives [2][]time.Duration
	for round := range batches {
		for _, i := range order(round) {
			took, err := clients[i].do(ctx, task{Connects: batch}, s)
			if err != nil {
				return nil, err
			}
			connects[i] = append(connects[i], took...)
		}
	}
	c := new(cost)
	for began := time.Now(); c.rounds < bulkRounds && (c.rounds == 0 || time.Since(began) < bulkTime); c.rounds++ {
		for _, i := range order(c.rounds) {
			took, err := clients[i].do(ctx, task{Bytes: bulk}, s)
			if err != nil {
				return nil, err
			}
			receives[i] = append(receives[i], took...)
		}
	}
	for i := range clients {
		c.connect[i], c.receive[i] = median(connects[i]), median(receives[i])
	}
	return c, nil
}

// order says who begins in a round: each as often as the other, so that going second is nobody's
// advantage.
func order(round int) [2]int {
	if round%2 == 0 {
		return [2]int{0, 1}
	}
	return [2]int{1, 0}
}

// median sorts what it is given, which must not be empty.
func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return (d[(len(d)-1)/2] + d[len(d)/2]) / 2
}

// rate says how fast n bytes in the given time are.
func rate(n int64, took time.Duration) string {
	bits := float64(n) * 8 / took.Seconds()
	if bits < 1e9 {
		return fmt.Sprintf("%.0f Mbit/s", bits/1e6)
	}
	return fmt.Sprintf("%.1f Gbit/s", bits/1e9)
}

func microseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f us", float64(d)/float64(time.Microsecond))
}
