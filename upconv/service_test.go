package upconv

import (
	"testing"
)

// TestReadService checks which environments have upconv hand on messages, and take systemd for its
// parent.
func TestReadService(t *testing.T) {
	for _, test := range []struct {
		name    string
		environ []string
		want    service
	}{
		{"nothing", []string{"PATH=/bin"}, service{}},
		{"started by systemd", []string{"NOTIFY_SOCKET=/run/systemd/notify", "SYSTEMD_EXEC_PID=7"}, service{"/run/systemd/notify", true}},
		{"started by systemd's script", []string{"NOTIFY_SOCKET=/run/systemd/notify", "SYSTEMD_EXEC_PID=8"}, service{}},
		{"started by another manager", []string{"NOTIFY_SOCKET=@name"}, service{"@name", false}},
		{"no notifications", []string{"SYSTEMD_EXEC_PID=7"}, service{"", true}},
		{"another kind of address", []string{"NOTIFY_SOCKET=vsock:2:1234", "SYSTEMD_EXEC_PID=7"}, service{"", true}},
		{"the first of two", []string{"NOTIFY_SOCKET=/a", "NOTIFY_SOCKET=/b"}, service{"/a", false}},
	} {
		if got := readService(test.environ, 7); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

// TestRenameMainPID checks that the command's pid becomes the front process's, and nothing else
// changes.
func TestRenameMainPID(t *testing.T) {
	for _, test := range []struct{ message, want string }{
		{"READY=1", "READY=1"},
		{"MAINPID=20", "MAINPID=10"},
		{"MAINPID=20\nREADY=1\n", "MAINPID=10\nREADY=1\n"},
		{"STATUS=x\nMAINPIDFDID=5\nMAINPID=20\n", "STATUS=x\nMAINPID=10\n"},
		{"MAINPID=200\nMAINPIDFDID=5", "MAINPID=200\nMAINPIDFDID=5"},
		{"STATUS=MAINPID=20", "STATUS=MAINPID=20"},
		{"", ""},
	} {
		if got := string(renameMainPID([]byte(test.message), 20, 10)); got != test.want {
			t.Errorf("%q becomes %q, want %q", test.message, got, test.want)
		}
	}
}

// TestIsWithin checks which control groups are of one service.
func TestIsWithin(t *testing.T) {
	const unified, hybrid = "0::/system.slice/a.service\n", "3:cpu:/x\n1:name=systemd:/system.slice/a.service\n0::/\n"
	for _, test := range []struct {
		theirs, ours string
		want         bool
	}{
		{unified, unified, true},
		{"0::/system.slice/a.service/b\n", unified, true},
		{"0::/system.slice/a.service2\n", unified, false},
		{"0::/system.slice\n", unified, false},
		{"1:name=systemd:/system.slice/a.service/sub\n0::/any\n", hybrid, true},
		{"3:cpu:/x\n1:name=systemd:/system.slice/b.service\n0::/\n", hybrid, false},
		{"", unified, false}, {unified, "", false},
	} {
		if got := isWithin(test.theirs, test.ours); got != test.want {
			t.Errorf("isWithin(%q, %q) = %v", test.theirs, test.ours, got)
		}
	}
}
