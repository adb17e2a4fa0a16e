package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A manager is a systemd of the test's own: the first process of a PID namespace, with network,
// mounts and a control group of its own. It can write to nothing but its directory and what is
// mounted for it.
type manager struct {
	t   *testing.T
	dir string // everybody may write there; units are in units/
	pid int
}

// managerScript starts systemd. $1 is its directory, $2 the name of its control group.
const managerScript = `set -e
mount -t cgroup2 none "$1/cgroup"
mkdir "$1/cgroup/$2"
echo $$ > "$1/cgroup/$2/cgroup.procs"
umount "$1/cgroup"
exec unshare -pfmCuin --kill-child --propagation private sh -c '
set -e
cut -d" " -f4 /proc/self/stat > "$1/pid.new"
mount -o remount,ro,bind /
mount --bind "$1" "$1"
mount -o remount,rw,bind "$1"
mount -t tmpfs none /run
mount -t tmpfs none /dev/shm
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
mount -t tmpfs none /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount --bind /dev/null /dev/console
mkdir /run/systemd
ip link set lo up
ip address add 203.0.113.10/32 dev lo
mv "$1/pid.new" "$1/pid"
export container=upconv-test SYSTEMD_UNIT_PATH="$1/units"
exec "$2" --system --log-target=null
' sh "$1" "$3"
`

// systemd is the program.
const systemd = "/lib/systemd/systemd"

// newManager prepares a systemd, which starts when its units have been written.
func newManager(t *testing.T) *manager {
	t.Helper()
	needRealRoot(t, "it starts systemd in a control group")
	if _, err := os.Stat(systemd); err != nil {
		skip(t, "needs systemd: %v", err)
	}
	needProgram(t, "systemctl")
	m := &manager{t: t, dir: publicDir(t)}
	for _, sub := range []string{"cgroup", "units"} {
		if err := os.Mkdir(filepath.Join(m.dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.unit("default.target", "[Unit]", "DefaultDependencies=no")
	return m
}

// start starts systemd, which ends with the test.
func (m *manager) start() {
	t := m.t
	t.Helper()
	group := fmt.Sprintf("upconv-test-%d-%d", os.Getpid(), labs.Add(1))
	t.Cleanup(func() { m.removeGroup(group) })
	cmd := exec.Command(needProgram(t, "unshare"), "-m", "--propagation", "private", "sh", "-c", managerScript, "sh", m.dir, group, systemd)
	errs := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = errs, errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill() // and so its child, which is systemd
		<-ended
	})
	eventually(t, "systemd to start", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("systemd does not start: %v\n%s", err, errs)
		default:
		}
		text, err := os.ReadFile(m.dir + "/pid")
		if err != nil {
			return false
		}
		m.pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return m.systemctl("is-active", "default.target").Run() == nil
	})
}

// removeGroup removes a control group and those below it, in which nobody may be left.
func (m *manager) removeGroup(name string) {
	m.t.Helper()
	const script = `mount -t cgroup2 none "$1/cgroup" && find "$1/cgroup/$2" -depth -type d -exec rmdir {} +`
	var out []byte
	eventually(m.t, "the control group "+name+" to be empty", func() (done bool) {
		var err error
		out, err = exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", m.dir, name).CombinedOutput()
		return err == nil || bytes.Contains(out, []byte("No such file"))
	})
}

// unit writes a unit file.
func (m *manager) unit(name string, lines ...string) {
	m.t.Helper()
	text := strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(filepath.Join(m.dir, "units", name), []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// in prepares a command to be run where systemd is.
func (m *manager) in(args ...string) *exec.Cmd {
	return command(m.t, "nsenter", append([]string{"-t", strconv.Itoa(m.pid), "-a"}, args...)...)
}

func (m *manager) systemctl(args ...string) *exec.Cmd {
	return m.in(append([]string{"systemctl"}, args...)...)
}

// show returns properties of a unit, one a line.
func (m *manager) show(unit string, properties ...string) string {
	m.t.Helper()
	return output(m.t, m.systemctl("show", "-p", strings.Join(properties, ","), unit))
}
