package sockstate

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

// TestMappedOptions has IPv4 options that are set before or after the swap take effect on IPv6.
func TestMappedOptions(t *testing.T) {
	read := func(fd, level, name int) (value int32) {
		linux.Getsockopt(fd, level, name, unsafe.Pointer(&value), 4)
		return value
	}
	write := func(fd, level, name int, value int32) {
		if errno := linux.Setsockopt(fd, level, name, unsafe.Pointer(&value), 4); errno != 0 {
			t.Fatal(level, name, errno)
		}
	}
	var s struct {
		fresh FreshSockets
		used  OptionsUsed
	}
	freshOf := func(domain int) int {
		fd, errno := linux.NewSocket(domain, unix.SOCK_STREAM, unix.IPPROTO_TCP)
		if errno != 0 {
			t.Fatal(errno)
		}
		t.Cleanup(func() { linux.Close(fd) })
		return fd
	}
	s.fresh.inet.learn(freshOf(unix.AF_INET), unix.AF_INET)
	values := []struct {
		inet, inet6 int
		value       int32
	}{
		{unix.IP_TOS, unix.IPV6_TCLASS, 0x10}, {unix.IP_TTL, unix.IPV6_UNICAST_HOPS, 33}, {unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, 3},
		{unix.IP_RECVERR, unix.IPV6_RECVERR, 1}, {unix.IP_MINTTL, unix.IPV6_MINHOPCOUNT, 5},
	}
	old, before, after, untouched := freshOf(unix.AF_INET), freshOf(unix.AF_INET6), freshOf(unix.AF_INET6), freshOf(unix.AF_INET6)
	for _, v := range values {
		s.used.Set(RowOf(unix.IPPROTO_IP, v.inet))
		write(old, unix.IPPROTO_IP, v.inet, v.value)
		write(after, unix.IPPROTO_IP, v.inet, v.value)
		MapOption(after, v.inet)
	}
	CopyMapped(&s.fresh.inet, &s.used, old, before)
	CopyMapped(&s.fresh.inet, &s.used, freshOf(unix.AF_INET), untouched)
	fresh := freshOf(unix.AF_INET6)
	for _, v := range values {
		for _, fd := range []int{before, after} {
			if got := read(fd, unix.IPPROTO_IPV6, v.inet6); got != v.value {
				t.Errorf("option %d of IPv6 is %d, want %d", v.inet6, got, v.value)
			}
		}
		if got, want := read(untouched, unix.IPPROTO_IPV6, v.inet6), read(fresh, unix.IPPROTO_IPV6, v.inet6); got != want {
			t.Errorf("option %d of IPv6 is %d where nothing was set, want %d", v.inet6, got, want)
		}
	}
}
