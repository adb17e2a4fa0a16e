//go:build linux

package seccompx

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestSupervisorsRights: what the target is refused, it is given.
func TestSupervisorsRights(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root: the supervisor must have rights to lend")
	}
	text, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if err != nil {
		t.Skipf("needs a kernel with PERF_EVENTS: %v", err)
	}
	if level, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || level < 2 {
		t.Skipf("needs perf_event_paranoid of 2 or more, not %s", text)
	}
	event := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	open := func() result {
		fd, err := unix.PerfEventOpen(&event, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			return result{errno: err.(unix.Errno)}
		}
		return result{value: uintptr(fd)}
	}
	tg := newTarget(t, Filter{Rules: []Rule{{Syscalls: []string{"perf_event_open"}, Do: UserNotify}}}, withListener, false)
	tg.run(func() {
		var none [2]unix.CapUserData
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			t.Error(err)
		}
	})
	for _, lend := range []bool{false, true} {
		out := make(chan result, 1)
		tg.calls <- func() { out <- open() }
		var n Notification
		if err := tg.Receive(&n); err != nil {
			t.Fatal(err)
		}
		if !lend {
			if err := tg.Continue(n.ID); err != nil {
				t.Fatal(err)
			}
			wantErrno(t, "without help", <-out, unix.EACCES)
			continue
		}
		src, err := unix.PerfEventOpen(&event, int(n.PID), -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := tg.AddFD(n.ID, AddFD{Source: src, Send: true})
		unix.Close(src)
		if err != nil {
			t.Fatal(err)
		}
		r := <-out
		if r.errno != 0 || int(r.value) != fd {
			t.Fatalf("perf_event_open returned %v, AddFD %d", r, fd)
		}
		var count uint64
		for count == 0 {
			if _, err := unix.Read(fd, (*[8]byte)(unsafe.Pointer(&count))[:]); err != nil {
				t.Fatal(err)
			}
			tg.run(func() {})
		}
		unix.Close(fd)
	}
}
