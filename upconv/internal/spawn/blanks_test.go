package spawn

import (
	"os"
	"strconv"
	"testing"
)

// TestFillBlanks checks that variables which name one process name another one then, and no others
// do.
func TestFillBlanks(t *testing.T) {
	me, inode := os.Getpid(), pidfdInode(os.Getpid())
	own := strconv.Itoa(me)
	report, unmap, err := NewReport()
	if err != nil {
		t.Fatal(err)
	}
	defer unmap()
	p := &Plan{Report: report}
	p.Blanks = Blanks([]string{"LISTEN_PID=" + own, "A=" + own, "WATCHDOG_PID=1", "LISTEN_PIDFDID=" + inode, "SYSTEMD_EXEC_PID=" + own + "0",
		"NOTIFY_SOCKET=/run/systemd/notify", "LISTEN_PID=" + own}, me, true)
	p.FillBlanks(1, "/n")
	want := map[int]string{0: "LISTEN_PID=1", 3: "LISTEN_PIDFDID=" + pidfdInode(1), 5: "NOTIFY_SOCKET=/n", 6: "LISTEN_PID=1"}
	if len(p.Blanks) != len(want) {
		t.Errorf("blanks are %v, want those of %v", p.Blanks, want)
	}
	for i, b := range p.Blanks {
		text := report.variables[i][:]
		for n := range text {
			if text[n] == 0 {
				text = text[:n]
				break
			}
		}
		if string(text) != want[b.entry] {
			t.Errorf("entry %d becomes %q, want %q", b.entry, text, want[b.entry])
		}
	}
}
