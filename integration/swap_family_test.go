package integration

import (
	"net"
	"syscall"
	"testing"
)

// TestSwapFamilies is about IPv4-mapped addresses, MPTCP, TCP Fast Open, and what is left alone.
func TestSwapFamilies(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	host, port := split(t, l.greet())
	compareSwaps(t, l, "swap_family.c", host+":"+port, []swapCase{
		{args: []string{"v6only"}, want: "IPV6_V6ONLY: -1 ENETUNREACH; not any more: 0; greeting: hello " + egressAddr},
		{args: []string{"mptcp"}, want: "connect: 0; getpeername: 0; greeting: hello " + egressAddr},
	})
	plain := l.listen(serverAddr + ":0")
	echo(plain)
	compareSwaps(t, l, "swap_family.c", plain.Addr().String(), []swapCase{
		{name: "MSG_FASTOPEN without a cookie", args: []string{"fastopen"}, want: "sent: 3000; sent: -1 EINPROGRESS; back: 10 bytes, sum 5cc44db1823; refused: -1 ECONNREFUSED"},
		{name: "TCP_FASTOPEN_CONNECT without a cookie", args: []string{"fastopen-connect"}, want: "connect: -1 EINPROGRESS; connect again: 0; state: SYN_SENT"},
	})

	output(t, l.in(l.serverName, "sh", "-c", "echo 3 >/proc/sys/net/ipv4/tcp_fastopen"))
	fast := l.listen(serverAddr + ":0")
	raw, err := fast.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		const tcpFastopen = 23
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpFastopen, 100)
	})
	if err != nil {
		t.Fatal(err)
	}
	echo(fast)
	compareSwaps(t, l, "swap_family.c", fast.Addr().String(), []swapCase{
		{name: "MSG_FASTOPEN", args: []string{"fastopen"}, want: "sent: 3000; sent: 10; back: 10 bytes, sum 5cc44db1823; then elsewhere: 10"},
		{name: "TCP_FASTOPEN_CONNECT", args: []string{"fastopen-connect"}, want: "state: begun poll: 4; write: 10; state: SYN_SENT"},
	})

	t.Run("others are left alone", func(t *testing.T) {
		args := []string{compileC(t, "swap_family.c", "gcc", "-static", "-pthread"), "others", host, port}
		sameOutput(t, output(t, l.plain(args...)), output(t, l.under(args...)))
	})
}
