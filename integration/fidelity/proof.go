package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An event says where a datagram went. That it went there from another socket than the program's
// own follows from the policy only, as the egress is the origin here. So that is tried: this
// program runs itself under upconv, and the kernel's names of its sockets (SO_COOKIE) must change
// when they are used, once.

// probing, in the environment, makes this program the one that tries.
const probing = "UPCONV_FIDELITY_PROBE"

// proof reports that the identity policy does not swap datagram sockets.
func (l *lab) proof() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	here, err := newPlace()
	if err != nil {
		return err
	}
	defer here.close()
	log, events := filepath.Join(l.scratch, "proof.log"), filepath.Join(l.scratch, "proof.events")
	os.Remove(events)
	if err := here.run(l.wrap([]string{self}, here, events), l.scratch, []string{probing + "=1"}, log, 20*time.Second); err != nil {
		return err
	}
	text, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(text)); got != probed {
		return fmt.Errorf("datagram sockets are not swapped as they should be: %s", got)
	}
	s, err := countSwaps(events)
	if err == nil && s.udp != probeEvents {
		err = fmt.Errorf("%d events say that datagrams went elsewhere, not %d", s.udp, probeEvents)
	}
	return err
}

const (
	probed      = "swapped, once each"
	probeEvents = 1 + 1 + 2 // sends have one for a destination, connects always
)

// probe swaps a socket in each of the ways, and says what came of it.
func probe() (string, error) {
	peer, to, err := bound()
	if err != nil {
		return "", err
	}
	for _, way := range []struct {
		name string
		use  func(fd int) error
	}{
		{"sendto", func(fd int) error { return unix.Sendto(fd, []byte("x"), 0, to) }},
		{"sendmsg", func(fd int) error { return unix.Sendmsg(fd, []byte("x"), nil, to, 0) }},
		{"connect", func(fd int) error { return errors.Join(unix.Connect(fd, to), unix.Send(fd, []byte("x"), 0)) }},
	} {
		fd, own, err := bound()
		if err != nil {
			return "", err
		}
		var cookies [3]uint64
		for i := range cookies {
			if i > 0 {
				if err := way.use(fd); err != nil {
					return "", fmt.Errorf("%s: %w", way.name, err)
				}
				var one [1]byte
				_, from, err := unix.Recvfrom(peer, one[:], 0)
				if err != nil {
					return "", fmt.Errorf("%s: nothing has come: %w", way.name, err)
				}
				if from.(*unix.SockaddrInet4).Port != own.(*unix.SockaddrInet4).Port {
					return way.name + ": it comes from another port than the program has bound", nil
				}
			}
			if cookies[i], err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
				return "", err
			}
		}
		switch {
		case cookies[0] == cookies[1]:
			return way.name + ": the socket is the program's own", nil
		case cookies[1] != cookies[2]:
			return way.name + ": a socket that was swapped is swapped again", nil
		}
	}
	return probed, nil
}

// bound returns a datagram socket with a port of 127.0.0.1, and waits at most two seconds for what
// it receives.
func bound() (fd int, name unix.Sockaddr, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, nil, err
	}
	err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}))
	if err == nil {
		name, err = unix.Getsockname(fd)
	}
	return fd, name, err
}
