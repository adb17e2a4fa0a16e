package integration

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
)

// TestFTPControl has lftp log in and talk over its control connection. Its data connections need an
// address of the egress to be bound to, which nothing allows.
func TestFTPControl(t *testing.T) {
	forEachWay(t, func(t *testing.T, w *caseWay) {
		listener := w.listen(serverAddr + ":0")
		var noops atomic.Int32
		each(listener, func(conn net.Conn) { answerFTP(conn, &noops) })
		host, port := split(t, listener.Addr().String())
		script := fmt.Sprintf("set net:timeout 10; set net:max-retries 1; set ftp:ssl-allow no; open -u somebody,secret -p %s ftp://%s; "+
			"quote NOOP; quote NOOP; quote PWD; close; bye", port, host)
		code, out := status(t, w.upconv([]string{"--log-level", "info"}, needProgram(t, "lftp"), "--norc", "-c", script))
		if code != 0 || !strings.Contains(out, `"/home"`) || noops.Load() != 2 {
			t.Errorf("status %d, %d commands arrived\n%s", code, noops.Load(), out)
		}
	})
}

// answerFTP is an FTP server (RFC 959) that only talks. It counts NOOP.
func answerFTP(conn net.Conn, noops *atomic.Int32) {
	say := func(line string) { fmt.Fprint(conn, line+"\r\n") }
	say("220 ready")
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		command, _, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		switch strings.ToUpper(command) {
		case "USER":
			say("331 password?")
		case "PASS":
			say("230 welcome")
		case "PWD":
			say(`257 "/home"`)
		case "NOOP":
			noops.Add(1)
			say("200 ok")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("502 not here")
		}
	}
}
