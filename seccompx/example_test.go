//go:build linux

package seccompx_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/upconv/upconv/seccompx"
)

// A filter is a list of sentences, and its program can be read.
func ExampleFilter_Assemble() {
	filter := seccompx.Filter{
		Arches: []seccompx.Arch{seccompx.AMD64, seccompx.I386},
		Rules: []seccompx.Rule{
			{Syscalls: []string{"io_uring_setup"}, Do: seccompx.Errno(unix.ENOSYS)},
			{
				Syscalls: []string{"connect"},
				When:     []seccompx.Cond{seccompx.Arg(2).Low32().AtLeast(unix.SizeofSockaddrInet4)},
				Do:       seccompx.UserNotify,
			},
		},
	}
	program, err := filter.Assemble()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(program)
	// Output:
	//    0  ld [4]                               ; architecture
	//    1  jeq  #0xc000003e jt 2    jf 9        ; amd64
	//    2  ld [0]                               ; system call number
	//    3  jset #0x40000000 jt 4    jf 6        ; x32
	//    4  jeq  #0xffffffff jt 6    jf 5        ; taken over by a tracer
	//    5  ret #0x50026                         ; errno 38 (function not implemented)
	//    6  jeq  #0x2a       jt 15   jf 7        ; connect
	//    7  jeq  #0x1a9      jt 19   jf 8        ; io_uring_setup
	//    8  ret #0x7fff0000                      ; allow
	//    9  jeq  #0x40000003 jt 10   jf 14       ; i386
	//   10  ld [0]                               ; system call number
	//   11  jeq  #0x16a      jt 15   jf 12       ; connect
	//   12  jeq  #0x1a9      jt 19   jf 13       ; io_uring_setup
	//   13  ret #0x7fff0000                      ; allow
	//   14  ret #0x50026                         ; errno 38 (function not implemented)
	//   15  ld [32]                              ; argument 2, low half
	//   16  jge  #0x10       jt 17   jf 18
	//   17  ret #0x7fc00000                      ; user notify
	//   18  ret #0x7fff0000                      ; allow
	//   19  ret #0x50026                         ; errno 38 (function not implemented)
}

// A program opens a file that is nowhere to be found: the supervisor, which has it open, answers
// openat(2) with a descriptor. Everything else that the program opens, it opens itself.
func ExampleListener_AddFD_openat() {
	secret, err := os.CreateTemp("", "secret")
	if err != nil {
		log.Fatal(err)
	}
	defer secret.Close()
	os.Remove(secret.Name()) // no path leads there any more
	fmt.Fprintln(secret, "open sesame")
	secret.Seek(0, io.SeekStart)

	filter := seccompx.Filter{Rules: []seccompx.Rule{{Syscalls: []string{"openat"}, Do: seccompx.UserNotify}}}
	program, err := filter.Assemble()
	if err != nil {
		log.Fatal(err)
	}

	supervise := func(listener *seccompx.Listener) {
		defer listener.Close()
		var n seccompx.Notification
		for {
			if err := listener.Receive(&n); errors.Is(err, seccompx.ErrGone) {
				return
			} else if err != nil {
				log.Fatal(err)
			}
			path, err := stringAt(n.PID, n.Data.Args[1])
			if err == nil {
				err = listener.Valid(n.ID) // it was this target whose memory that was
			}
			switch {
			case err == nil && path == "/vault/word":
				_, err = listener.AddFD(n.ID, seccompx.AddFD{Source: int(secret.Fd()), CloseOnExec: true, Send: true})
			default:
				err = listener.Continue(n.ID)
			}
			if err != nil && !errors.Is(err, seccompx.ErrTargetGone) {
				log.Fatal(err)
			}
		}
	}

	cat := exec.Command("cat", "/vault/word")
	cat.Stdout, cat.Stderr = os.Stdout, os.Stderr
	done := make(chan struct{})
	seccompx.OnOwnThread(func() {
		listener, err := seccompx.Install(program, seccompx.InstallOptions{NoNewPrivs: true, Listener: true})
		if err != nil {
			log.Fatal(err)
		}
		go func() { // before Start: this thread is under the filter too
			defer close(done)
			supervise(listener)
		}()
		if err := cat.Start(); err != nil {
			log.Fatal(err)
		}
	})
	if err := cat.Wait(); err != nil {
		log.Fatal(err)
	}
	<-done
	// Output: open sesame
}

// stringAt reads a C string out of another thread's memory, page by page, for the next page may not
// exist.
func stringAt(pid uint32, address uint64) (string, error) {
	const page = 4096
	var s strings.Builder
	for s.Len() < unix.PathMax {
		buf := make([]byte, page-address%page)
		local := []unix.Iovec{{Base: &buf[0]}}
		local[0].SetLen(len(buf))
		remote := []unix.RemoteIovec{{Base: uintptr(address), Len: len(buf)}}
		n, err := unix.ProcessVMReadv(int(pid), local, remote, 0)
		if err != nil {
			return "", err
		}
		if text, _, found := strings.Cut(string(buf[:n]), "\x00"); found {
			s.WriteString(text)
			return s.String(), nil
		}
		s.Write(buf[:n])
		address += uint64(n)
	}
	return "", unix.ENAMETOOLONG
}

// A thread without any capability counts what it does with a perf event that the supervisor has
// opened for it, with the supervisor's rights. The supervisor does not trust its wish, and opens an
// event of its own choice.
func ExampleListener_AddFD_perfEventOpen() {
	filter := seccompx.Filter{Rules: []seccompx.Rule{{Syscalls: []string{"perf_event_open"}, Do: seccompx.UserNotify}}}
	program, err := filter.Assemble()
	if err != nil {
		log.Fatal(err)
	}
	supervise := func(listener *seccompx.Listener) {
		defer listener.Close()
		var n seccompx.Notification
		for {
			if err := listener.Receive(&n); errors.Is(err, seccompx.ErrGone) {
				return
			} else if err != nil {
				log.Fatal(err)
			}
			event := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
			if os.Geteuid() != 0 {
				event.Bits |= unix.PerfBitExcludeKernel // all that an ordinary user may ask for
			}
			fd, err := unix.PerfEventOpen(&event, int(n.PID), -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if err != nil {
				err = listener.Respond(n.ID, 0, int(err.(unix.Errno)))
			} else {
				_, err = listener.AddFD(n.ID, seccompx.AddFD{Source: fd, CloseOnExec: true, Send: true})
				unix.Close(fd) // the target has its own now
			}
			if err != nil && !errors.Is(err, seccompx.ErrTargetGone) {
				log.Fatal(err)
			}
		}
	}

	done := make(chan struct{})
	seccompx.OnOwnThread(func() {
		listener, err := seccompx.Install(program, seccompx.InstallOptions{NoNewPrivs: true, Listener: true})
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer close(done)
			supervise(listener)
		}()

		var none [2]unix.CapUserData
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			log.Fatal(err)
		}
		wish := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
		fd, err := unix.PerfEventOpen(&wish, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			fmt.Println("perf_event_open:", err)
			return
		}
		defer unix.Close(fd)
		var count uint64 // ns of CPU time
		for count == 0 {
			if _, err := unix.Read(fd, (*[8]byte)(unsafe.Pointer(&count))[:]); err != nil {
				fmt.Println("read:", err)
				return
			}
		}
		fmt.Println("the clock of this thread runs")
	})
	<-done
	// Output: the clock of this thread runs
}
