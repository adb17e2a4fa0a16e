package target

import (
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/upconv/internal/linux"
)

func TestIDsIn(t *testing.T) {
	const status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t9 10 \nNStgid:\t1\n"
	uid, gid, groups, ok := idsIn([]byte(status))
	if !ok || uid != 4 || gid != 8 || !slices.Equal(groups, []uint32{9, 10}) {
		t.Errorf("%d, %d, %v, %v", uid, gid, groups, ok)
	}
	if _, _, _, ok := idsIn([]byte("Name:\tx\nUid:\t1\t2\n")); ok {
		t.Error("a text without the IDs has some")
	}
}

// TestFileIDs compares what a pidfd tells with what this process knows of itself.
func TestFileIDs(t *testing.T) {
	all, err := NewThreads(false, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	uid, gid, ok := all.fileIDs(os.Getpid())
	if !ok {
		t.Skip("needs PIDFD_GET_INFO (Linux 6.13)")
	}
	if uid != os.Geteuid() || gid != os.Getegid() {
		t.Errorf("user %d group %d, want %d and %d", uid, gid, os.Geteuid(), os.Getegid())
	}
}

// TestBecome has a thread act as another user and come back. Others of the process stay who they
// are.
func TestBecome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it acts as another user")
	}
	runtime.LockOSThread() // and never unlocked: should it fail, the thread must not be used again
	func() {
		other := &Credentials{UID: 65534, GID: 65533, groups: []uint32{12345}}
		if errno := other.Become(); errno != 0 {
			t.Fatal(errno)
		}
		groups, _ := unix.Getgroups()
		euid, egid, ruid := unix.Geteuid(), unix.Getegid(), unix.Getuid()
		other.Revert()
		if euid != 65534 || egid != 65533 || ruid != 0 || !slices.Equal(groups, []int{12345}) {
			t.Errorf("it is user %d, really %d, group %d, groups %v", euid, ruid, egid, groups)
		}
		groups, _ = unix.Getgroups()
		if unix.Geteuid() != 0 || unix.Getegid() != own.GID || len(groups) != len(own.groups) || !linux.HasCapability(unix.CAP_SETUID) {
			t.Errorf("it has come back as user %d, group %d, groups %v", unix.Geteuid(), unix.Getegid(), groups)
		}
	}()
}
