package integration

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// numbersOf reads lines that say WORD... COUNT and what comes after as more of them.
func numbersOf(t *testing.T, out string) map[string]int {
	t.Helper()
	if !strings.HasSuffix(out, "end\n") {
		t.Fatalf("it did not come to an end\n%s", out)
	}
	numbers := map[string]int{}
	var words []string
	for _, field := range strings.Fields(out) {
		var n int
		if _, err := fmt.Sscanf(field, "%d", &n); err != nil {
			words = append(words, field)
			continue
		}
		numbers[strings.Join(words, " ")] = n
		words = nil
	}
	return numbers
}

// TestSwapRaces has one thread put other files where two others are connecting. None of them should
// be taken away again, and natively none is. upconv looks whether the descriptor is still the same
// as late as it can, but the kernel replaces whatever is there some microseconds later
// (docs/running.md): how often that hits is reported, and must be rare even in a program that does
// nothing else.
func TestSwapRaces(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	quiet := l.listen(serverAddr + ":0")
	hold(quiet)
	host, port := split(t, quiet.Addr().String())
	probe := compileC(t, "swap_race.c", "gcc", "-static", "-pthread")
	for _, how := range []string{"dup2", "close and open", "socket over it", "close", "registrations"} {
		t.Run(how, func(t *testing.T) {
			args := []string{probe, how, host, port, "500"}
			run := func(cmd *exec.Cmd) map[string]int {
				_, out := status(t, cmd)
				return numbersOf(t, out)
			}
			native, under := run(l.in(l.egress, args...)), run(l.under(args...))
			t.Logf("native: %v", native)
			t.Logf("upconv: %v", under)
			if under["rounds"] < 20 || how != "registrations" && under["connected"] == 0 {
				t.Errorf("nothing was connected: this test cannot tell anything")
			}
			for _, name := range []string{"wrong", "open again", "taken", "numbers", "failed", "lost", "hung up"} {
				if native[name] != 0 {
					t.Errorf("natively %q %d times: this test cannot tell anything", name, native[name])
				}
				rare := under["rounds"] / 5
				if name == "numbers" || name == "lost" {
					rare = 0
				}
				if name != "failed" && under[name] > rare { // EPOLL_CTL_MOD fails all the while that a swap takes
					t.Errorf("%q %d times in %d rounds", name, under[name], under["rounds"])
				}
			}
		})
	}
}

// TestSignalStorm counts the calls that 1,000 signals a second interrupt, with a handler that does
// not restart them.
func TestSignalStorm(t *testing.T) {
	l := newLab(t)
	l.tag(t)
	quiet := l.listen(serverAddr + ":0")
	hold(quiet)
	host, port := split(t, quiet.Addr().String())
	args := []string{compileC(t, "swap_race.c", "gcc", "-static", "-pthread"), "storm", host, port, "3000"}
	outputs := make(chan string)
	go func() {
		out, _ := l.in(l.egress, args...).CombinedOutput()
		outputs <- string(out)
	}()
	out, _ := l.under(args...).CombinedOutput()
	native, under := numbersOf(t, <-outputs), numbersOf(t, string(out))
	t.Logf("native: %v", native)
	t.Logf("upconv: %v", under)
	if native["signals"] < 1000 || under["signals"] < 1000 {
		t.Errorf("too few signals: this test cannot tell anything")
	}
	// A blocking connect may be interrupted natively, too: it waits. How often is only reported, as
	// is the rest for now.
	for _, name := range []string{"non-blocking connect with EINTR", "others with EINTR"} {
		if native[name] != 0 {
			t.Errorf("natively %q %d times: this test cannot tell anything", name, native[name])
		}
	}
	if native["other errors"] != 0 || under["other errors"] != 0 {
		t.Errorf("other errors: natively %d, under upconv %d", native["other errors"], under["other errors"])
	}
}
