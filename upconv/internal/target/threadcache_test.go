package target

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
	"github.com/upconv/upconv/upconv/internal/linux"
	"github.com/upconv/upconv/upconv/internal/testkit"
)

// A targetProcess is cat(1), blocked in reading standard input.
func targetProcess(t *testing.T) (pid int, kill func()) {
	t.Helper()
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	dead := false
	kill = func() {
		if !dead {
			dead = true
			cmd.Process.Kill()
			cmd.Wait()
			stdin.Close()
		}
	}
	t.Cleanup(kill)
	return cmd.Process.Pid, kill
}

func TestThreads(t *testing.T) {
	before := testkit.OpenFDs(t)
	all, err := NewThreads(seccompx.PidfdThread.Probe() == nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	pid, kill := targetProcess(t)
	for range 3 {
		fd, errno := all.Getfd(pid, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		var mine, theirs unix.Stat_t
		if err := unix.Fstat(fd, &mine); err != nil {
			t.Fatal(err)
		}
		if err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/fd/0", &theirs); err != nil {
			t.Fatal(err)
		}
		if mine.Ino != theirs.Ino {
			t.Errorf("got file %d, want %d", mine.Ino, theirs.Ino)
		}
		unix.Close(fd)
	}
	if _, errno := all.Getfd(pid, 999); errno != unix.EBADF {
		t.Errorf("descriptor 999: %v, want EBADF", errno)
	}
	slot := all.slot(pid)
	cached := func() bool {
		slot.mu.Lock()
		defer slot.mu.Unlock()
		return slot.tid == pid
	}
	if !cached() {
		t.Error("the pidfd is not kept")
	}
	kill()
	testkit.Until(t, "the entry of a dead thread is dropped", func() bool { return !cached() })
	if _, errno := all.Getfd(pid, 0); errno != unix.ESRCH {
		t.Errorf("a dead process: %v, want ESRCH", errno)
	}

	// An entry that is not this thread's: as after a tid has come round again.
	pid, kill = targetProcess(t)
	other, killOther := targetProcess(t)
	if fd, errno := all.Getfd(pid, 0); errno != 0 {
		t.Fatal(errno)
	} else {
		unix.Close(fd)
	}
	slot = all.slot(pid)
	slot.mu.Lock()
	stale, _, errno := all.Open(other)
	if errno != 0 {
		t.Fatal(errno)
	}
	unix.Close(slot.pidfd)
	slot.pidfd = stale
	slot.mu.Unlock()
	killOther()
	fd, errno := all.Getfd(pid, 0)
	if errno != 0 {
		t.Errorf("behind a stale entry: %v", errno)
	} else {
		unix.Close(fd)
	}
	kill()
	all.Close()
	testkit.Until(t, "no descriptor is left", func() bool { return testkit.OpenFDs(t) <= before })
}

func TestReadMemory(t *testing.T) {
	page, err := unix.Mmap(-1, 0, 2*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	size := os.Getpagesize()
	copy(page[size-8:], "12345678")
	if err := unix.Mprotect(page[size:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	end := uint64(uintptr(unsafe.Pointer(&page[0]))) + uint64(size)
	buf := make([]byte, 8)
	if errno := ReadMemory(os.Getpid(), end-8, buf); errno != 0 || string(buf) != "12345678" {
		t.Errorf("read %q, %v", buf, errno)
	}
	for name, addr := range map[string]uint64{"into an unreadable page": end - 4, "unreadable": end, "null": 0, "kernel": 1 << 63} {
		if errno := ReadMemory(os.Getpid(), addr, buf); errno != unix.EFAULT {
			t.Errorf("%s: %v, want EFAULT", name, errno)
		}
	}
	pid, kill := targetProcess(t)
	kill()
	if errno := ReadMemory(pid, end-8, buf); errno != unix.ESRCH {
		t.Errorf("dead process: %v, want ESRCH", errno)
	}
}

func TestCloseOnExec(t *testing.T) {
	var scratch [512]byte
	all, err := NewThreads(seccompx.PidfdThread.Probe() == nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	for _, want := range []bool{false, true} {
		flags := unix.O_RDONLY
		if want {
			flags |= unix.O_CLOEXEC
		}
		fd, err := unix.Open("/dev/null", flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		if first, errno := all.Getfd(os.Getpid(), fd); errno == 0 { // from here on the fdinfo file is kept
			unix.Close(first)
		}
		if info, errno := all.fdinfo(os.Getpid(), fd, scratch[:]); errno != 0 || info.Ino == 0 || info.Ino != linux.InodeOf(fd) {
			t.Errorf("descriptor %d: inode %d, %v, want %d", fd, info.Ino, errno, linux.InodeOf(fd))
		}
		if got, errno := all.CloseOnExec(os.Getpid(), fd, scratch[:]); errno != 0 || got != want {
			t.Errorf("got %v, %v, want %v", got, errno, want)
		}
		unix.FcntlInt(uintptr(fd), unix.F_SETFD, map[bool]int{true: 0, false: unix.FD_CLOEXEC}[want])
		if got, errno := all.CloseOnExec(os.Getpid(), fd, scratch[:]); errno != 0 || got == want {
			t.Errorf("after a change: got %v, %v, want %v", got, errno, !want)
		}
		unix.Close(fd)
		if _, errno := all.CloseOnExec(os.Getpid(), fd, scratch[:]); errno != unix.ENOENT {
			t.Errorf("just closed: %v, want ENOENT", errno)
		}
		if _, errno := all.CloseOnExec(os.Getpid(), 999_999, scratch[:]); errno != unix.ENOENT {
			t.Errorf("a closed descriptor: %v, want ENOENT", errno)
		}
	}
}
