package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	columns = 80
	margin  = "   "
)

// screen writes what the demo shows: plain text, with a little emphasis on a terminal.
type screen struct {
	w      io.Writer
	styled bool
	err    error // the first from w
}

// style is the parameters of a terminal's SGR sequence, ECMA-48.
type style string

const (
	plain style = ""
	bold  style = "1"
	faint style = "2"
	red   style = "31"
	green style = "32"
)

func newScreen(w io.Writer) *screen {
	s := &screen{w: w}
	if f, ok := w.(*os.File); ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		s.styled = err == nil
	}
	return s
}

func (s *screen) in(how style, text string) string {
	if !s.styled || how == plain || text == "" {
		return text
	}
	return "\x1b[" + string(how) + "m" + text + "\x1b[0m"
}

func (s *screen) line(format string, args ...any) {
	if _, err := fmt.Fprintf(s.w, format+"\n", args...); err != nil && s.err == nil {
		s.err = err
	}
}

// heading begins a step.
func (s *screen) heading(step int, text string) {
	s.line("%s\n", s.in(bold, fmt.Sprintf("%d. %s", step, text)))
}

// para is a paragraph of explanation.
func (s *screen) para(text string) { s.block(faint, text); s.line("") }

// said is what a program wrote.
func (s *screen) said(how style, text string) { s.block(how, text); s.line("") }

// block writes text inside the margins, folded where it is too long.
func (s *screen) block(how style, text string) {
	for text := range strings.Lines(strings.TrimRight(text, "\n")) {
		for _, line := range fold(strings.TrimRight(text, "\r\n"), columns-len(margin)) {
			s.line("%s%s", margin, s.in(how, printable(line)))
		}
	}
}

// command is a command line as a user would type it. The words of one argument go together on a
// line.
func (s *screen) command(lines ...string) {
	for i, line := range lines {
		indent, more := "$ ", ""
		if i > 0 {
			indent = "    "
		}
		if i < len(lines)-1 {
			more = ` \`
		}
		s.line("%s%s", margin, s.in(bold, indent+line+more))
	}
}

// fold breaks a line at spaces so that no part is longer than width, unless one word is.
func fold(line string, width int) (folded []string) {
	for utf8.RuneCountInString(line) > width {
		end := 0 // of what fits, in bytes
		for n := 0; n < width; n++ {
			_, size := utf8.DecodeRuneInString(line[end:])
			end += size
		}
		at := strings.LastIndexByte(line[:end+1], ' ')
		if at <= 0 {
			if at = strings.IndexByte(line[1:], ' ') + 1; at == 0 {
				break
			}
		}
		folded = append(folded, strings.TrimRight(line[:at], " "))
		line = strings.TrimLeft(line[at:], " ")
	}
	return append(folded, line)
}

// printable keeps another program's output from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return utf8.RuneError
		}
		return r
	}, text)
}
