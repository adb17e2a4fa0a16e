package sockstate

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Option copying: what was set is set, what was not is left to the new socket's own defaults.
func TestCopyOptions(t *testing.T) {
	tcp := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	var d Defaults
	d.learn(tcp(), unix.AF_INET)
	from, to := tcp(), tcp()
	set := []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.IPPROTO_IP, unix.IP_TOS, 0x10},
		{unix.IPPROTO_IP, unix.IP_TTL, 33},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 77},
		{unix.IPPROTO_TCP, unix.TCP_SYNCNT, 3},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 4321},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, 50000},
	}
	for _, o := range set {
		if err := unix.SetsockoptInt(from, o.level, o.name, o.value); err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
	}
	if err := unix.SetsockoptLinger(from, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 9}); err != nil {
		t.Fatal(err)
	}
	// Already what the program wants, but not what a fresh socket has: must not be left alone.
	var used OptionsUsed
	for _, o := range set {
		if row := RowOf(o.level, o.name); row >= 0 && !Options[row].Always {
			used.Set(row)
		}
	}
	if lost := d.CopyOptions(&used, from, to, &Socket{Domain: unix.AF_INET, Kind: unix.SOCK_STREAM}, false); lost != "" {
		t.Fatal(lost)
	}
	for _, o := range set {
		want, _ := unix.GetsockoptInt(from, o.level, o.name)
		if got, err := unix.GetsockoptInt(to, o.level, o.name); err != nil || got != want {
			t.Errorf("option %d of level %d: %d, %v, want %d", o.name, o.level, got, err, want)
		}
	}
	if lock, err := unix.GetsockoptInt(to, unix.SOL_SOCKET, unix.SO_BUF_LOCK); err != nil || lock != rcvbufLock {
		t.Errorf("SO_BUF_LOCK %d, %v, want only the receive buffer locked: the other one must go on tuning itself", lock, err)
	}

	untouched, plain := tcp(), tcp()
	used.SetAll()
	d.CopyOptions(&used, untouched, plain, &Socket{Domain: unix.AF_INET, Kind: unix.SOCK_STREAM}, false)
	if lock, _ := unix.GetsockoptInt(plain, unix.SOL_SOCKET, unix.SO_BUF_LOCK); lock != 0 {
		t.Errorf("SO_BUF_LOCK %d on a socket that nobody touched", lock)
	}
}

func BenchmarkCopyOptions(b *testing.B) {
	from, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	to, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	defer unix.Close(from)
	defer unix.Close(to)
	var d Defaults
	var used OptionsUsed
	d.learn(to, unix.AF_INET)
	b.ReportAllocs()
	for b.Loop() {
		d.CopyOptions(&used, from, to, &Socket{Domain: unix.AF_INET, Kind: unix.SOCK_STREAM}, false)
	}
}
